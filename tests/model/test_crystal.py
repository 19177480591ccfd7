from __future__ import annotations

import pytest
import torch
from synthetic import WAVELENGTH, central_differences, largest_error, quartz, triclinic

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.electron import relativistic_factor
from dials_hybrid.bloch.scattering import cell_volume, structure_factors
from dials_hybrid.model.crystal import Crystal


@pytest.fixture(params=[triclinic, quartz], ids=["P1", "P3221"])
def crystal(request):
    """Five independent parameters, each of which changes every entry of the table."""
    atoms = request.param()
    generator = torch.Generator().manual_seed(0)
    jacobian = 0.1 * torch.randn(5, atoms.n_atoms * 11, generator=generator, dtype=torch.float64)
    return Crystal(atoms, jacobian, tuple("abcde"))


@pytest.fixture
def hkl(crystal):
    return reflections_within(crystal.start.cell, 0.8)


def test_without_shifts_the_structure_is_the_one_given(crystal):
    assert torch.equal(crystal.atoms().parameters, crystal.start.parameters)


def test_each_parameter_shifts_the_table_along_its_row(crystal):
    crystal.shifts.data[3] = 0.25
    expected = crystal.start.parameters + 0.25 * crystal.jacobian[3].reshape(-1, 11)
    torch.testing.assert_close(crystal.atoms().parameters, expected)
    assert crystal.atoms().cell is crystal.start.cell


def test_potential_is_the_scaled_structure_factor(crystal, hkl):
    crystal.shifts.data[:] = 0.01
    volume = cell_volume(crystal.start.cell)
    expected = relativistic_factor(WAVELENGTH) / (torch.pi * volume) * structure_factors(crystal.atoms(), hkl)
    found = crystal.potential(hkl, WAVELENGTH, derivatives=False)
    torch.testing.assert_close(found.u, expected, rtol=1e-13, atol=0)
    assert found.derivatives is None


def test_derivatives_of_the_potential_away_from_the_start(crystal, hkl):
    x = torch.full((5,), 0.01, dtype=torch.float64)

    def u(shifts):
        crystal.shifts.data = shifts
        return torch.view_as_real(crystal.potential(hkl, WAVELENGTH, derivatives=False).u).flatten()

    expected = central_differences(u, x, 1e-5)
    crystal.shifts.data = x
    found = crystal.potential(hkl, WAVELENGTH, derivatives=True).derivatives
    assert largest_error(torch.view_as_real(found).flatten(1).T, expected) < 1e-7
