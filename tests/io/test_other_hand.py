"""The other hand against cctbx's, in groups whose enantiomorph is another one, or has another origin."""

from __future__ import annotations

import math

import pytest
import torch
from test_constraints_in_settings import crowded, free, reflections

from cctbx import sgtbx

from dials_hybrid.bloch.scattering import structure_factors
from dials_hybrid.io.tensors import atomic_model
from dials_hybrid.refine.absolute_structure import is_chiral, other_hand
from dials_hybrid.refine.state import Inputs

# Symbol of a setting: that of the other hand.
CHIRAL = {
    "P1": "P 1",
    "C2": "C 1 2 1",
    "P212121": "P 21 21 21",
    "P41": "P 43",
    "P43212": "P 41 21 2",
    "I41": "I 41",
    "I4122": "I 41 2 2",
    "P31": "P 32",
    "P3112": "P 32 1 2",
    "P3221": "P 31 2 1",
    "R32:R": "R 3 2 :R",
    "P61": "P 65",
    "P6422": "P 62 2 2",
    "P213": "P 21 3",
    "F4132": "F 41 3 2",
    "P4332": "P 41 3 2",
}


@pytest.mark.parametrize("symbol", CHIRAL)
def test_the_other_hand_is_that_of_cctbx(symbol):
    """Structure factors are the same but for the phases exp(-2 pi i h.t) of another origin."""
    structure = crowded(symbol)
    expected = structure.change_hand()
    assert str(expected.space_group_info()) == CHIRAL[symbol]
    given = atomic_model(structure)
    assert is_chiral(given)
    other = other_hand(
        Inputs(None, given, free(symbol).jacobian, free(symbol).names, free(symbol).origin_shifts)
    )
    hkl = reflections(symbol)
    shift = structure.space_group_info().type().change_of_hand_op().c().t().as_double()
    phase = -2.0 * math.pi * (hkl.double() @ torch.tensor(shift, dtype=torch.float64))
    found = structure_factors(other.atoms, hkl) * torch.polar(torch.ones_like(phase), phase)
    torch.testing.assert_close(found, structure_factors(atomic_model(expected), hkl), rtol=0, atol=1e-9)
    assert (found - structure_factors(given, hkl)).abs().max() > 0.1


def test_some_origins_do_move():
    moved = [
        symbol
        for symbol in CHIRAL
        if any(sgtbx.space_group_info(symbol).type().change_of_hand_op().c().t().as_double())
    ]
    assert {"I41", "I4122", "F4132"} <= set(moved)


@pytest.mark.parametrize("symbol", ["P-1", "Pna21", "I-4", "P-421m", "R3m:R", "I-43d"])
def test_groups_without_two_hands(symbol):
    assert not is_chiral(atomic_model(crowded(symbol)))
