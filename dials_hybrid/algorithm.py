"""Dynamical refinement of DIALS data, as a library: `HybridRefinement` and `run_hybrid_refine`."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict

import numpy as np
import torch

from dials.util import progress

from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.experiments import refined_experiments
from dials_hybrid.io.reflections import combine_tables, output_table
from dials_hybrid.io.structure import (
    atomic_model,
    prepare_structure,
    read_structure,
    updated_structure,
)
from dials_hybrid.phil import check_values, phil_scope
from dials_hybrid.prepare import (
    check_amount,
    check_device,
    check_experiments,
    check_model_setting,
    measured,
    resolve_settings,
)
from dials_hybrid.refine.figures import figures, refined_parameters, thickness_result
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.state import Inputs
from dials_hybrid.report import tables
from dials_hybrid.result import Result
from dials_hybrid.running import run_protocol

logger = logging.getLogger("dials.hybrid_refine.algorithm")


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
    check_device(params.device)
    check_experiments(experiments, structure)
    table = combine_tables(reflections, experiments)
    structure = prepare_structure(
        structure,
        adp=params.structure.adp,
        ions=params.structure.ions,
        hydrogens=params.structure.hydrogens,
        refine_occupancies=params.structure.refine_occupancies,
    )
    free = constraints(structure)
    measurement = measured(experiments, table, params)
    sample = measurement.dataset(1.0, 1)
    settings = resolve_settings(params, sample)
    logger.info(tables.input_table(sample.n_rows, len(sample.observations), sample.rejected))
    check_amount(sample, len(free.names))
    check_model_setting(table, sample, structure)
    inputs = Inputs(measurement, atomic_model(structure), free.jacobian, free.names, free.origin_shifts)
    outcome, seconds = run_protocol(
        inputs,
        settings,
        checkpoint=params.output.checkpoint,
        resume=params.resume,
        progress=lambda iterable, total: progress(iterable, total=total),
    )
    seconds["total"] = time.time() - started
    return _result(experiments, table, structure, free, outcome, settings, seconds)


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
