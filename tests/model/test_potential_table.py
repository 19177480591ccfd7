"""Derivatives of the potential in pieces."""

from __future__ import annotations

import pytest
import torch
from synthetic import WAVELENGTH, free_parameters, quartz, triclinic

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.model import potential_table
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.potential_table import tabulated


@pytest.mark.parametrize("atoms", [triclinic(), quartz()], ids=["triclinic", "quartz"])
@pytest.mark.parametrize("absorption", [0.0, 1.0])
def test_a_table_in_pieces_is_the_whole(atoms, absorption, monkeypatch):
    crystal = Crystal(atoms, *free_parameters(atoms), absorption)
    hkl = reflections_within(atoms.cell, 0.8)
    expected = crystal.potential(hkl, WAVELENGTH, True)
    monkeypatch.setattr(potential_table, "_CHUNK", 7 * len(crystal.shifts))
    bare, found = tabulated(lambda h: crystal.potential(h, WAVELENGTH, True), hkl, torch.float64)
    assert bare.derivatives is None
    for potential in (bare, found):
        torch.testing.assert_close(potential.u, expected.u)
        assert potential.absorption == pytest.approx(expected.absorption)
    torch.testing.assert_close(found.derivatives, expected.derivatives)
    if absorption:
        torch.testing.assert_close(found.absorption_derivatives, expected.absorption_derivatives)
    single = tabulated(lambda h: crystal.potential(h, WAVELENGTH, True), hkl, torch.float32)[1]
    assert single.u.dtype == single.derivatives.dtype == torch.complex64


def test_without_derivatives_there_are_none():
    crystal = Crystal(quartz(), *free_parameters(quartz()))
    hkl = reflections_within(quartz().cell, 0.5)
    bare, found = tabulated(lambda h: crystal.potential(h, WAVELENGTH, False), hkl, torch.float32)
    assert found.derivatives is None
    assert torch.equal(found.u, bare.u.to(torch.complex64))
