"""Hands a finished refinement to the report, as plain arrays."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cctbx import adptbx
from cctbx.eltbx import covalent_radii

from dials_hybrid.refine.bins import d_spacings
from dials_hybrid.refine.figures import refined_parameters
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.report.data import Curve, Distribution, Reflections, ReportData, Structure
from dials_hybrid.result import Result, cif_block

_POINTS = 41  # of scan angle, for the distribution of thickness
_CURVE_POINTS = 201  # of a curve against scan angle: frames have steps
_TILTS = ("across the rotation axis", "about the rotation axis")
_LARGEST_CORRELATIONS = 20
_ATOM_COLUMNS = {
    "label": "atom",
    "fract_x": "x",
    "fract_y": "y",
    "fract_z": "z",
    "U_iso_or_equiv": "U_eq [Å²]",
    "occupancy": "occupancy",
}


def report_data(result: Result) -> ReportData:
    """What the report of this refinement shows."""
    outcome = result.outcome
    parameters = _parameters(outcome)
    return ReportData(
        title=_title(result.xray_structure),
        summary=result.summary,
        reflections=_reflections(outcome),
        distributions=_distributions(outcome),
        tilts=_tilts(outcome),
        scales=_scales(outcome),
        structure=_structure(result.xray_structure),
        atoms=_atoms(result),
        parameters=[(name, value, uncertainty) for name, _, value, uncertainty in parameters],
        correlations=_correlations(outcome, [(name, index) for name, index, _, _ in parameters]),
    )


def _title(structure) -> str:
    """Formula, carbon and hydrogen first, and space group: "O2 Si, P 32 2 1"."""
    content = structure.unit_cell_content()
    whole = {element: round(n) for element, n in content.items()}
    if all(abs(content[element] - n) < 1e-3 for element, n in whole.items()):
        divisor = math.gcd(*whole.values())
        content = {element: n // divisor for element, n in whole.items()}
    first = [element for element in ("C", "H") if "C" in content and element in content]
    order = [*first, *sorted(set(content) - set(first))]
    parts = [element + (f"{content[element]:.4g}" if content[element] != 1 else "") for element in order]
    return f"{' '.join(parts)}, {structure.space_group_info()}"


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _reflections(outcome: Outcome) -> Reflections:
    hybrid, calculated = outcome.hybrid, outcome.fit.evaluation.intensity
    observations = hybrid.dataset.observations
    return Reflections(
        hkl=_array(observations.hkl),
        d=_array(d_spacings(observations.hkl, hybrid.crystal.start.cell)),
        crystal=_array(observations.crystal),
        angle=_array(observations.angle),
        observed=_array(observations.intensity),
        sigma=_array(observations.sigma),
        calculated=_array(calculated),
        residual=_array((calculated - observations.intensity) / outcome.fit.target.sigma),
        free=_array(observations.free),
    )


def _distributions(outcome: Outcome) -> list[Distribution]:
    """Means of p(t) in ranges of scan angle, for each crystal."""
    hybrid = outcome.hybrid
    observations, grid = hybrid.dataset.observations, hybrid.grid
    density = _array(outcome.fit.evaluation.thickness_weights / grid.spacing)
    angle = _array(observations.angle)
    result = []
    for crystal in range(hybrid.dataset.steps.n_crystals):
        own = np.flatnonzero(_array(observations.crystal) == crystal)
        own = own[np.argsort(angle[own])]
        parts = np.array_split(own, min(_POINTS, len(own)))
        result.append(
            Distribution(
                crystal=crystal,
                angle=np.array([angle[part].mean() for part in parts]),
                thickness=_array(grid.nodes),
                density=np.array([density[part].mean(0) for part in parts]),
            )
        )
    return result


def _tilts(outcome: Outcome) -> list[Curve]:
    hybrid = outcome.hybrid
    orientation, steps = hybrid.orientation, hybrid.dataset.steps
    designs = torch.rad2deg(orientation.design_matrix()[:, :, : orientation.n_tilts])
    x = hybrid.vector()[hybrid.slices()["orientation"]][: orientation.n_tilts]
    result = []
    for name, design in zip(_TILTS, designs, strict=False):
        uncertainty = _uncertainty(outcome, "orientation", design)
        result += _curves(name, steps.crystal, steps.angle, design @ x, uncertainty)
    return result


def _scales(outcome: Outcome) -> list[Curve]:
    hybrid = outcome.hybrid
    observations, scale = hybrid.dataset.observations, outcome.fit.evaluation.scale
    uncertainty = scale * _uncertainty(outcome, "scale", hybrid.scale.design_matrix)
    return _curves("scale", observations.crystal, observations.angle, scale, uncertainty)


def _uncertainty(outcome: Outcome, block: str, design: Tensor) -> Tensor:
    """s.u. (M,) of design @ p, p the first parameters of a block: sqrt(diag(D C D^T))."""
    start = outcome.hybrid.slices()[block].start
    part = slice(start, start + design.shape[1])
    variance = ((design @ outcome.fit.covariance[part, part]) * design).sum(1)
    return variance.clamp(min=0.0).sqrt()


def _curves(name: str, crystal: Tensor, angle: Tensor, value: Tensor, uncertainty: Tensor) -> list[Curve]:
    """Some points of a number that depends on crystal and scan angle alone."""
    result = []
    for index in crystal.unique().tolist():
        own = (crystal == index).nonzero().flatten()
        own = own[angle[own].argsort()]
        own = own[torch.linspace(0, len(own) - 1, min(_CURVE_POINTS, len(own))).long()]
        result.append(Curve(name, index, _array(angle[own]), _array(value[own]), _array(uncertainty[own])))
    return result


def _structure(structure) -> Structure:
    cell = structure.unit_cell()
    scatterers = structure.scatterers()
    elements = [scatterer.element_symbol() for scatterer in scatterers]
    operations = structure.space_group().all_ops()
    return Structure(
        labels=[scatterer.label for scatterer in scatterers],
        elements=elements,
        sites=np.array([scatterer.site for scatterer in scatterers]),
        u_cart=np.array([_u_cart(scatterer, cell) for scatterer in scatterers]),
        radii=np.array([covalent_radii.table(element).radius() for element in elements]),
        orthogonalisation=np.reshape(cell.orthogonalization_matrix(), (3, 3)),
        rotations=np.array([op.r().as_double() for op in operations]).reshape(-1, 3, 3),
        translations=np.array([op.t().as_double() for op in operations]),
    )


def _u_cart(scatterer, cell) -> np.ndarray:
    if not scatterer.flags.use_u_aniso():
        return scatterer.u_iso * np.eye(3)
    u11, u22, u33, u12, u13, u23 = adptbx.u_star_as_u_cart(cell, scatterer.u_star)
    return np.array([[u11, u12, u13], [u12, u22, u23], [u13, u23, u33]])


def _atoms(result: Result) -> tuple[list[str], list[list[str]]]:
    """Sites as they stand in the CIF, s.u.s in brackets."""
    loop = cif_block(result).get_loop("_atom_site")
    columns = [list(loop[f"_atom_site_{name}"]) for name in _ATOM_COLUMNS]
    return list(_ATOM_COLUMNS.values()), [list(row) for row in zip(*columns, strict=True)]


def _parameters(outcome: Outcome) -> list[tuple[str, int, float, float]]:
    """Name, place in the parameter vector, value and s.u.; the weights of a network mean nothing alone."""
    hybrid = outcome.hybrid
    uncertainty = outcome.fit.covariance.diagonal().clamp(min=0.0).sqrt()
    rows = [(name, i, value, su) for i, (name, value, su) in enumerate(refined_parameters(outcome))]
    start = len(rows)
    for name, parameter in hybrid.named_parameters():
        if name == "crystal.shifts":
            continue
        if parameter.numel() and not _of_network(name):
            for place, value in zip(np.ndindex(*parameter.shape), parameter.flatten().tolist(), strict=True):
                index = start + int(np.ravel_multi_index(place, parameter.shape)) if place else start
                rows.append((_readable(name, place), index, value, float(uncertainty[index])))
        start += parameter.numel()
    return rows


def _of_network(name: str) -> bool:
    return any(part in name.split(".") for part in ("hidden", "output"))


def _readable(name: str, place: tuple[int, ...]) -> str:
    """ "scale.log_scale" at (0, 2) is "log scale 1, 3": crystal 1, coefficient 3."""
    module, *crystal, leaf = name.split(".")
    words = leaf if module in leaf else f"{module} {leaf}"
    numbers = ", ".join(str(int(index) + 1) for index in (*crystal, *place))
    return f"{words.replace('_', ' ')} {numbers}"


def _correlations(outcome: Outcome, named: list[tuple[str, int]]) -> list[tuple[str, str, float]]:
    places = [index for _, index in named]
    covariance = _array(outcome.fit.covariance)[np.ix_(places, places)]
    deviation = np.sqrt(covariance.diagonal().clip(min=0.0))
    known = np.outer(deviation, deviation)
    matrix = np.divide(covariance, known, out=np.zeros_like(covariance), where=known > 0.0)
    first, second = np.triu_indices(len(places), k=1)
    order = np.argsort(-abs(matrix[first, second]), kind="stable")[:_LARGEST_CORRELATIONS]
    return [
        (named[first[k]][0], named[second[k]][0], float(matrix[first[k], second[k]])) for k in order.tolist()
    ]
