from __future__ import annotations

import numpy as np
import pytest

from cctbx import sgtbx, xray
from cctbx.array_family import flex

from dials_hybrid.io.neighbours import bonded, within


@pytest.fixture
def chain() -> xray.structure:
    """C-C-C across a centre of symmetry, and an oxygen atom on both places of a disorder."""
    cell = sgtbx.space_group_info("P-1").any_compatible_crystal_symmetry(volume=800)
    fractional = cell.unit_cell().fractionalize
    places = {"C1": (0.7, 0.1, 0.0), "C2": (2.1, 0.5, 0.1), "O3A": (2.6, 1.7, 0.2), "O3B": (2.5, 1.6, 0.9)}
    atoms = [xray.scatterer(label, fractional(place), u=0.02) for label, place in places.items()]
    return xray.structure(crystal_symmetry=cell, scatterers=flex.xray_scatterer(atoms))


def test_bonds(chain):
    found = bonded(chain, parts=(0, 0, 1, 2))
    assert [[n.j for n in own] for own in found] == [[0, 1], [2, 3, 0], [1], [1]]
    image = found[0][0]
    assert not image.rt_mx.is_unit_mx()
    assert image.distance == pytest.approx(2 * np.linalg.norm((0.7, 0.1, 0.0)))
    assert np.allclose(image.vector, (-1.4, -0.2, 0.0))


def test_alternatives_are_bonded_only_without_their_numbers(chain):
    assert {n.j for n in bonded(chain)[2]} == {1, 3}


def test_atoms_that_share_a_site_are_no_neighbours(chain):
    atoms = chain.scatterers()
    atoms[3].site = atoms[2].site
    found = bonded(chain)
    assert {n.j for n in found[2]} == {1} == {n.j for n in found[3]}
    assert within(chain, 1.0) == [[], [], [], []]


def test_within(chain):
    assert {n.j for n in within(chain, 0.9)[2]} == {3}
    assert within(chain, 0.5) == [[], [], [], []]
