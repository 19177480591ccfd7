"""Hands a finished refinement to the report, as plain arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cctbx import adptbx
from cctbx.eltbx import covalent_radii

from dials_hybrid.refine.bins import d_spacings
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.report.data import Curve, Distribution, Reflections, ReportData, Structure, Table
from dials_hybrid.result import Result, cif_block

_POINTS = 41  # of scan angle, for the distribution of thickness
_CURVE_POINTS = 201  # of a tilt against scan angle: frames have steps
_TILTS = ("across the rotation axis", "about the rotation axis")
# Of the loops of the CIF: its names and those of the report.
_ATOMS = {
    "label": "atom",
    "fract_x": "x",
    "fract_y": "y",
    "fract_z": "z",
    "U_iso_or_equiv": "U_eq [Å²]",
    "occupancy": "occupancy",
}
_U_IJ = ("11", "22", "33", "12", "13", "23")
_DISPLACEMENTS = {"label": "atom", **{f"U_{ij}": f"U_{ij} [Å²]" for ij in _U_IJ}}
_BONDS = {
    "atom_site_label_1": "atom",
    "atom_site_label_2": "with",
    "distance": "distance [Å]",
    "site_symmetry_2": "symmetry",
}


def report_data(result: Result) -> ReportData:
    """What the report of this refinement shows."""
    outcome, block = result.outcome, cif_block(result)
    return ReportData(
        title=f"{block['_chemical_formula_sum']}, {result.xray_structure.space_group_info()}",
        summary=result.summary,
        reflections=_reflections(outcome),
        distributions=_distributions(outcome),
        tilts=_tilts(outcome),
        scales=_scales(result.summary["scale"]),
        structure=_structure(result.xray_structure),
        cell=_cell(block),
        atoms=_loop(block, "_atom_site", _ATOMS),
        displacements=_loop(block, "_atom_site_aniso", _DISPLACEMENTS),
        bonds=_loop(block, "_geom_bond", _BONDS),
    )


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


def _scales(scale: list[dict]) -> list[Curve]:
    curves = []
    for crystal in sorted({point["crystal"] for point in scale}):
        points = [point for point in scale if point["crystal"] == crystal]
        columns = (np.array([point[key] for point in points]) for key in ("angle", "value", "su"))
        curves.append(Curve("scale", crystal, *columns))
    return curves


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


def _cell(block) -> str:
    """The cell of the CIF."""

    def number(name: str) -> str:
        return _plain(block[f"_cell_{name}"])

    lengths = ", ".join(f"{name} = {number(f'length_{name}')}" for name in "abc")
    greek = {"α": "alpha", "β": "beta", "γ": "gamma"}
    angles = ", ".join(f"{letter} = {number(f'angle_{name}')}°" for letter, name in greek.items())
    return f"{lengths} Å; {angles}"


def _loop(block, name: str, columns: Mapping[str, str]) -> Table:
    """Rows of a loop of the CIF, s.u.s in brackets; none where there is no such loop."""
    loop = block.get_loop(name)
    values = [loop[f"{name}_{column}"] for column in columns] if loop else []
    return list(columns.values()), [list(map(_plain, row)) for row in zip(*values, strict=True)]


def _plain(text: str) -> str:
    """Without the zeros of a decimal number that has no s.u."""
    return f"{float(text) + 0.0:g}" if re.fullmatch(r"-?\d+\.\d+", text) else text
