from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from synthetic import central_differences, double, free_parameters, largest_error, quartz, triclinic

from dials_hybrid.bloch import scattering
from dials_hybrid.bloch.beams import reflections_within, without_lattice_absences
from dials_hybrid.bloch.scattering import (
    cell_volume,
    metric_tensor,
    potential_scale,
    squared_lengths,
    structure_factor_derivatives,
    structure_factors,
)
from dials_hybrid.data import ATOM_PARAMETERS

CRYSTALS = {"P1": triclinic, "P3221": quartz}
SYMBOLS = ["P1", "P-1", "P3221", "R-3c:H", "P212121", "Pbnm", "Fdd2"]
# General and special positions, whatever the space group makes of them.
SITES = [(0, 0, 0), (0.25, 0.25, 0.25), (0.3, 0, 2 / 3), (0.41, 0.23, 0.17), (0.11, 0.22, 0.33)]


@pytest.fixture(params=CRYSTALS)
def atoms(request):
    return CRYSTALS[request.param]()


@pytest.fixture(params=SYMBOLS)
def cctbx_structure(request):
    """A random cell of the space group; anisotropic, isotropic and partly occupied atoms."""
    pytest.importorskip("cctbx")
    pytest.importorskip("smtbx")
    from cctbx import adptbx, sgtbx, xray

    from dials_hybrid.io.structure import prepare_structure

    symmetry = sgtbx.space_group_info(request.param).any_compatible_crystal_symmetry(volume=700)
    structure = xray.structure(crystal_symmetry=symmetry)
    for i, (site, element) in enumerate(zip(SITES, ["Si", "O", "C", "O", "N"], strict=True)):
        u_cart = (0.02, 0.03, 0.01, 0.004, -0.006, 0.003)
        u = adptbx.u_cart_as_u_star(symmetry.unit_cell(), u_cart) if i % 2 else 0.015
        structure.add_scatterer(xray.scatterer(f"{element}{i}", site, u=u, occupancy=1 - 0.1 * i))
    structure.apply_symmetry_u_stars()
    return prepare_structure(structure, adp="as_is")


def test_structure_factors_are_the_conjugates_of_cctbx(cctbx_structure):
    from cctbx import miller
    from cctbx.array_family import flex

    from dials_hybrid.io.tensors import atomic_model

    atoms = atomic_model(cctbx_structure)
    hkl = torch.cat([torch.zeros(1, 3, dtype=torch.long), reflections_within(atoms.cell, 0.5)])
    # where the lattice is centred, cctbx takes its absences for granted and gives any number there
    hkl = without_lattice_absences(hkl, atoms.rotations, atoms.translations)
    indices = miller.set(cctbx_structure, flex.miller_index(hkl.tolist()), anomalous_flag=True)
    expected = indices.structure_factors_from_scatterers(cctbx_structure, algorithm="direct").f_calc()
    expected = torch.from_numpy(expected.data().as_numpy_array()).conj()
    assert set(atoms.anisotropic.tolist()) == {True, False}
    assert (structure_factors(atoms, hkl) - expected).abs().max() < 1e-10


def test_metric_is_that_of_cctbx(cctbx_structure):
    cell = cctbx_structure.unit_cell()
    found = double(cell.parameters())
    hkl = reflections_within(found, 0.4)
    expected = [cell.d_star_sq(h) for h in hkl.tolist()]
    np.testing.assert_allclose(squared_lengths(found, hkl), expected, rtol=1e-12)
    assert float(cell_volume(found)) == pytest.approx(cell.volume(), rel=1e-12)


def test_metric_of_quartz():
    cell = quartz().cell
    assert float(cell_volume(cell)) == pytest.approx(4.913**2 * 5.405 * math.sqrt(3) / 2, rel=1e-14)
    assert metric_tensor(cell)[0, 1].item() == pytest.approx(-0.5 * 4.913**2)
    expected = 4 / 3 * (2**2 + 2 * 1 + 1**2) / 4.913**2 + 3**2 / 5.405**2
    assert squared_lengths(cell, torch.tensor([[2, 1, 3]])).item() == pytest.approx(expected, rel=1e-14)


def test_structure_factor_of_an_atom_at_rest_is_its_form_factor():
    atoms = triclinic()
    silicon = atoms.parameters.clone()
    silicon[1:, 10] = 0.0
    silicon[0, :10] = 0.0
    # Doyle-Turner and Peng agree: f_el(0) of Si is 5.828 A.
    f_0 = structure_factors(atoms, torch.zeros(1, 3, dtype=torch.long), silicon)
    assert f_0.item() == pytest.approx(5.828, abs=0.002)


@pytest.mark.parametrize("refined", [ATOM_PARAMETERS[i:j] for i, j in ((0, 3), (3, 4), (4, 10), (10, 11))])
def test_derivatives_against_central_differences(atoms, refined):
    hkl = reflections_within(atoms.cell, 1.0)
    jacobian, _ = free_parameters(atoms, refined)

    def shifted(x):
        f = structure_factors(atoms, hkl, atoms.parameters + (jacobian.T @ x).reshape(-1, 11))
        return torch.view_as_real(f).flatten()

    found = torch.view_as_real(structure_factor_derivatives(atoms, hkl, jacobian)).flatten(1).T
    x = torch.zeros(len(jacobian), dtype=torch.float64)
    expected = central_differences(shifted, x, 1e-5)
    assert (found - expected).abs().max() < 1e-8 * expected.abs().max()


def test_derivatives_against_autograd(atoms):
    hkl = reflections_within(atoms.cell, 1.0)
    n = atoms.parameters.numel()
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(7, n, generator=generator, dtype=torch.float64)

    def table(parameters):
        return torch.view_as_real(structure_factors(atoms, hkl, parameters))

    by_table = torch.autograd.functional.jacobian(table, atoms.parameters).reshape(-1, n)
    found = torch.view_as_real(structure_factor_derivatives(atoms, hkl, jacobian)).flatten(1).T
    assert largest_error(found, by_table @ jacobian.T) < 1e-12


def test_chunks_change_nothing(atoms, monkeypatch):
    hkl = reflections_within(atoms.cell, 0.8)
    jacobian, _ = free_parameters(atoms)
    whole = structure_factors(atoms, hkl), structure_factor_derivatives(atoms, hkl, jacobian)
    monkeypatch.setattr(scattering, "_CHUNK", 500)
    parts = structure_factors(atoms, hkl), structure_factor_derivatives(atoms, hkl, jacobian)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_other_hand_has_the_conjugate_structure_factors():
    atoms = triclinic()
    hkl = reflections_within(atoms.cell, 0.6)
    inverted = atoms.parameters.clone()
    inverted[:, :3] *= -1
    f, inverse = structure_factors(atoms, hkl), structure_factors(atoms, hkl, inverted)
    torch.testing.assert_close(inverse, f.conj())
    assert f.imag.abs().max() > 1.0


def test_mean_inner_potential_of_quartz():
    """V_0 = h^2 U_0 / (2 gamma m e): 11-12 V with free atoms, 9.6-10 V by holography."""
    atoms = quartz()
    f_0 = structure_factors(atoms, torch.zeros(1, 3, dtype=torch.long)).item().real
    wavelength, gamma = 0.0250793, 1.39139
    volts = 150.4123 * potential_scale(atoms.cell, wavelength) * f_0 / gamma
    assert volts == pytest.approx(47.878 * f_0 / float(cell_volume(atoms.cell)), rel=1e-4)
    assert 11.0 < volts < 12.5
