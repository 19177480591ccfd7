from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import WAVELENGTH, central_differences, double, largest_error, quartz, triclinic

from dials_hybrid.bloch.absorption import absorption_scale, absorptive_structure_factors
from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.electron import relativistic_factor
from dials_hybrid.bloch.scattering import cell_volume, squared_lengths, structure_factors
from dials_hybrid.model.crystal import Crystal, inversion_centre


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


def with_centre(atoms, translation):
    """The same atoms with an inversion at half of `translation` added."""
    return replace(
        atoms,
        rotations=torch.cat([atoms.rotations, -atoms.rotations]),
        translations=torch.cat([atoms.translations, double(translation) - atoms.translations]),
    )


@pytest.mark.parametrize("translation", [(0.0, 0.0, 0.0), (0.5, 0.0, 0.25)])
def test_potential_is_real_as_seen_from_a_centre_of_symmetry(translation):
    atoms = with_centre(triclinic(), translation)
    torch.testing.assert_close(inversion_centre(atoms), double(translation) / 2)
    generator = torch.Generator().manual_seed(0)
    jacobian = 0.1 * torch.randn(3, atoms.n_atoms * 11, generator=generator, dtype=torch.float64)
    crystal = Crystal(atoms, jacobian, tuple("abc"))
    hkl = reflections_within(atoms.cell, 0.8)
    found = crystal.potential(hkl, WAVELENGTH, derivatives=True)
    assert not found.u.is_complex() and not found.derivatives.is_complex()
    volume = cell_volume(atoms.cell)
    f = relativistic_factor(WAVELENGTH) / (torch.pi * volume) * structure_factors(atoms, hkl)
    moved = f * torch.exp(2j * torch.pi * (hkl.double() @ double(translation) / 2))
    torch.testing.assert_close(torch.complex(found.u, torch.zeros_like(found.u)), moved, rtol=0, atol=1e-15)

    def u(shifts):
        crystal.shifts.data = shifts
        return crystal.potential(hkl, WAVELENGTH, derivatives=False).u

    x = torch.zeros(3, dtype=torch.float64)
    assert largest_error(found.derivatives.T, central_differences(u, x, 1e-5)) < 1e-7


def test_a_structure_without_centre_has_none():
    assert inversion_centre(quartz()) is None


@pytest.mark.parametrize("centre", [False, True])
def test_a_refined_absorption_factor_is_one_more_parameter(centre):
    atoms = with_centre(triclinic(), (0.5, 0.0, 0.25)) if centre else triclinic()
    generator = torch.Generator().manual_seed(0)
    jacobian = 0.1 * torch.randn(2, atoms.n_atoms * 11, generator=generator, dtype=torch.float64)
    crystal = Crystal(atoms, jacobian, tuple("ab"), 0.7, absorption_restraint=0.5)
    centres, sigmas = crystal.prior()
    assert centres.tolist() == [0.0, 0.0, 0.7] and sigmas.tolist() == [torch.inf, torch.inf, 0.5]
    hkl = reflections_within(atoms.cell, 0.8)

    def u(x):
        crystal.shifts.data, crystal.absorption_factor.data = x[:2], x[2:]
        now = crystal.potential(hkl, WAVELENGTH, derivatives=False)
        return torch.cat([torch.view_as_real(now.u).flatten(), double([now.absorption])])

    x = double([0.01, -0.02, 1.3])
    expected = central_differences(u, x, 1e-5)
    u(x)
    assert crystal.absorption == 1.3
    found = crystal.potential(hkl, WAVELENGTH, derivatives=True)
    both = [torch.view_as_real(found.derivatives).flatten(1), found.absorption_derivatives[:, None]]
    assert largest_error(torch.cat(both, dim=1).T, expected) < 1e-7


@pytest.mark.parametrize("centre", [False, True])
def test_absorption_adds_its_own_potential_and_derivatives(centre):
    atoms = with_centre(triclinic(), (0.5, 0.0, 0.25)) if centre else triclinic()
    generator = torch.Generator().manual_seed(0)
    jacobian = 0.1 * torch.randn(3, atoms.n_atoms * 11, generator=generator, dtype=torch.float64)
    elastic, crystal = (Crystal(atoms, jacobian, tuple("abc"), factor) for factor in (0.0, 0.7))
    hkl = reflections_within(atoms.cell, 0.8)
    found = crystal.potential(hkl, WAVELENGTH, derivatives=True)
    absorptive = -1j * (found.u - elastic.potential(hkl, WAVELENGTH, derivatives=False).u)
    strength = 0.7 * absorption_scale(atoms.cell, WAVELENGTH) * absorptive_structure_factors(atoms, hkl)
    torch.testing.assert_close(absorptive.abs(), strength.abs(), rtol=1e-9, atol=1e-15)
    if centre:
        assert absorptive.imag.abs().max() < 1e-15
    assert found.absorption > absorptive.abs().max()

    def u(shifts):
        crystal.shifts.data = shifts
        now = crystal.potential(hkl, WAVELENGTH, derivatives=False)
        return torch.cat([torch.view_as_real(now.u).flatten(), double([now.absorption])])

    expected = central_differences(u, torch.zeros(3, dtype=torch.float64), 1e-5)
    both = [torch.view_as_real(found.derivatives).flatten(1), found.absorption_derivatives[:, None]]
    assert largest_error(torch.cat(both, dim=1).T, expected) < 1e-7


