"""What a refinement gives back: the refined structure, the figures, and how to write them down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dials_hybrid.io.cif import refinement_items, structure_cif_block
from dials_hybrid.io.cif_items import ReflectionList, crystal_items, reflection_blocks, reflection_items
from dials_hybrid.io.cif_refinement import (
    figure_items,
    hydrogen_treatment,
    measurement_items,
    weighting_items,
)
from dials_hybrid.io.constraints import Constraints
from dials_hybrid.io.difference_map import DifferenceMap
from dials_hybrid.refine.figures import ThicknessResult
from dials_hybrid.refine.observed_amplitudes import observed_amplitudes
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.rvalues import observed

_SAME_CELL = 3.0  # s.u.s within which a cell is the one that the s.u.s belong to


@dataclass(frozen=True)
class Result:
    """The outcome of `run_hybrid_refine`."""

    xray_structure: Any  # cctbx.xray.structure, refined
    constraints: Constraints
    covariance: np.ndarray  # (P, P) of the independent parameters of the structure
    experiments: Any | None  # dxtbx ExperimentList with the refined orientation
    reflections: Any | None  # dials reflection table with intensity.dyn.value
    observations: Any | None  # of virtual frames, see `io.observation_list`
    thickness: ThicknessResult
    summary: dict  # what output.json holds
    outcome: Outcome  # the refined model itself, on the device where it was refined
    maps: DifferenceMap

    @property
    def r1_obs(self) -> float:
        """R1 on F over all used reflections with I > 3 sigma, pooled."""
        return self.summary["r1_obs"]


def difference_map(outcome: Outcome, structure) -> DifferenceMap:
    """The map of what the refined structure leaves unexplained."""
    amplitudes = observed_amplitudes(
        outcome.hybrid.dataset.observations.to("cpu"),
        outcome.fit.evaluation.intensity.cpu(),
        outcome.hybrid.crystal.atoms().to("cpu"),
    )
    return DifferenceMap(structure, *(item.numpy() for item in vars(amplitudes).values()))


def cif_blocks(result: Result) -> dict:
    """Everything that goes into the CIF: the structure, the reflections, and where they were measured."""
    intensities, positions = reflection_blocks(result.xray_structure, _reflections(result.outcome))
    return {
        "hybrid_refined": cif_block(result),
        "hybrid_refined_reflections": intensities,
        "hybrid_refined_positions": positions,
    }


def cif_block(result: Result):
    """The refined structure with s.u.s and the figures of the refinement, as iotbx.cif block."""
    structure, summary, constraints = result.xray_structure, result.summary, result.constraints
    cell_su, cell_details = _cell_su(result)
    form_factors = summary["settings"]["form_factors"]
    block = structure_cif_block(structure, result.covariance, constraints, cell_su, form_factors)
    dataset, target = result.outcome.hybrid.dataset, result.outcome.fit.target
    reflections = _reflections(result.outcome)
    items = {
        **crystal_items(structure, summary["formula_units"]),
        **measurement_items(
            dataset.steps.to("cpu"), dataset.wavelength, summary["mosaic_spread"], summary["methods"]
        ),
        **reflection_items(structure, reflections, summary["n_rows"], dataset.wavelength),
        **figure_items(summary),
        **weighting_items([vars(errors) for errors in target.errors], target.cutoff),
        "_refine_ls_hydrogen_treatment": hydrogen_treatment(structure, constraints),
    }
    if result.experiments:
        items["_computing_data_reduction"] = summary["versions"]["dials"]
    if cell_details:
        items["_cell_special_details"] = cell_details
    refinement_items(block, items)
    return block


def _reflections(outcome: Outcome) -> ReflectionList:
    observations = outcome.hybrid.dataset.observations.to("cpu")
    return ReflectionList(
        hkl=observations.hkl.numpy(),
        measured=observations.intensity.numpy(),
        sigma=observations.sigma.numpy(),
        calculated=outcome.fit.evaluation.intensity.cpu().numpy(),
        observed=observed(observations.intensity, observations.sigma).numpy(),
        free=observations.free.numpy(),
        crystal=observations.crystal.numpy(),
        frame=observations.frame.numpy(),
        angle=observations.angle.numpy(),
    )


def _cell_su(result: Result) -> tuple[tuple[float, ...] | None, str | None]:
    """S.u.s of the structure's cell; a sentence on the measured cell where that is another one."""
    crystals = [experiment.crystal for experiment in result.experiments or ()]
    if len(crystals) != 1 or not crystals[0].get_cell_parameter_sd():
        return None, None
    su = crystals[0].get_cell_parameter_sd()
    measured = crystals[0].get_unit_cell().parameters()
    own = result.xray_structure.unit_cell().parameters()
    if all(abs(x - y) <= max(_SAME_CELL * s, 1e-4) for x, y, s in zip(own, measured, su, strict=True)):
        return tuple(su), None
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    text = ", ".join(
        f"{name} = {x:.5f}" + (f" (s.u. {s:.5f})" if s > 1e-6 else "")
        for name, x, s in zip(names, measured, su, strict=True)
    )
    return None, f"The cell is that of the start model. Measured with the data:\n{text}"
