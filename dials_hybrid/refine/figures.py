"""The figures of a finished refinement: R values, thickness against scan angle, parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from dials_hybrid.data import Dataset
from dials_hybrid.refine.free_set import unique_reflections
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.rvalues import RValues, merged, r_values

_CURVE_POINTS = 41  # of the thickness against scan angle, for each crystal


@dataclass(frozen=True)
class ThicknessResult:
    """The refined thickness distribution."""

    model: str
    mean: float  # [A], over all observations
    nodes: list[float]  # [A]
    average: list[float]  # p(t) at the nodes, over all observations
    curve: list[dict]  # crystal, angle [degree], mean and spread [A]


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