@pytest.mark.parametrize("restraint", [None, 0.5])
def test_an_elastic_crystal_has_the_same_parameters_and_no_absorption(restraint):
    atoms = triclinic()
    jacobian = torch.eye(11 * atoms.n_atoms, dtype=torch.float64)[:3]
    bare = Crystal(atoms, jacobian, tuple("abc"))
    crystal = Crystal(atoms, jacobian, tuple("abc"), 0.7, restraint, elastic=True)
    hkl = reflections_within(atoms.cell, 0.8)
    expected, found = (each.potential(hkl, WAVELENGTH, derivatives=True) for each in (bare, crystal))
    n = len(crystal.prior()[0])
    assert n == (3 if restraint is None else 4) and found.derivatives.shape == (n, len(hkl))
    assert torch.equal(found.u, expected.u) and torch.equal(found.derivatives[:3], expected.derivatives)
    assert not found.derivatives[3:].any() and not found.absorption
    assert found.absorption_derivatives is None


# ------------------------------------------------------------------------- overall displacements


@pytest.fixture(params=[0.0, 0.7], ids=["elastic", "absorbing"])
def dosed(request, crystal):
    """Three crystals; the second and the third have displacements beside those of the first."""
    absorption = request.param
    model = Crystal(
        crystal.start,
        crystal.jacobian,
        crystal.names,
        absorption,
        0.5 if absorption else None,
        n_displacements=2,
    )
    model.shifts.data[:] = 0.01
    model.overall_u.data[:] = double([0.004, 0.009])
    return model


def test_an_overall_displacement_is_a_factor_on_the_elastic_potential(crystal, hkl):
    model = Crystal(crystal.start, crystal.jacobian, crystal.names, n_displacements=1)
    model.overall_u.data[:] = 0.006
    first, second = (model.potential(hkl, WAVELENGTH, False, index).u for index in (0, 1))
    factor = torch.exp(-2.0 * torch.pi**2 * 0.006 * squared_lengths(crystal.start.cell, hkl))
    torch.testing.assert_close(second, first * factor, rtol=1e-12, atol=1e-15)
    assert torch.equal(first, crystal.potential(hkl, WAVELENGTH, False).u)


def test_the_larger_displacement_absorbs_more(dosed, hkl):
    potentials = [dosed.potential(hkl, WAVELENGTH, False, index) for index in range(3)]
    absorption = [potential.absorption for potential in potentials]
    assert absorption == sorted(absorption) and (absorption[2] > absorption[0]) == (dosed.absorption > 0.0)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_derivatives_by_all_parameters_of_several_crystals(dosed, hkl, index):
    x = torch.nn.utils.parameters_to_vector(dosed.parameters()).detach()
    assert len(x) == len(dosed.prior()[0]) == 7 + (dosed.absorption > 0.0)

    def u(values):
        torch.nn.utils.vector_to_parameters(values, dosed.parameters())
        found = dosed.potential(hkl, WAVELENGTH, False, index)
        both = torch.view_as_real(found.u.to(torch.complex128)).flatten()
        return torch.cat([both, both.new_tensor([found.absorption])])

    expected = central_differences(u, x, 1e-5)
    torch.nn.utils.vector_to_parameters(x, dosed.parameters())
    found = dosed.potential(hkl, WAVELENGTH, True, index)
    derivatives = torch.view_as_real(found.derivatives.to(torch.complex128)).flatten(1)
    of_mean = found.absorption_derivatives
    of_mean = derivatives.new_zeros(len(x)) if of_mean is None else of_mean
    derivatives = torch.cat([derivatives, of_mean[:, None]], dim=1).T
    own = [i for i in range(len(x)) if i < len(x) - 2 or i == len(x) - 3 + index]
    others = [i for i in range(len(x)) if i not in own]
    assert not derivatives[:, others].any() and not expected[:, others].any()
    assert largest_error(derivatives[:, own], expected[:, own]) < 1e-6
