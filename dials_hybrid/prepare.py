"""What stands between files and a refinement: checks, defaults, and models turned into plain arrays."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import torch

from libtbx import Auto

from dials_hybrid.data import Dataset, RockingSteps
from dials_hybrid.io.checks import check_cell, check_setting
from dials_hybrid.io.experiments import check_experiment, read_sweep
from dials_hybrid.io.pets import PetsData, usable_reflections
from dials_hybrid.io.reflections import read_reflections, rocking_half_width
from dials_hybrid.io.rocking_curves import read_rocking_curves
from dials_hybrid.machine import of_this_machine
from dials_hybrid.model.surface import normals, stage_normal
from dials_hybrid.refine.state import Settings
from dials_hybrid.rocking.frames import VirtualFrames
from dials_hybrid.rocking.measurement import Measurement, joined, unmirrored

logger = logging.getLogger("dials.hybrid_refine.prepare")

_HALF_CURVE = 0.4  # [degree] from where a reflection crosses the Ewald sphere to the end of its rocking curve
_ABSORPTION_PRIOR = 0.5  # standard deviation of the factor on the absorptive potential about 1


def check_experiments(experiments, structure) -> None:
    """Raise ValueError if these are not electron sweeps of a crystal with the cell of `structure`."""
    for index, experiment in enumerate(experiments):
        name = f"experiment {index}"
        check_experiment(experiment, name)
        check_cell(structure, experiment.crystal.get_unit_cell().parameters(), name)
    _check_wavelengths([experiment.beam.get_wavelength() for experiment in experiments])


def _check_wavelengths(wavelengths: list[float]) -> None:
    if wavelengths and max(wavelengths) > 1.001 * min(wavelengths):
        raise ValueError("the experiments have different wavelengths: refine them separately")


def all_measured(experiments, table, virtual_frames: list[PetsData], structure, params) -> Measurement:
    """Everything that can be used: the runs of the experiments, then those of the virtual frames.

    Raises:
        ValueError: there is nothing, or it does not belong together.
    """
    check_experiments(experiments, structure)
    parts = [measured(experiments, table, params)] if len(experiments) else []
    for data in virtual_frames:
        check_cell(structure, data.cell, data.filename)
        parts.append(measured_frames(data, params))
    if not parts:
        raise ValueError("there are no experiments")
    _check_wavelengths([part.wavelength for part in parts])
    measurement = joined(parts)
    return unmirrored(measurement) if params.data.flip_images else measurement


def measured_frames(data: PetsData, params) -> Measurement:
    """The usable reflections of a .cif_pets file.

    Raises:
        ValueError: there is none.
    """
    reflections, rows = usable_reflections(
        data,
        rsg=params.data.rsg,
        dsg=params.data.dsg,
        d_min=_d_min(params),
        d_max=params.data.d_max,
        frames=_chosen_frames(params.data.frames, data),
    )
    run = replace(data.frames, used=np.isin(np.arange(len(data.frames)), reflections.frame))
    if params.data.frame_window == "curve" or (params.data.frame_window == "auto" and data.whole_curves):
        run = replace(run, margin=_margin(run, params.data.rsg))
    elif not run.precession:
        run = replace(run, blurred=_blurred(params, True))
    if run.whole_curves:
        frame = reflections.frame
        reflections = replace(
            reflections,
            angle=run.crossing(frame, reflections.hkl, data.wavelength),
            half_width=run.semi_angle[frame] + run.margin,
        )
    return Measurement((run,), reflections, data.wavelength, len(data), rows.counts)


def _margin(run: VirtualFrames, rsg: float) -> float:
    """How far rocking curves are followed beyond the ends of a frame [degree].

    A reflection that is let in crosses the Ewald sphere (1 - rsg) semi-angles inside at least.
    """
    return max(0.0, _HALF_CURVE - (1.0 - rsg) * float(run.semi_angle.min()))


def _blurred(params, cut: bool) -> bool:
    """Whether the mosaic spread acts about the rotation axis too, where rocking curves are cut or not."""
    directions = params.orientation.mosaic_directions
    return params.orientation.mosaic_points > 1 and (directions == "both" or (directions == "auto" and cut))


def _d_min(params) -> float | None:
    """The high-resolution limit: no observation is beyond the beams [A]."""
    g_max = params.beams.g_max
    return max((d for d in (params.data.d_min, None if g_max is Auto else 1.0 / g_max) if d), default=None)


def _chosen_frames(chosen: list[str] | None, data: PetsData) -> frozenset[str] | None:
    """The frames of data.frames: "1-20,25"; None for all."""
    if chosen is None:
        return None
    wanted: set[str] = set()
    for part in ",".join(chosen).split(","):
        first, dash, last = part.strip().partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            numbered = (name for name in data.names if name.isdecimal())
            wanted.update(name for name in numbered if int(first) <= int(name) <= int(last))
        else:
            wanted.add(first + dash + last)
    if not wanted & set(data.names):
        raise ValueError(
            f"{data.filename} has no frame of data.frames={','.join(chosen)}, but those from "
            f"{data.names[0]} to {data.names[-1]}"
        )
    return frozenset(wanted)


def measured(experiments, table, params) -> Measurement:
    """The usable reflections of a table in the geometry of their experiments.

    Raises:
        ValueError: the table lacks something or has no usable row.
    """
    blurred = _blurred(params, params.data.intensity == "images")
    sweeps = [replace(read_sweep(experiment), blurred=blurred) for experiment in experiments]
    limits = {"min_zeta": params.data.min_zeta, "d_min": _d_min(params), "d_max": params.data.d_max}
    if params.data.intensity == "images":
        sweeps = [replace(sweep, by_image=True) for sweep in sweeps]
        reflections, rows = read_rocking_curves(table, sweeps, **limits)
    else:
        reflections, rows = read_reflections(
            table,
            sweeps,
            column=params.data.intensity,
            half_width=[
                _half_width(experiment, table, index, params) for index, experiment in enumerate(experiments)
            ],
            min_partiality=params.data.min_partiality,
            **limits,
        )
    wavelength = float(np.mean([experiment.beam.get_wavelength() for experiment in experiments]))
    n_rows = len(reflections) + sum(rows.counts.values())
    return Measurement(tuple(sweeps), reflections, wavelength, n_rows, rows.counts)


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
    scans = [steps.angle[steps.crystal == crystal] for crystal in range(steps.n_crystals)]
    scan = max(float(angle.max() - angle.min()) for angle in scans) + float(steps.weight.max())
    network = params.thickness.network
    return Settings(
        g_max=_auto(params.beams.g_max, max(1.8, 1.1 * float(g.max()))),
        sg_max=params.beams.sg_max,
        segment_length=params.beams.segment_length,
        weak_sg_max=params.beams.weak_sg_max or 0.0,
        surface=_surface(params.thickness.surface, steps),
        form_factors=params.structure.form_factors,
        **_absorption(params.absorption),
        absolute_structure=params.absolute_structure == "auto",
        rocking_step=_auto(params.beams.rocking_step, _frame_step(params, sample)),
        mosaic_points=params.orientation.mosaic_points,
        mosaic_tilts=params.orientation.mosaic_tilts,
        mosaic_spread=params.orientation.mosaic_spread,
        tilt_nodes=_auto(params.orientation.tilt_nodes, min(12, max(2, 1 + round(scan / 20)))),
        tilt_restraint=params.orientation.restraint,
        scale_nodes=_auto(params.scale.nodes, min(8, max(2, round(scan / 12.5)))),
        thickness_model=params.thickness.model,
        thickness_maximum=_auto(params.thickness.maximum, None),
        network_hidden=network.hidden,
        network_terms=network.terms,
        network_prior=_auto(network.prior, None),
        gain=_auto(params.refinement.gain, None),
        instability=_auto(params.refinement.instability, None),
        floor=_auto(params.refinement.floor, None),
        outlier_cutoff=params.refinement.outlier_cutoff,
        n_displacements=steps.n_crystals - 1 if params.structure.overall_displacements else 0,
        crystal_weights=_crystal_weights(params.refinement.crystal_weights, steps.n_crystals),
        free_fraction=params.data.free_fraction,
        max_cycles=params.refinement.max_cycles,
        tolerance=params.refinement.tolerance,
        seed=params.seed,
        **of_this_machine(params.device, _auto(params.nproc, None), _auto(params.memory, None)),
        frame_tilt_restraint=params.orientation.frame_restraint,
        frame_scale_restraint=params.scale.frame_restraint,
    )


def _frame_step(params, sample: Dataset) -> float | None:
    """Rocking step of beams.frame_steps [degree]; None without it, or without frames."""
    steps, observations = sample.steps, sample.observations
    n, of_frame = params.beams.frame_steps, observations.frame >= 0
    if n is None or not of_frame.any():
        return None
    swept = torch.nn.functional.pad(steps.weight.cumsum(0), (1, 0))
    lengths = (swept[observations.last] - swept[observations.first])[of_frame]
    return float(lengths.min()) / (n * params.orientation.mosaic_points)


def _surface(texts: list[str | None], steps: RockingSteps) -> tuple[tuple[float, ...], ...] | None:
    """Direction of the surface normal of each crystal in units of its reciprocal axes; None: the beam's."""
    texts = [text for text in texts if text]
    if not texts:
        return None
    if len(texts) not in (1, steps.n_crystals):
        raise ValueError(f"thickness.surface is given {len(texts)} times for {steps.n_crystals} crystals")
    directions = []
    for crystal, text in enumerate(texts * steps.n_crystals if len(texts) == 1 else texts):
        if text.strip().lower() == "stage":
            directions.append(tuple(stage_normal(steps, crystal).tolist()))
            continue
        try:
            h, k, l_ = (float(number) for number in text.replace(",", " ").split())
        except ValueError:
            raise ValueError(f"thickness.surface={text} is neither three Miller indices nor stage") from None
        if not (math.isfinite(h + k + l_) and (h or k or l_)):
            raise ValueError(f"thickness.surface={text} is no direction")
        directions.append((h, k, l_))
    normals(torch.tensor(directions, dtype=torch.float64), steps, steps.basis)  # that it is possible
    return tuple(directions)


