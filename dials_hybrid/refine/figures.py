"""The figures of a finished refinement: R values, thickness and scale against scan angle, parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from dials_hybrid.data import Dataset
from dials_hybrid.refine.bins import angular_ranges, d_spacings, intensity_groups, resolution_shells
from dials_hybrid.refine.free_set import unique_reflections
from dials_hybrid.refine.outliers import goodness_of_input_sigmas, outliers
from dials_hybrid.refine.parameters import all_parameters, displacements, largest_correlations
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.rvalues import RValues, merged, observed, r_values
from dials_hybrid.refine.thickness_curve import thickness_in_uncertainties, thickness_moments

_CURVE_POINTS = 41  # of the thickness against scan angle, for each crystal
_SCALE_POINTS = 201  # of the scale, which has steps between virtual frames


@dataclass(frozen=True)
class ThicknessResult:
    """The refined thickness distribution."""

    model: str
    mean: float  # [A], over all observations
    nodes: list[float]  # [A]
    average: list[float]  # p(t) at the nodes, over all observations
    curve: list[dict]  # crystal, angle [degree], mean, spread and their s.u.s mean_su, spread_su [A]


def thickness_result(outcome: Outcome) -> ThicknessResult:
    """Mean and spread of p(t) against the scan angle."""
    hybrid, fit = outcome.hybrid, outcome.fit
    weights = fit.evaluation.thickness_weights
    observations = hybrid.dataset.observations
    curve = []
    for crystal in range(hybrid.dataset.steps.n_crystals):
        own = (observations.crystal == crystal).nonzero().flatten()
        own = own[observations.angle[own].argsort()]
        chosen = own[torch.linspace(0, len(own) - 1, min(_CURVE_POINTS, len(own))).long()]
        moments = thickness_moments(hybrid, fit, crystal, chosen)
        columns = {"angle": observations.angle[chosen], **vars(moments)}
        for values in zip(*(column.tolist() for column in columns.values()), strict=True):
            curve.append({"crystal": crystal, **dict(zip(columns, values, strict=True))})
    return ThicknessResult(
        model=outcome.state.thickness_model,
        mean=hybrid.mean_thickness(fit.evaluation),
        nodes=hybrid.grid.nodes.tolist(),
        average=weights.mean(0).tolist(),
        curve=curve,
    )


def check_free(figures: dict) -> None:
    """Raise ValueError if refining the structure made R1_free worse, after the results were written."""
    if figures["r1_free_rose"]:
        before, after = figures["r1_free_rose"]
        raise ValueError(
            f"R1_free rose from {before:.1%} to {after:.1%} when the structure was refined: what was written "
            "is the model before; try structure.adp=isotropic, restraints or more data"
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
    ranges = angular_ranges(observations, calculated)
    d = d_spacings(observations.hkl, hybrid.crystal.start.cell.cpu())
    parameters = all_parameters(outcome)
    return {
        **_pooled(pooled),
        "r1_free": held_out.r1_obs,
        "r1_free_rose": outcome.rose,
        "merged_r1_obs": of_merged.r1_obs,
        "merged_r1_all": of_merged.r1_all,
        "mean_of_ranges_r1_obs": _mean(ranges, "r1_obs"),
        "mean_of_ranges_r1_obs_own_scales": _mean(ranges, "r1_obs_own_scale"),
        "resolution_shells": resolution_shells(d, i, sigma, calculated),
        "angular_ranges": ranges,
        "intensity_groups": intensity_groups(i, sigma, calculated),
        "n_rows": dataset.n_rows,
        "n_used": len(observations),
        "n_observed": pooled.n_observed,
        "n_free": int(free.sum()),
        "n_free_unique": len(group[free & observed(i, sigma)].unique()),
        "rejected": dict(dataset.rejected),
        "n_parameters": len(hybrid.vector()),
        "n_parameters_effective": fit.n_parameters,
        "goodness_of_fit": fit.goodness_of_fit,
        "goodness_of_input_sigmas": goodness_of_input_sigmas(hybrid.dataset.observations, fit),
        "error_model": asdict(fit.target.errors[0]) if len(fit.target.errors) == 1 else None,
        "crystals": crystals(outcome),
        "outliers": outliers(hybrid.dataset.observations, fit),
        "converged": fit.converged,
        "shift_left": fit.shift_left,
        "thickness_mean": thickness.mean,
        "thickness_model": thickness.model,
        "thickness": asdict(thickness),
        "thickness_comparison": [asdict(candidate) for candidate in outcome.state.comparison],
        "thickness_in_uncertainties": thickness_in_uncertainties(hybrid, fit),
        "mosaic_spread": _mosaic(hybrid),
        "absorption": _absorption(outcome),
        "tilts": [list(map(float, row)) for row in hybrid.orientation.tilt.detach().cpu()],
        "scale": scale_curve(outcome),
        "wavelength": dataset.wavelength,
        "absolute_structure": outcome.hands and outcome.hands.as_dict(),
        "scan": outcome.state.scan and asdict(outcome.state.scan),
        "history": [asdict(cycle) for cycle in outcome.state.history],
        "parameters": [asdict(parameter) for parameter in parameters],
        "correlations": largest_correlations(outcome, parameters),
        "displacements": displacements(hybrid.crystal.atoms().to("cpu"), hybrid.crystal.start.to("cpu")),
    }


def crystals(outcome: Outcome) -> list[dict]:
    """What each crystal contributes, and its own numbers."""
    hybrid, fit, result = outcome.hybrid, outcome.fit, []
    observations, calculated = hybrid.dataset.observations, fit.evaluation.intensity
    thickness = fit.evaluation.thickness_weights @ hybrid.grid.nodes
    mosaic = _mosaic(hybrid)
    for index, contribution in enumerate(fit.contributions):
        own = observations.crystal == index
        pooled = r_values(observations.intensity[own], observations.sigma[own], calculated[own])
        result.append(
            {
                "n_used": int(own.sum()),
                "n_observed": pooled.n_observed,
                "n_free": int(observations.free[own].sum()),
                **_pooled(pooled),
                **asdict(contribution),
                "weight": float(fit.target.emphasis[own][0]),
                "error_model": asdict(fit.target.errors[index]),
                "thickness_mean": float(thickness[own].mean()),
                "mosaic_spread": mosaic and mosaic[index],
                "overall_u": _overall_u(outcome, index),
            }
        )
    return result


def _overall_u(outcome: Outcome, crystal: int) -> dict | None:
    """The overall displacement of a crystal beside the first, with its s.u. [A^2]; None: it has none."""
    model, hybrid = outcome.hybrid.crystal, outcome.hybrid
    if not (crystal and len(model.overall_u)):
        return None
    place = hybrid.slices()["crystal"].stop - len(model.overall_u) + crystal - 1
    variance = outcome.fit.covariance[place, place].clamp(min=0.0)
    return {"value": float(model.overall_u.detach()[crystal - 1]), "su": float(variance.sqrt())}


def scale_curve(outcome: Outcome) -> list[dict]:
    """Scale of some observations of each crystal, in the order of their scan angles [degree], and its s.u."""
    hybrid, scale = outcome.hybrid, outcome.fit.evaluation.scale
    observations, design = hybrid.dataset.observations, hybrid.scale.design_matrix
    part = hybrid.slices()["scale"]
    variance = ((design @ outcome.fit.covariance[part, part]) * design).sum(1)  # of the logarithm
    uncertainty = scale * variance.clamp(min=0.0).sqrt()
    curve = []
    for crystal in range(hybrid.dataset.steps.n_crystals):
        own = (observations.crystal == crystal).nonzero().flatten()
        own = own[observations.angle[own].argsort()]
        own = own[torch.linspace(0, len(own) - 1, min(_SCALE_POINTS, len(own))).long()]
        columns = (values[own].tolist() for values in (observations.angle, scale, uncertainty))
        curve += [
            {"crystal": crystal, "angle": angle, "value": value, "su": su}
            for angle, value, su in zip(*columns, strict=True)
        ]
    return curve


def _mean(parts: list[dict], name: str) -> float:
    """Of those that have a number."""
    return float(torch.tensor([part[name] for part in parts]).nanmean())


def _pooled(values: RValues) -> dict:
    return {"r1_obs": values.r1_obs, "r1_all": values.r1_all, "wr_all": values.wr_all}


def _mosaic(hybrid) -> list[float] | None:
    """Mosaic spread of each crystal [degree]."""
    if hybrid.orientation.mosaic is None:
        return None
    return hybrid.orientation.mosaic.detach().abs().tolist()


def _absorption(outcome: Outcome) -> dict | None:
    """The factor on the absorptive potential, with its s.u. where it was refined."""
    crystal = outcome.hybrid.crystal
    if not crystal.absorption:
        return None
    place = outcome.hybrid.structure.stop
    refined = len(crystal.absorption_factor) > 0
    uncertainty = float(outcome.fit.covariance[place, place].clamp(min=0.0).sqrt()) if refined else None
    return {"factor": crystal.absorption, "su": uncertainty}
