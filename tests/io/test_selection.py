from __future__ import annotations

import pytest

from cctbx import sgtbx, xray
from cctbx.array_family import flex

from dials_hybrid.io.selection import selected

LABELS = ["C1", "C2", "C12", "N1", "O(1)", "H1A", "H1B", "Cl1"]


@pytest.fixture
def structure() -> xray.structure:
    symmetry = sgtbx.space_group_info("P1").any_compatible_crystal_symmetry(volume=1000)
    types = ["C", "C", "C", "N", "O", "H", "H", "Cl"]
    atoms = [
        xray.scatterer(label, (0.1 * i, 0, 0), u=0.01, scattering_type=kind)
        for i, (label, kind) in enumerate(zip(LABELS, types, strict=True))
    ]
    return xray.structure(crystal_symmetry=symmetry, scatterers=flex.xray_scatterer(atoms))


@pytest.mark.parametrize(
    "expression, labels",
    [
        ("all", LABELS),
        ("element C", ["C1", "C2", "C12"]),
        ("ELEMENT c o", ["C1", "C2", "C12", "O(1)"]),
        ("name C1", ["C1"]),
        ("name C1*", ["C1", "C12"]),
        ("name H1?", ["H1A", "H1B"]),
        ("name O(1) c2", ["C2", "O(1)"]),
        ("not element H", ["C1", "C2", "C12", "N1", "O(1)", "Cl1"]),
        ("name C1 or element N", ["C1", "N1"]),
        ("element C and not name C1", ["C2", "C12"]),
        ("name N1 or element C and name C2", ["C2", "N1"]),
        ("(name N1 or element C) and name C2 N1", ["C2", "N1"]),
        ("not (element C or element H)", ["N1", "O(1)", "Cl1"]),
    ],
)
def test_atoms(structure, expression, labels):
    parameters, mask = selected(structure, expression)
    assert [label for label, chosen in zip(LABELS, mask, strict=True) if chosen] == labels
    assert parameters == ("xyz", "u", "occ")


@pytest.mark.parametrize(
    "expression, parameters",
    [("xyz: all", ("xyz",)), ("u,occ:all", ("u", "occ")), ("XYZ u : all", ("xyz", "u"))],
)
def test_parameters(structure, expression, parameters):
    assert selected(structure, expression)[0] == parameters


@pytest.mark.parametrize(
    "expression",
    ["", "C1", "name", "element C and", "(all", "all)", "name C1 or or all", "z: all", ": all", "not"],
)
def test_nonsense(structure, expression):
    with pytest.raises(ValueError, match="cannot be understood|before the colon"):
        selected(structure, expression)


def test_nothing_selected(structure):
    with pytest.raises(ValueError, match="'name C3' selects no atom"):
        selected(structure, "name C3")
