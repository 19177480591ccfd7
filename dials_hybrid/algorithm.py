"""Dynamical refinement of DIALS data, as a library: `HybridRefinement` and `run_hybrid_refine`."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from importlib import metadata

from libtbx.version import get_version

from dials.util import progress
from dxtbx.model import ExperimentList

from dials_hybrid import machine
from dials_hybrid.io.cif_items import completeness
from dials_hybrid.io.dials_files import read_experiments, read_table
from dials_hybrid.io.experiments import refined_experiments
from dials_hybrid.io.observation_list import observation_rows
from dials_hybrid.io.pets import read_pets
from dials_hybrid.io.reflections import combine_tables, output_table
from dials_hybrid.io.start_model import PreparedModel, prepare_model
from dials_hybrid.io.structure import StartModel, read_model
from dials_hybrid.io.tensors import atomic_model, updated_structure
from dials_hybrid.model.simulation import silent
from dials_hybrid.phil import check_values, phil_scope
from dials_hybrid.prepare import (
    all_measured,
    check_amount,
    check_model_setting,
    resolve_settings,
)
from dials_hybrid.problem import Problem, read_result, write_problem
from dials_hybrid.program import is_first_rank
from dials_hybrid.refine.figures import figures, thickness_result
from dials_hybrid.refine.hints import hints
from dials_hybrid.refine.parameters import refined_parameters
from dials_hybrid.refine.physics import effects
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.restraints import deviations
from dials_hybrid.refine.state import Inputs, Settings
from dials_hybrid.report import tables
from dials_hybrid.result import Result, difference_map
from dials_hybrid.rocking.measurement import Measurement
from dials_hybrid.running import run_protocol

logger = logging.getLogger("dials.hybrid_refine.algorithm")


class HybridRefinement:
    """A dynamical refinement of one structure against one or several crystals.

    Example::

        refinement = HybridRefinement.from_files(["integrated.expt"], ["integrated.refl"], "model.cif")
        result = refinement.run()
        print(result.r1_obs)
        result.xray_structure.show_scatterers()

    Args:
        experiments: dxtbx ExperimentList; empty where there are only virtual frames.
        reflections: a reflection table, or one for each experiment.
        xray_structure: the start model: cctbx xray.structure, or what `io.structure.read_model` gives.
        params: extract of `dials_hybrid.phil.phil_scope`; None for its defaults.
        virtual_frames: what `dials_hybrid.io.pets.read_pets` gives, one a crystal.
    """

    def __init__(self, experiments, reflections, xray_structure, params=None, virtual_frames=()):
        self.experiments = experiments
        self.reflections = reflections
        self.xray_structure = xray_structure
        self.params = params or phil_scope.extract()
        self.virtual_frames = virtual_frames

    @classmethod
    def from_files(cls, experiments, reflections, structure, params=None, cif_pets=()) -> HybridRefinement:
        """Read .expt, .refl and .cif_pets files (lists of names) and a structure.

        The structure is .cif, .ins, .res or .pdb.

        Raises:
            ValueError: a file is missing or cannot be read.
        """
        expt = ExperimentList()
        for name in experiments:
            expt.extend(read_experiments(name))
        tables = [read_table(name) for name in reflections]
        frames = [read_pets(name) for name in cif_pets]
        return cls(expt, tables, read_model(structure), params, frames)

    def run(self) -> Result | None:
        """Refine; see `run_hybrid_refine`."""
        return run_hybrid_refine(
            self.experiments, self.reflections, self.xray_structure, self.params, self.virtual_frames
        )


@machine.one_thread()
def run_hybrid_refine(
    experiments, reflections, structure, params, virtual_frames=(), *, show_progress: bool = True
) -> Result | None:
    """Refine `structure` against integrated intensities.

    Args:
        experiments: dxtbx ExperimentList.
        reflections: a reflection table or a list of them.
        structure: cctbx xray.structure, or what `dials_hybrid.io.structure.read_model` gives.
        params: extract of `dials_hybrid.phil.phil_scope`.
        virtual_frames: see `HybridRefinement`.
        show_progress: bars for long loops, where there is a terminal.

    Returns:
        The outcome; None where `params.output.problem` asks for a file with the problem instead.

    Raises:
        ValueError: the input cannot be refined; the message says why, in one sentence.
    """
    started = time.time()
    check_values(params)
    machine.check_device(params.device)
    table = combine_tables(reflections, experiments) if len(experiments) else None
    start = structure if isinstance(structure, StartModel) else StartModel(structure)
    model = prepare_model(
        start,
        adp=params.structure.adp,
        ions=params.structure.ions,
        hydrogens=params.structure.hydrogens,
        refine_occupancies=params.structure.refine_occupancies,
        refine=[text for text in params.structure.refine if text],
        fix=[text for text in params.structure.fix if text],
    )
    structure, free = model.structure, model.constraints
    measurement = all_measured(experiments, table, virtual_frames, start.structure, params)
    sample = measurement.dataset(1.0, 1)
    settings = resolve_settings(params, sample)
    logger.info(tables.input_table(sample.n_rows, len(sample.observations), sample.rejected))
    check_amount(sample, len(free.names))
    check_model_setting(measurement, structure)
    atoms = atomic_model(structure)
    inputs = Inputs(measurement, atoms, free.jacobian, free.names, free.origin_shifts, model.restraints)
    if params.output.problem:
        write_problem(params.output.problem, Problem(inputs, settings))
        return None
    if params.result:
        outcome, finished = read_result(params.result, inputs)
        settings, seconds, versions = finished.settings, finished.seconds, finished.versions
        logger.info(f"Refined elsewhere: {params.result}")
    else:
        outcome, seconds = run_protocol(
            inputs,
            settings,
            checkpoint=params.output.checkpoint if is_first_rank() else None,
            resume=params.resume,
            progress=_show_progress if show_progress and is_first_rank() else silent,
        )
        seconds["total"] = time.time() - started
        versions = machine.versions()
    result = _result(
        experiments, table, virtual_frames, structure, free, outcome, settings, seconds, versions
    )
    result.summary["methods"] = [run.method for run in measurement.runs]
    result.summary["formula_units"] = start.formula_units
    if not params.result:
        _list_effects(result, inputs, settings)
    if model.restraints:
        _list_restraints(result, model)
    _list_hints(result, measurement)
    return result


def _list_effects(result: Result, inputs: Inputs, settings: Settings) -> None:
    """Add to the figures, and to the log, what the options of the physics do and cost."""
    result.summary["physics"] = [asdict(effect) for effect in effects(inputs, settings, result.outcome)]
    if result.summary["physics"]:
        logger.info(tables.effect_table(result.summary["physics"]))


def _list_restraints(result: Result, model: PreparedModel) -> None:
    """Add to the figures, and to the log, how well each restraint is kept."""
    kept = deviations(model.restraints, result.outcome.hybrid.crystal.atoms().to("cpu"))
    result.summary["restraints"] = [{**asdict(each), "in_sigmas": each.in_sigmas} for each in kept]
    logger.info(tables.restraint_table(result.summary["restraints"]))


def _list_hints(result: Result, measurement: Measurement) -> None:
    """Add to the figures, and to the log, what a reader should worry about."""
    result.summary["hints"] = [asdict(hint) for hint in hints(result.summary, measurement.runs)]
    logger.info(tables.hint_list(result.summary["hints"]))


def _result(
    experiments, table, virtual_frames, structure, free, outcome: Outcome, settings, seconds, versions
) -> Result:
    hybrid = outcome.hybrid
    thickness = thickness_result(outcome)
    part = hybrid.structure
    refined = updated_structure(structure, hybrid.crystal.atoms().parameters)
    maps = difference_map(outcome, refined)
    summary = {
        **figures(outcome, thickness),
        "seconds": seconds,
        "settings": asdict(settings),
        "versions": {**_versions(), **versions},
        "difference_map": maps.summary(),
        "completeness": completeness(refined, hybrid.dataset.observations.hkl.cpu().numpy()),
    }
    parameters = refined_parameters(outcome)
    logger.info("\n" + tables.parameter_table(parameters))
    logger.info(tables.summary_table(summary))
    logger.info(tables.difference_table(summary["difference_map"]))
    return Result(
        xray_structure=refined,
        constraints=free,
        covariance=outcome.fit.covariance[part, part].cpu().numpy(),
        **_refined_data(experiments, table, virtual_frames, outcome),
        thickness=thickness,
        summary=summary,
        outcome=outcome,
        maps=maps,
    )


def _refined_data(experiments, table, virtual_frames, outcome: Outcome) -> dict:
    """Experiments, reflection table and rows of virtual frames with what was refined and calculated."""
    orientation = outcome.hybrid.orientation
    dataset = outcome.hybrid.dataset.to("cpu")
    intensity, scale = outcome.fit.evaluation.intensity.cpu(), outcome.fit.evaluation.scale.cpu()
    observations, n = dataset.observations, len(experiments)
    rows = observation_rows(virtual_frames, n, observations, intensity, scale)
    if not n:
        return {"experiments": None, "reflections": None, "observations": rows}
    axes, tilts = orientation.axes[:, 0].cpu(), orientation.smooth_tilts().detach().cpu()
    own = observations.crystal < n
    used = (values[own].numpy() for values in (observations.row, intensity, scale))
    return {
        "experiments": refined_experiments(experiments, dataset.steps, axes, tilts),
        "reflections": output_table(table, *used),
        "observations": rows,
    }


def _versions() -> dict[str, str]:
    from dials.util.version import dials_version

    return {"dials": dials_version(), "cctbx": _cctbx_version()}


def _cctbx_version() -> str:
    for name in ("cctbx", "cctbx-base"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return get_version()  # a build of one's own


def _show_progress(iterable, total: int):
    return progress(iterable, total=total)