def _absorption(params) -> dict[str, float | None]:
    """Factor on the absorptive potential and the width of its prior."""
    if params.model == "none":
        return {"absorption": 0.0}
    refined = params.factor is Auto
    return {
        "absorption": 1.0 if refined else params.factor,
        "absorption_restraint": _ABSORPTION_PRIOR if refined else None,
    }


def _crystal_weights(weights: list[float] | None, n_crystals: int) -> tuple[float, ...]:
    if weights and len(weights) != n_crystals:
        raise ValueError(f"refinement.crystal_weights has {len(weights)} numbers for {n_crystals} crystals")
    return tuple(weights or ())


def _auto(value, default):
    return default if value is Auto else value


def check_amount(dataset: Dataset, n_parameters: int) -> None:
    """Raise ValueError if there is too little to refine against."""
    observations = dataset.observations
    n = float(observations.share.sum())
    if n <= n_parameters:
        raise ValueError(
            f"{n:.0f} observations cannot determine the {n_parameters} parameters of the "
            "structure: the log says why reflections were left out"
        )
    for crystal in range(dataset.steps.n_crystals):
        if not (observations.crystal == crystal).any():
            raise ValueError(
                f"no reflection of experiment {crystal} can be used: give its reflections, or leave out "
                "the experiment"
            )


def check_model_setting(measurement: Measurement, structure) -> None:
    """Raise ValueError if a run fits the model much better in another setting of the lattice."""
    for run in range(len(measurement.runs)):
        check = check_setting(structure, *measurement.comparable(run))
        name = f"crystal {run + 1}"
        if check is None:
            logger.warning(f"Too few observed reflections of {name} to check the setting of the model")
            continue
        if check.better:
            raise ValueError(
                f"the data of {name} fit the model much better when reindexed as {check.better} (correlation "
                f"with kinematical amplitudes {check.correlation[check.better]:.2f} instead of "
                f"{check.present:.2f}): reindex them (dials.reindex change_of_basis_op={check.better}), "
                "or transform the model to the setting of the data"
            )
        logger.info(f"Correlation of merged and kinematical amplitudes, {name}: {check.present:.2f}\n")
