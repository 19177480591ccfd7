"""What a refinement gives back: the refined structure, the figures, and how to write them down."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from dials_hybrid.data import Dataset
from dials_hybrid.io.cif import refinement_items, structure_cif_block
from dials_hybrid.io.constraints import Constraints
from dials_hybrid.refine.free_set import unique_reflections
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.rvalues import RValues, merged, r_values

_DETAILS = """Dynamical refinement against unmerged intensities. R factors are on F, pooled over all
used reflections, free ones included; wR has weights 1/(s^2 + (0.01 F)^2). Thickness in Angstrom."""
_CURVE_POINTS = 41  # of the thickness against scan angle, for each crystal


@dataclass(frozen=True)
class ThicknessResult:
    """The refined thickness distribution."""

    model: str
    mean: float  # [A], over all observations
    nodes: list[float]  # [A]
    average: list[float]  # p(t) at the nodes, over all observations
    curve: list[dict]  # crystal, angle [degree], mean and spread [A]


@dataclass(frozen=True)
class Result:
    """The outcome of `run_hybrid_refine`."""

    xray_structure: object  # cctbx.xray.structure, refined
    constraints: Constraints
    covariance: np.ndarray  # (P, P) of the independent parameters of the structure
    experiments: object  # dxtbx ExperimentList with the refined orientation
    reflections: object  # dials reflection table with intensity.dyn.value
    thickness: ThicknessResult
    summary: dict  # what output.json holds

    @property
    def r1_obs(self) -> float:
        """R1 on F over all used reflections with I > 3 sigma, pooled."""
        return self.summary["r1_obs"]


def thickness_result(outcome: Outcome) -> ThicknessResult:
    """Mean and spread of p(t) against the scan angle."""
    hybrid = outcome.hybrid
    weights = outcome.fit.evaluation.thickness_weights.cpu()
    nodes = hybrid.grid.nodes.cpu()
    mean = weights @ nodes
    spread = (weights @ nodes**2 - mean**2).clamp(min=0.0).sqrt()
    observations = hybrid.dataset.observations.to("cpu")
    curve = []
    for crystal in range(hybrid.dataset.steps.n_crystals):
        own = (observations.crystal == crystal).nonzero().flatten()
        own = own[observations.angle[own].argsort()]
        chosen = own[torch.linspace(0, len(own) - 1, min(_CURVE_POINTS, len(own))).long()]
        curve += [
            {
                "crystal": crystal,
                "angle": float(observations.angle[i]),
                "mean": float(mean[i]),
                "spread": float(spread[i]),
            }
            for i in chosen.tolist()
        ]
    return ThicknessResult(
        model=outcome.state.thickness_model,
        mean=float(mean.mean()),
        nodes=nodes.tolist(),
        average=weights.mean(0).tolist(),
        curve=curve,
    )


def figures(outcome: Outcome, thickness: ThicknessResult) -> dict:
    """The R values and counts of the JSON summary."""
    hybrid, fit = outcome.hybrid, outcome.fit
    dataset: Dataset = hybrid.dataset.to("cpu")
    observations = dataset.observations
    i, sigma, free = observations.intensity, observations.sigma, observations.free
    calculated = fit.evaluation.intensity.cpu()
    pooled = r_values(i, sigma, calculated)
    held_out = r_values(i[free], sigma[free], calculated[free])
    # Equivalents are merged on a common scale.
    scale = fit.evaluation.scale.cpu()
    group = unique_reflections(observations.hkl, hybrid.crystal.start.rotations.cpu())
    of_merged = r_values(*merged(group, i / scale, sigma / scale, calculated / scale))
    return {
        **_pooled(pooled),
        "r1_free": held_out.r1_obs,
        "merged_r1_obs": of_merged.r1_obs,
        "merged_r1_all": of_merged.r1_all,
        "n_rows": dataset.n_rows,
        "n_used": len(observations),
        "n_observed": pooled.n_observed,
        "n_free": int(free.sum()),
        "rejected": dict(dataset.rejected),
        "n_parameters": len(hybrid.vector()),
        "n_parameters_effective": fit.n_parameters,
        "goodness_of_fit": fit.goodness_of_fit,
        "converged": fit.converged,
        "thickness_mean": thickness.mean,
        "thickness_model": thickness.model,
        "thickness": asdict(thickness),
        "mosaic_spread": _mosaic(hybrid),
        "tilts": [list(map(float, row)) for row in hybrid.orientation.tilt.detach().cpu()],
        "wavelength": dataset.wavelength,
        "absolute_structure": None,
        "scan": asdict(outcome.state.scan),
        "history": [asdict(cycle) for cycle in outcome.state.history],
    }


def _pooled(values: RValues) -> dict:
    return {"r1_obs": values.r1_obs, "r1_all": values.r1_all, "wr_all": values.wr_all}


def _mosaic(hybrid) -> list[float] | None:
    """Mosaic spread of each crystal [degree]."""
    if hybrid.orientation.mosaic is None:
        return None
    return hybrid.orientation.mosaic.detach().abs().tolist()


def refined_parameters(outcome: Outcome) -> list[tuple[str, float, float]]:
    """Name, value and standard uncertainty of each independent parameter of the structure."""
    crystal = outcome.hybrid.crystal
    part = outcome.hybrid.slices()["crystal"]
    uncertainty = torch.diagonal(outcome.fit.covariance)[part].clamp(min=0.0).sqrt()
    values = crystal.atoms().parameters.flatten()
    # the column of the parameter table that gives each independent parameter its name
    column = (crystal.jacobian - 1.0).abs().lt(1e-8).long().argmax(1)
    return list(zip(crystal.names, values[column].tolist(), uncertainty.tolist(), strict=True))


def cif_block(result: Result):
    """The refined structure with s.u.s and the figures of the refinement, as iotbx.cif block."""
    block = structure_cif_block(result.xray_structure, result.covariance, result.constraints)
    summary = result.summary
    history = summary["history"]
    refinement_items(
        block,
        {
            "_computing_structure_refinement": "dials.hybrid_refine",
            "_diffrn_radiation_probe": "electron",
            "_diffrn_radiation_wavelength": summary["wavelength"],
            "_reflns_number_gt": summary["n_observed"],
            "_reflns_threshold_expression": "I > 3 sigma(I)",
            "_refine_diffraction_theory": "dynamical",
            "_refine_ls_structure_factor_coef": "Fsqd",
            "_refine_ls_matrix_type": "full",
            "_refine_ls_number_reflns": summary["n_used"],
            "_refine_ls_number_parameters": summary["n_parameters"],
            "_refine_ls_R_factor_gt": round(summary["r1_obs"], 4),
            "_refine_ls_R_factor_all": round(summary["r1_all"], 4),
            "_refine_ls_wR_factor_ref": round(summary["wr_all"], 4),
            "_refine_ls_goodness_of_fit_ref": round(summary["goodness_of_fit"], 3),
            "_refine_ls_shift/su_max": round(history[-1]["largest_shift"], 3) if history else None,
            "_refine_ls_sample_thickness": round(summary["thickness_mean"], 1),
            "_refine_ls_sample_shape_expression": summary["thickness_model"],
            "_refine_special_details": _DETAILS,
        },
    )
    return block
