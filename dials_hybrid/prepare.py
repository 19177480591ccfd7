"""What stands between files and a refinement: checks, defaults, and models turned into plain arrays."""

from __future__ import annotations

import logging

import numpy as np
import torch

from libtbx import Auto

from dials_hybrid.data import Dataset
from dials_hybrid.io.checks import check_cell, check_setting
from dials_hybrid.io.experiments import check_experiment, read_sweep
from dials_hybrid.io.reflections import lorentz_corrected, read_reflections, rocking_half_width
from dials_hybrid.model.parallel import number_of_processors, processes
from dials_hybrid.refine.state import Settings
from dials_hybrid.rocking.measurement import Measurement

logger = logging.getLogger("dials.hybrid_refine.prepare")


def check_device(device: str) -> None:
    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither cpu nor cuda")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device} cannot be used here: {reason}") from error


def check_experiments(experiments, structure) -> None:
    """Raise ValueError if these are not electron sweeps of a crystal with the cell of `structure`."""
    if len(experiments) == 0:
        raise ValueError("there are no experiments")
    for index, experiment in enumerate(experiments):
        name = f"experiment {index}"
        check_experiment(experiment, name)
        check_cell(structure, experiment.crystal, name)
    wavelengths = [experiment.beam.get_wavelength() for experiment in experiments]
    if max(wavelengths) > 1.001 * min(wavelengths):
        raise ValueError("the experiments have different wavelengths: refine them separately")


def measured(experiments, table, params) -> Measurement:
    """The usable reflections of a table in the geometry of their experiments.

    Raises:
        ValueError: the table lacks something or has no usable row.
    """
    g_max = params.beams.g_max
    d_min = [d for d in (params.data.d_min, None if g_max is Auto else 1.0 / g_max) if d]
    sweeps = [read_sweep(experiment) for experiment in experiments]
    reflections, rows = read_reflections(
        table,
        sweeps,
        column=params.data.intensity,
        half_width=[
            _half_width(experiment, table, index, params) for index, experiment in enumerate(experiments)
        ],
        min_partiality=params.data.min_partiality,
        min_zeta=params.data.min_zeta,
        d_min=max(d_min, default=None),
        d_max=params.data.d_max,
    )
    wavelength = float(np.mean([experiment.beam.get_wavelength() for experiment in experiments]))
    return Measurement(tuple(sweeps), reflections, wavelength, len(table), rows.counts)


def _half_width(experiment, table, index: int, params) -> float:
    """Half of the rocking curve at |zeta| = 1 [degree]."""
    if params.data.rocking_width is not Auto:
        return params.data.rocking_width
    try:
        return float(np.max(experiment.profile.delta_m(deg=True)))
    except (AttributeError, TypeError):  # dials.combine_experiments leaves it behind
        half_width = rocking_half_width(table, index, experiment.scan.get_oscillation()[1])
    if half_width is None:
        raise ValueError(
            f"experiment {index} has no profile model and its reflections have no boxes (bbox) to say how "
            "wide the rocking curves are: set data.rocking_width"
        )
    logger.info(
        f"Experiment {index} has no profile model: half of a rocking curve is taken to be {half_width:.2f} "
        "degree wide, from the boxes of integration"
    )
    return half_width


def resolve_settings(params, sample: Dataset) -> Settings:
    """Resolve every Auto."""
    steps, observations = sample.steps, sample.observations
    middle = (observations.first + observations.last) // 2
    g = torch.einsum("mij,mj->mi", steps.basis[middle], observations.hkl.double()).norm(dim=-1)
    scan = max(float(steps.weight[steps.crystal == crystal].sum()) for crystal in range(steps.n_crystals))
    network = params.thickness.network
    return Settings(
        g_max=_auto(params.beams.g_max, max(1.8, 1.1 * float(g.max()))),
        sg_max=params.beams.sg_max,
        segment_length=params.beams.segment_length,
        rocking_step=_auto(params.beams.rocking_step, None),
        mosaic_points=params.orientation.mosaic_points,
        mosaic_spread=params.orientation.mosaic_spread,
        tilt_nodes=_auto(params.orientation.tilt_nodes, min(12, max(2, 1 + round(scan / 20)))),
        tilt_restraint=params.orientation.restraint,
        scale_nodes=_auto(params.scale.nodes, min(8, max(2, round(scan / 12.5)))),
        thickness_model=params.thickness.model,
        thickness_maximum=_auto(params.thickness.maximum, None),
        network_hidden=network.hidden,
        network_terms=network.terms,
        network_prior=network.prior,
        instability=params.refinement.instability,
        outlier_cutoff=params.refinement.outlier_cutoff,
        free_fraction=params.data.free_fraction,
        max_cycles=params.refinement.max_cycles,
        tolerance=params.refinement.tolerance,
        seed=params.seed,
        nproc=processes(_auto(params.nproc, number_of_processors()), params.device),
        device=params.device,
    )


def _auto(value, default):
    return default if value is Auto else value


def check_amount(dataset: Dataset, n_parameters: int) -> None:
    """Raise ValueError if there is too little to refine against."""
    observations = dataset.observations
    if len(observations) <= n_parameters:
        raise ValueError(
            f"{len(observations)} observations cannot determine the {n_parameters} parameters of the "
            "structure: the log says why reflections were left out"
        )
    for crystal in range(dataset.steps.n_crystals):
        if not (observations.crystal == crystal).any():
            raise ValueError(
                f"no reflection of experiment {crystal} can be used: give its reflections, or leave out "
                "the experiment"
            )


def check_model_setting(table, dataset: Dataset, structure) -> None:
    observations = dataset.observations
    factor = lorentz_corrected(table, observations.row.numpy())
    check = check_setting(
        structure,
        observations.hkl.numpy(),
        observations.intensity.numpy() * factor,
        observations.sigma.numpy() * factor,
    )
    if check is None:
        logger.warning("Too few observed reflections to check the setting of the model")
        return
    if check.better:
        raise ValueError(
            f"the data fit the model much better when reindexed as {check.better} (correlation with "
            f"kinematical amplitudes {check.correlation[check.better]:.2f} instead of "
            f"{check.present:.2f}): run dials.reindex with change_of_basis_op={check.better}, "
            "or transform the model to the setting of the data"
        )
    logger.info(f"Correlation of merged and kinematical amplitudes: {check.present:.2f}\n")
