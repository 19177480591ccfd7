"""How the instructions of a SHELX file name atoms and residues."""

from __future__ import annotations

import pytest

from dials_hybrid.io.shelx import read_shelx
from dials_hybrid.io.shelx_model import named_atoms, residue_numbers

HEAD = """\
TITL names
CELL 0.0251 8.0 9.0 10.0 90 90 90
ZERR 4 0 0 0 0 0 0
LATT -1
SFAC C H O
UNIT 8 8 8
EQIV $1 -x, y, -z
"""
ATOMS = """\
C1  1 0.10 0.10 0.10 11.0 0.02
H1  2 0.15 0.10 0.10 11.0 0.03
C2  1 0.20 0.10 0.10 11.0 0.02
O3  3 0.30 0.10 0.10 11.0 0.02
RESI 1 ONE
C4  1 0.40 0.10 0.10 11.0 0.02
RESI 2 ONE
C4  1 0.60 0.10 0.10 11.0 0.02
RESI 3 TWO
C4  1 0.80 0.10 0.10 11.0 0.02
HKLF 4
END
"""


def read(line):
    """The model with an instruction, and the instruction."""
    model = read_shelx(HEAD + line + "\n" + ATOMS)
    (instruction,) = model.restraints
    return model, instruction


@pytest.mark.parametrize(
    "line, expected",
    [
        ("SIMU C1 C2", [(0, None), (2, None)]),
        ("SIMU C1 > O3", [(0, None), (2, None), (3, None)]),  # without hydrogen
        ("SIMU O3 < C1", [(3, None), (2, None), (0, None)]),
        ("SIMU O3 LAST", [(3, None), (6, None)]),
        ("SIMU $O", [(3, None)]),
        ("SIMU C1 C4_2", [(0, None), (5, None)]),
        ("SIMU C1 C9", None),
        ("SIMU C1 C4_7", None),
    ],
)
def test_names(line, expected):
    model, instruction = read(line)
    assert named_atoms(model, instruction.arguments, None) == expected


def test_images_have_their_operation():
    model, instruction = read("DFIX 2.5 C1 C2_$1")
    (first, none), (second, operation) = named_atoms(model, instruction.arguments, None)
    assert (first, none, second) == (0, None, 2)
    assert operation.replace(" ", "").lower() == "-x,y,-z"


@pytest.mark.parametrize("name, expected", [("DFIX_3", [3]), ("DFIX_ONE", [1, 2]), ("DFIX_*", [1, 2, 3])])
def test_residues(name, expected):
    model, instruction = read(f"{name} 1.5 C4 C4_3")
    assert residue_numbers(model, instruction.residue) == expected
    atoms = named_atoms(model, instruction.arguments, expected[0])
    assert atoms is not None and atoms[0] == (3 + expected[0], None)


def test_without_a_residue_there_is_one_round():
    model, instruction = read("DFIX 1.5 C1 C2")
    assert residue_numbers(model, instruction.residue) == [None]
