"""Ties as linear equations: the shifts that are left obey all of them, and no freedom is lost."""

from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, xray
from cctbx.array_family import flex

from dials_hybrid.data import ATOM_PARAMETERS
from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.structure import prepare_structure
from dials_hybrid.io.ties import RigidGroup, Ties

N = 5
GROUP = RigidGroup(0, (2, 3), np.array([[[0.1, 0.2, 0.0], [0.0, -0.1, 0.3]]]), ("turn",))
TIES = {
    "fixed": Ties(fixed=((1, "y"), (1, "uiso"))),
    "free variable": Ties(free_variables=(((0, "occ", 1.0), (1, "occ", -1.0), (4, "occ", 0.5)),)),
    "of another kind": Ties(free_variables=(((0, "occ", 2.0), (1, "uiso", 0.3)),)),
    "sum": Ties(sums=(((0, "occ", 1.0), (1, "occ", 2.0), (4, "uiso", -0.5)),)),
    "sum of free variables": Ties(
        free_variables=(((0, "occ", 1.0), (1, "occ", 1.0)),), sums=(((1, "occ", 1.0), (4, "occ", 1.0)),)
    ),
    "U": Ties(u_follows=((2, 0, 1.2), (3, 2, 1.5))),
    "same": Ties(same_site=((0, 4), (4, 3)), same_u=((1, 2),)),
    "rigid": Ties(groups=(GROUP,)),
    "rigid, on a pivot that is fixed": Ties(groups=(GROUP,), fixed=((0, "x"), (0, "y"), (0, "z"))),
    "all": Ties(groups=(GROUP,), fixed=((1, "y"),), u_follows=((2, 0, 1.2),), same_u=((1, 4),)),
}
LOST = {
    "fixed": 2,
    "free variable": 2,
    "of another kind": 1,
    "sum": 1,
    "sum of free variables": 2,
    "U": 2,
    "same": 7,
    "rigid": 5,
    "rigid, on a pivot that is fixed": 8,
    "all": 8,
}


def crystal(adp: str) -> xray.structure:
    symmetry = sgtbx.space_group_info("P21").any_compatible_crystal_symmetry(volume=900)
    atoms = [
        xray.scatterer(f"C{i}", (0.13 * i, 0.2 + 0.09 * i**2 % 0.5, 0.31 * i % 0.9), u=0.02) for i in range(N)
    ]
    structure = xray.structure(crystal_symmetry=symmetry, scatterers=flex.xray_scatterer(atoms))
    return prepare_structure(structure, adp=adp, refine_occupancies=True)


def column(atom: int, name: str) -> int:
    return len(ATOM_PARAMETERS) * atom + ATOM_PARAMETERS.index(name)


@pytest.mark.parametrize("name", TIES)
def test_shifts_obey_the_ties(name):
    structure, ties = crystal("isotropic"), TIES[name]
    found = constraints(structure, ties)
    assert len(found.names) == len(constraints(structure).names) - LOST[name] == len(set(found.names))
    j = found.jacobian.numpy()
    assert np.linalg.matrix_rank(j) == len(j)
    p = np.random.default_rng(0).normal(size=len(j)) @ j
    for atom, parameter in ties.fixed:
        assert p[column(atom, parameter)] == pytest.approx(0.0, abs=1e-12)
    for variable in ties.free_variables:
        values = [p[column(atom, parameter)] / k for atom, parameter, k in variable]
        assert values == pytest.approx([values[0]] * len(values)) and abs(values[0]) > 1e-3
    for terms in ties.sums:
        each = [c * p[column(atom, parameter)] for atom, parameter, c in terms]
        assert sum(each) == pytest.approx(0.0, abs=1e-12) and max(map(abs, each)) > 1e-3
    for atom, other, factor in ties.u_follows:
        assert p[column(atom, "uiso")] == pytest.approx(factor * p[column(other, "uiso")])
    for pairs, parameter in ((ties.same_site, "z"), (ties.same_u, "uiso")):
        for first, other in pairs:
            assert p[column(first, parameter)] == pytest.approx(p[column(other, parameter)])
    for group in ties.groups:
        own = np.array([[p[column(i, x)] - p[column(group.pivot, x)] for x in "xyz"] for i in group.atoms])
        y = (own * group.modes[0]).sum() / (group.modes[0] ** 2).sum()
        assert np.allclose(own, y * group.modes[0]) and abs(y) > 1e-3


def test_equivalent_u_of_anisotropic_atoms():
    structure = crystal("anisotropic")
    structure.convert_to_isotropic(selection=flex.size_t([2]))
    structure.scatterers()[2].flags.set_grad_u_iso(True)
    j = constraints(structure, Ties(u_follows=((2, 0, 1.2),))).jacobian.numpy()
    p = 1e-6 * np.random.default_rng(0).normal(size=len(j)) @ j
    moved = structure.deep_copy_scatterers()
    scatterer = moved.scatterers()[0]
    names = ("u11", "u22", "u33", "u12", "u13", "u23")
    scatterer.u_star = tuple(u + p[column(0, name)] for u, name in zip(scatterer.u_star, names, strict=True))
    cell = structure.unit_cell()
    change = scatterer.u_iso_or_equiv(cell) - structure.scatterers()[0].u_iso_or_equiv(cell)
    assert p[column(2, "uiso")] == pytest.approx(1.2 * change)
