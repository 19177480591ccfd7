"""Dynamical refinement of DIALS data, as a library: `HybridRefinement` and `run_hybrid_refine`."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from libtbx import Auto

from dials.util import progress

from dials_hybrid.data import Dataset
from dials_hybrid.io.checkpoint import read_checkpoint, write_json
from dials_hybrid.io.checks import check_cell, check_setting
from dials_hybrid.io.constraints import Constraints, constraints
from dials_hybrid.io.experiments import (
    check_experiment,
    read_sweep,
    refined_experiments,
    rocking_steps,
)
from dials_hybrid.io.reflections import (
    combine_tables,
    lorentz_corrected,
    output_table,
    read_observations,
    rocking_half_width,
)
from dials_hybrid.io.structure import (
    atomic_model,
    prepare_structure,
    read_structure,
    updated_structure,
)
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import mosaic_deviates
from dials_hybrid.model.parallel import number_of_processors, processes
from dials_hybrid.phil import check_values, phil_scope
from dials_hybrid.refine.protocol import Outcome, Protocol
from dials_hybrid.refine.state import Inputs, Settings, State
from dials_hybrid.report import tables
from dials_hybrid.result import Result, figures, refined_parameters, thickness_result

logger = logging.getLogger("dials.hybrid_refine.algorithm")

_CHECKPOINT_FORMAT = "dials.hybrid_refine checkpoint"
# Settings that give a checkpoint's numbers their meaning, and the parameters behind them.
_SAME_ON_RESUME = {
    "tilt_nodes": "orientation.tilt_nodes",
    "mosaic_points": "orientation.mosaic_points",
    "scale_nodes": "scale.nodes",
    "network_hidden": "thickness.network.hidden",
    "network_terms": "thickness.network.terms",
    "free_fraction": "data.free_fraction",
    "seed": "seed",
}
_STAGE_TITLES = {
    "scan": "Thickness scan",
    "orientation": "Orientation, mosaicity, thickness and scale",
    "joint": "Structure, orientation, thickness and scale",
    "neural": "The same, with the network's thickness distribution",
    "final": "Final cycles in double precision",
}


class HybridRefinement:
    """A dynamical refinement of one structure against one or several DIALS experiments.

    Example::

        refinement = HybridRefinement.from_files(["integrated.expt"], ["integrated.refl"], "model.cif")
        result = refinement.run()
        print(result.r1_obs)
        result.xray_structure.show_scatterers()

    Args:
        experiments: dxtbx ExperimentList.
        reflections: a reflection table, or one for each experiment.
        xray_structure: cctbx xray.structure, the start model.
        params: extract of `dials_hybrid.phil.phil_scope`; None for its defaults.
    """

    def __init__(self, experiments, reflections, xray_structure, params=None):
        self.experiments = experiments
        self.reflections = reflections
        self.xray_structure = xray_structure
        self.params = params or phil_scope.extract()

    @classmethod
    def from_files(cls, experiments, reflections, structure, params=None) -> HybridRefinement:
        """Read .expt and .refl files (lists of names) and a structure (.cif, .ins, .res, .pdb).

        Raises:
            ValueError: a file is missing or cannot be read.
        """
        from dials.array_family import flex
        from dxtbx.model.experiment_list import ExperimentList

        expt, tables = ExperimentList(), []
        for name in experiments:
            try:
                expt.extend(ExperimentList.from_file(str(name), check_format=False))
            except Exception as error:
                raise ValueError(f"cannot read experiments from {name}: {error}") from error
        for name in reflections:
            try:
                tables.append(flex.reflection_table.from_file(str(name)))
            except Exception as error:
                raise ValueError(f"cannot read reflections from {name}: {error}") from error
        return cls(expt, tables, read_structure(structure), params)

    def run(self) -> Result:
        """Refine; see `run_hybrid_refine`."""
        return run_hybrid_refine(self.experiments, self.reflections, self.xray_structure, self.params)


def run_hybrid_refine(experiments, reflections, structure, params) -> Result:
    """Refine `structure` against the integrated intensities of `reflections`.

    Args:
        experiments: dxtbx ExperimentList.
        reflections: a reflection table or a list of them.
        structure: cctbx xray.structure.
        params: extract of `dials_hybrid.phil.phil_scope`.

    Raises:
        ValueError: the input cannot be refined; the message says why, in one sentence.
    """
    started = time.time()
    torch.set_num_threads(1)
    check_values(params)
    _check_device(params.device)
    _check_inputs(experiments, structure)
    table = combine_tables(reflections, experiments)
    structure = prepare_structure(
        structure,
        adp=params.structure.adp,
        ions=params.structure.ions,
        hydrogens=params.structure.hydrogens,
        refine_occupancies=params.structure.refine_occupancies,
    )
    free = constraints(structure)
    inputs = _inputs(experiments, table, structure, free, params)
    sample = inputs.dataset(1.0, 1)
    settings = _settings(params, sample)
    logger.info(tables.input_table(sample.n_rows, len(sample.observations), sample.rejected))
    _check_amount(sample, len(inputs.names))
    _check_setting(table, sample, structure)
    seconds, outcome = _run_protocol(inputs, settings, params)
    seconds["total"] = time.time() - started
    return _result(experiments, table, structure, free, outcome, settings, seconds)


# ------------------------------------------------------------------------------------ input


def _check_inputs(experiments, structure) -> None:
    if len(experiments) == 0:
        raise ValueError("there are no experiments")
    for index, experiment in enumerate(experiments):
        name = f"experiment {index}"
        check_experiment(experiment, name)
        check_cell(structure, experiment.crystal, name)
    wavelengths = [experiment.beam.get_wavelength() for experiment in experiments]
    if max(wavelengths) > 1.001 * min(wavelengths):
        raise ValueError("the experiments have different wavelengths: refine them separately")


def _inputs(experiments, table, structure, free: Constraints, params) -> Inputs:
    sweeps = [read_sweep(experiment) for experiment in experiments]
    half_width = [
        _half_width(experiment, table, index, params) for index, experiment in enumerate(experiments)
    ]
    wavelength = float(np.mean([experiment.beam.get_wavelength() for experiment in experiments]))
    g_max = params.beams.g_max
    d_min = [d for d in (params.data.d_min, None if g_max is Auto else 1.0 / g_max) if d]

    def dataset(step: float, mosaic_points: int) -> Dataset:
        step = min(step, 0.25 * min(half_width))  # however thin the crystal
        steps = rocking_steps(sweeps, step, lambda n: mosaic_deviates(n, mosaic_points))
        observations, rows = read_observations(
            table,
            sweeps,
            steps,
            column=params.data.intensity,
            half_width=half_width,
            min_partiality=params.data.min_partiality,
            min_zeta=params.data.min_zeta,
            d_min=max(d_min, default=None),
            d_max=params.data.d_max,
        )
        return Dataset(steps, observations, wavelength, len(table), rows.counts)

    return Inputs(dataset, atomic_model(structure), free.jacobian, free.names, free.origin_shifts)


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


def _settings(params, sample: Dataset) -> Settings:
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


def _check_device(device: str) -> None:
    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither cpu nor cuda")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device} cannot be used here: {reason}") from error


def _check_amount(dataset: Dataset, n_parameters: int) -> None:
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


def _check_setting(table, dataset: Dataset, structure) -> None:
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


# ---------------------------------------------------------------------------------- running


def _run_protocol(inputs: Inputs, settings: Settings, params) -> tuple[dict[str, float], Outcome]:
    identity = _identity(inputs, settings)
    seconds: dict[str, float] = {}
    clock = {"stage": "", "since": time.time()}

    def close_stage() -> None:
        if clock["stage"]:
            seconds[clock["stage"]] = time.time() - clock["since"]

    def on_stage(stage: str) -> None:
        close_stage()
        clock.update(stage=stage, since=time.time())
        logger.info(f"\n{_STAGE_TITLES[stage]}")
        if stage != "scan":
            logger.info(tables.CYCLE_HEADER)

    def on_checkpoint(state: State) -> None:
        if state.stage == "scan":
            logger.info(tables.scan_table(state.scan.best, state.scan.best_chi_squared))
            logger.info(f"Thickness considered: up to {state.grid[0]:.0f} A")
        if params.output.checkpoint:
            write_json(params.output.checkpoint, {**identity, **state.as_dict()})

    protocol = Protocol(
        inputs,
        settings,
        on_stage=on_stage,
        on_model=_log_model,
        on_cycle=lambda cycle: logger.info(tables.cycle_line(cycle)),
        on_checkpoint=on_checkpoint,
        progress=lambda iterable, total: progress(iterable, total=total),
    )
    start = _resumed(params.resume, identity, settings) if params.resume else None
    outcome = protocol.run(start)
    close_stage()
    return seconds, outcome


def _log_model(hybrid: Hybrid) -> None:
    simulation, policy = hybrid.simulation, hybrid.policy
    n_beams = simulation.n_beams
    logger.info(
        f"{len(hybrid.dataset.steps)} rocking steps, {sum(n_beams) / len(n_beams):.0f} beams on average "
        f"and {max(n_beams)} at most (|g| < {policy.g_max:.2f}, |S_g| < {policy.sg_max:g} 1/A), "
        f"{len(hybrid.grid)} thicknesses"
    )
    missed = int((~simulation.covered()).sum())
    if missed:
        logger.warning(
            f"{missed} observations are never among the beams and count as calculated zero: "
            "raise beams.sg_max or beams.g_max"
        )


def _identity(inputs: Inputs, settings: Settings) -> dict:
    """What a checkpoint and the run that resumes it must have in common."""
    return {
        "format": _CHECKPOINT_FORMAT,
        "names": list(inputs.names),
        "n_observations": len(inputs.dataset(1.0, 1).observations),
        "settings": {name: getattr(settings, name) for name in _SAME_ON_RESUME},
    }


def _resumed(filename: str | Path, identity: dict, settings: Settings) -> State:
    content = read_checkpoint(filename)
    try:
        state = State.from_dict(content)
    except ValueError as error:
        raise ValueError(f"{filename}: {error}") from error
    expected = "normal" if settings.thickness_model == "neural" else settings.thickness_model
    if content.get("names") != identity["names"]:
        raise ValueError(f"{filename} belongs to a refinement of another structure")
    if content.get("n_observations") != identity["n_observations"]:
        raise ValueError(f"{filename} belongs to a refinement against other reflections")
    if state.thickness_model not in (expected, settings.thickness_model):
        raise ValueError(f"{filename} was written with thickness.model={state.thickness_model}: use it again")
    for name, parameter in _SAME_ON_RESUME.items():
        before = content.get("settings", {}).get(name)
        if before != identity["settings"][name]:
            raise ValueError(f"{filename} was written with {parameter}={before}: use it again")
    logger.info(f"Continuing after stage '{state.stage}' of {filename}")
    return state


def _result(experiments, table, structure, free, outcome: Outcome, settings, seconds) -> Result:
    hybrid = outcome.hybrid
    thickness = thickness_result(outcome)
    part = hybrid.slices()["crystal"]
    evaluation = outcome.fit.evaluation
    orientation = hybrid.orientation
    refined = updated_structure(structure, hybrid.crystal.atoms().parameters)
    summary = {
        **figures(outcome, thickness),
        "seconds": seconds,
        "settings": asdict(settings),
        "versions": _versions(),
    }
    parameters = refined_parameters(outcome)
    logger.info("\n" + tables.parameter_table(parameters))
    logger.info(tables.summary_table(summary))
    return Result(
        xray_structure=refined,
        constraints=free,
        covariance=outcome.fit.covariance[part, part].cpu().numpy(),
        experiments=refined_experiments(
            experiments,
            hybrid.dataset.steps.to("cpu"),
            orientation.axes[:, 0].cpu(),
            orientation.smooth_tilts().detach().cpu(),
        ),
        reflections=output_table(
            table,
            hybrid.dataset.observations.row.cpu().numpy(),
            evaluation.intensity.cpu().numpy(),
            evaluation.scale.cpu().numpy(),
        ),
        thickness=thickness,
        summary=summary,
    )


def _versions() -> dict[str, str]:
    from dials.util.version import dials_version

    return {"dials": dials_version(), "torch": torch.__version__, "numpy": np.__version__}
