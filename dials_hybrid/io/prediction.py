"""Reflection tables of simulations: where DIALS predicts reflections, and intensities put into a table."""

from __future__ import annotations

import copy

import numpy as np

from dials.algorithms.profile_model.gaussian_rs import Model
from dials.array_family import flex
from dxtbx.imageset import ImageSequence, ImageSetFactory
from dxtbx.model import ExperimentList

from dials_hybrid.io.checks import check_cell
from dials_hybrid.io.experiments import check_experiment

_N_SIGMA = 3  # widths of a rocking curve in half of the range integrated over, as in dials.integrate
_SIGMA_B = 0.02  # [degree] of a spot on the detector; no simulation looks at it
_SIMULATED = ("predicted", "integrated_sum", "integrated_prf", "indexed", "observed")


def check_predictable(experiments, structure) -> None:
    """Raise ValueError if these are not electron sweeps, with a detector, of a crystal like `structure`."""
    if len(experiments) == 0:
        raise ValueError("there are no experiments")
    for index, experiment in enumerate(experiments):
        name = f"experiment {index}"
        check_experiment(experiment, name)
        if experiment.detector is None:
            raise ValueError(f"{name} has no detector: run dials.integrate first")
        check_cell(structure, experiment.crystal.get_unit_cell().parameters(), name)
    wavelengths = [experiment.beam.get_wavelength() for experiment in experiments]
    if max(wavelengths) > 1.001 * min(wavelengths):
        raise ValueError("the experiments have different wavelengths: simulate them separately")


def with_rocking_width(experiments, half_width: float | None) -> ExperimentList:
    """A copy of the experiments whose profile models have this delta_m [degree]; None: as it is.

    Raises:
        ValueError: an experiment has no profile model and half_width is None.
    """
    result = ExperimentList()
    for index, experiment in enumerate(experiments):
        experiment = copy.copy(experiment)
        if half_width is not None:
            sigma_b = _SIGMA_B if experiment.profile is None else experiment.profile.sigma_b(deg=True)
            sigma_b = float(np.max(sigma_b))
            experiment.profile = Model(None, _N_SIGMA, sigma_b, half_width / _N_SIGMA, deg=True)
        elif experiment.profile is None:
            raise ValueError(
                f"experiment {index} has no profile model to say how wide the rocking curves are: set "
                "rocking_width"
            )
        result.append(experiment)
    return result


def predicted(experiments, d_min: float | None) -> flex.reflection_table:
    """All reflections that DIALS predicts, with boxes, zeta, partiality, d and Lorentz factor.

    Args:
        d_min: resolution limit [A]; None: of the circle within the detector.

    Raises:
        ValueError: there are none.
    """
    if d_min is None:
        d_min = min(e.detector.get_max_inscribed_resolution(e.beam.get_s0()) for e in experiments)
    table = flex.reflection_table.from_predictions_multi(_with_images(experiments), dmin=d_min)
    table.compute_d(experiments)
    table = table.select(table["d"] >= d_min)  # the predictor goes beyond
    if len(table) == 0:
        raise ValueError(f"DIALS predicts no reflection to {d_min:.2f} A for these experiments")
    table.compute_zeta_multi(experiments)
    table.compute_bbox(experiments)
    table.compute_partiality(experiments)
    table.compute_corrections(experiments)
    return table


def _with_images(experiments) -> ExperimentList:
    """Copies that name images, for without them DIALS predicts as for stills; no image is read."""
    result = ExperimentList()
    for experiment in experiments:
        if not isinstance(experiment.imageset, ImageSequence):
            experiment = copy.copy(experiment)
            first, last = experiment.scan.get_image_range()
            experiment.imageset = ImageSetFactory.make_sequence(
                "simulated_#####.img",
                list(range(first, last + 1)),
                check_format=False,
                beam=experiment.beam,
                detector=experiment.detector,
                goniometer=experiment.goniometer,
                scan=experiment.scan,
            )
        result.append(experiment)
    return result


def blank(table: flex.reflection_table) -> flex.reflection_table:
    """The table with intensities of 1 and the flags of integrated reflections, shoeboxes left out."""
    table = table.copy()
    if "shoebox" in table:
        del table["shoebox"]
    ones = np.ones(len(table))
    table["flags"] = flex.size_t(len(table), 0)
    everything = flex.bool(len(table), True)
    for flag in _SIMULATED:
        table.set_flags(everything, getattr(table.flags, flag))
    return with_intensities(table, ones, ones)


def with_intensities(
    table: flex.reflection_table, intensity: np.ndarray, sigma: np.ndarray
) -> flex.reflection_table:
    """The table with these summed intensities, which stand for the profile-fitted ones, too."""
    table = table.copy()
    for kind in ("sum", "prf"):
        table[f"intensity.{kind}.value"] = flex.double(np.ascontiguousarray(intensity))
        table[f"intensity.{kind}.variance"] = flex.double(np.ascontiguousarray(sigma**2))
    table["xyzobs.px.value"] = table["xyzcal.px"]
    table["xyzobs.mm.value"] = table["xyzcal.mm"]
    return table
