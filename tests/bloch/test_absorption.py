from __future__ import annotations

import csv
import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import (
    WAVELENGTH,
    atomic_model,
    central_differences,
    double,
    free_parameters,
    largest_error,
    quartz,
    triclinic,
)

from dials_hybrid.bloch import absorption
from dials_hybrid.bloch.absorption import (
    absorption_scale,
    absorptive_structure_factor_derivatives,
    absorptive_structure_factors,
)
from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.electron import relativistic_factor, wave_number
from dials_hybrid.bloch.matrix import DifferenceTable, coupling
from dials_hybrid.bloch.scattering import potential_scale, structure_factors
from dials_hybrid.data import ATOM_PARAMETERS

CRYSTALS = {"P1": triclinic, "P3221": quartz}
ORIGIN = torch.zeros(1, 3, dtype=torch.long)
TABLE = Path(absorption.__file__).with_name("absorptive_form_factors.csv")
TOOL = Path(__file__).resolve().parent.parent.parent / "tools/absorptive_form_factors.py"
# h / (m_0 c) [A], which turns F'_g / (gamma lambda) into f' v / c
COMPTON = 0.0242631

# f' v / c [A] without its Debye-Waller factor at s = 0 and 0.5 1/A, from the parametrisation of
# Thomas, Cleverley & Beanland (2024), Acta Cryst. A80: form factors of Lobato & Van Dyck.
PUBLISHED = {
    ("C", 1.0): (0.00992, 0.00590),
    ("O", 1.0): (0.01565, 0.01045),
    ("Si", 0.5): (0.02687, 0.02025),
    ("Si", 1.0): (0.03935, 0.02737),
    ("Au", 0.5): (0.51670, 0.43554),
    ("Au", 1.0): (0.70720, 0.56791),
    ("Pb", 0.5): (0.55071, 0.46331),
    ("Pb", 1.0): (0.75427, 0.60372),
    ("Pb", 2.0): (0.98384, 0.73454),
}


@pytest.fixture(params=CRYSTALS)
def atoms(request):
    return CRYSTALS[request.param]()


def one_atom(element: str, b: float):
    """A cubic cell of 10 A with an atom in the origin: s of (h00) is h / 20."""
    form_factors = {element: ((1.0,), (1.0,))}
    u = b / (8 * math.pi**2)
    return atomic_model(
        (10, 10, 10, 90, 90, 90), [(element, (0, 0, 0), u, 1.0, 1.0)], form_factors=form_factors
    )


def along_a(*h: int):
    return torch.tensor([(i, 0, 0) for i in h])


def form_factor(element: str, s_squared):
    with TABLE.open(encoding="ascii") as file:
        header, *rows = csv.reader(file)
    (row,) = (row for row in rows if row[0] == element)
    return sum(float(a) * np.exp(-float(b) * s_squared) for a, b in zip(row[1:], header[1:], strict=True))


def within_reach(atoms):
    return torch.cat([ORIGIN, reflections_within(atoms.cell, 1.0)])


@pytest.mark.parametrize("element, b", [("Pb", 1.2), ("O", 0.4), ("H", 3.0)])
def test_integral_over_the_plane(element, b):
    """The definition of f', integrated numerically around the middle between the two atoms' peaks."""
    s = np.array([0.0, 0.3, 0.8, 2.0])
    found = absorptive_structure_factors(one_atom(element, b), along_a(*(20 * s).astype(int)))
    # Gauss-Legendre over ln |s'|, trapezoids over its angle
    nodes, weights = np.polynomial.legendre.leggauss(400)
    radius = np.exp(9.5 * nodes - 5.5)
    angle = (np.arange(300) + 0.5) * 2 * math.pi / 300
    x, y = radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle)
    area = (9.5 * weights * radius**2)[:, None] * (2 * math.pi / 300)
    expected = []
    for half in s / 2:
        one, other = (half + x) ** 2 + y**2, (half - x) ** 2 + y**2
        lost = np.exp(-4 * b * half**2) - np.exp(-b * (one + other))
        expected.append(2 * (area * form_factor(element, one) * form_factor(element, other) * lost).sum())
    assert found.imag.abs().max() == 0.0
    np.testing.assert_allclose(found.real, expected, rtol=1e-8, atol=1e-8 * expected[0])


@pytest.mark.parametrize("element, b", PUBLISHED)
def test_published_values(element, b):
    found = absorptive_structure_factors(one_atom(element, b), along_a(0, 10)).real
    found = COMPTON * found * double([1.0, math.exp(b / 4)])
    np.testing.assert_allclose(found, PUBLISHED[element, b], rtol=6e-3)


def test_mean_absorption_is_the_cross_section_of_diffuse_scattering():
    """2 pi U'_0 / K = sigma / V, sigma = int gamma^2 f^2 (1 - T^2) dOmega."""
    b, atoms = 0.9, one_atom("Si", 0.9)
    s = np.linspace(0.0, 60.0, 400001)
    integrand = form_factor("Si", s**2) ** 2 * -np.expm1(-2 * b * s**2) * 2 * math.pi * s
    integral = integrand.sum() * s[1]
    sigma = relativistic_factor(WAVELENGTH) ** 2 * (2 * WAVELENGTH) ** 2 * integral  # g = 2 s
    u_0 = absorptive_structure_factors(atoms, ORIGIN).real * absorption_scale(atoms.cell, WAVELENGTH)
    assert 2 * math.pi * u_0.item() * WAVELENGTH == pytest.approx(sigma / 1000.0, rel=1e-7)


@pytest.mark.parametrize("refined", [ATOM_PARAMETERS[i:j] for i, j in ((0, 3), (3, 4), (4, 10), (10, 11))])
def test_derivatives_against_central_differences(atoms, refined):
    hkl = within_reach(atoms)
    jacobian, _ = free_parameters(atoms, refined)

    def shifted(x):
        f = absorptive_structure_factors(atoms, hkl, atoms.parameters + (jacobian.T @ x).reshape(-1, 11))
        return torch.view_as_real(f).flatten()

    found = absorptive_structure_factor_derivatives(atoms, hkl, jacobian)
    found = torch.view_as_real(found).flatten(1).T
    expected = central_differences(shifted, torch.zeros(len(jacobian), dtype=torch.float64), 1e-5)
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-8 * expected.abs().max()


def test_chunks_change_nothing(atoms, monkeypatch):
    hkl = within_reach(atoms)
    jacobian, _ = free_parameters(atoms)

    def both():
        return (
            absorptive_structure_factors(atoms, hkl),
            absorptive_structure_factor_derivatives(atoms, hkl, jacobian),
        )

    whole = both()
    monkeypatch.setattr(absorption, "_CHUNK", 5000)
    for one, other in zip(whole, both(), strict=True):
        assert largest_error(one, other) < 1e-13


def test_symmetry_occupancy_and_multiplicity_are_those_of_the_elastic_potential():
    """The same crystal described in P1, by the atoms that the operations of P3221 make."""
    symmetric = quartz()
    cell = tuple(symmetric.cell.tolist())
    every_atom = []
    for i, element in enumerate(symmetric.elements):
        for r, t in zip(symmetric.rotations, symmetric.translations, strict=True):
            row = symmetric.parameters[i]
            u = row[[4, 7, 8, 7, 5, 9, 8, 9, 6]].reshape(3, 3)
            u = (r @ u @ r.T)[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
            u = tuple(u.tolist()) if symmetric.anisotropic[i] else row[3].item()
            site = (r @ row[:3] + t).tolist()
            every_atom.append((element, site, u, 1.0, symmetric.multiplicity[i].item()))
    hkl = within_reach(symmetric)
    expected = absorptive_structure_factors(atomic_model(cell, every_atom), hkl)
    assert largest_error(absorptive_structure_factors(symmetric, hkl), expected) < 1e-12


def test_an_isotropic_tensor_is_an_isotropic_atom():
    cell = (4.3, 4.9, 5.2, 81.0, 97.0, 106.0)
    scalar = atomic_model(cell, [("Si", (0.1, 0.2, 0.3), 0.013, 1.0, 1.0)])
    star = 0.013 * torch.linalg.inv(absorption.metric_tensor(scalar.cell))
    star = tuple(star[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].tolist())
    tensor = atomic_model(cell, [("Si", (0.1, 0.2, 0.3), star, 1.0, 1.0)])
    hkl = within_reach(scalar)
    one, other = (absorptive_structure_factors(atoms, hkl) for atoms in (scalar, tensor))
    assert largest_error(one, other) < 1e-12


def test_the_potential_is_real(atoms):
    hkl = within_reach(atoms)
    f, opposite = absorptive_structure_factors(atoms, hkl), absorptive_structure_factors(atoms, -hkl)
    assert largest_error(f, opposite.conj()) < 1e-13
    assert f[0].real > f[1:].abs().max()


def test_it_is_real_in_a_centrosymmetric_crystal():
    atoms = triclinic()
    operations = torch.stack([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    atoms = replace(atoms, rotations=operations, translations=torch.zeros(2, 3, dtype=torch.float64))
    f = absorptive_structure_factors(atoms, within_reach(atoms))
    assert f.imag.abs().max() < 1e-13 * f.abs().max()
    assert f.real.min() < -1.0


def test_atoms_at_rest_do_not_absorb(atoms):
    hkl = within_reach(atoms)
    jacobian, _ = free_parameters(atoms, ATOM_PARAMETERS[3:10])
    at_rest = atoms.parameters.clone()
    at_rest[:, 3:10] = 0.0
    assert absorptive_structure_factors(atoms, hkl, at_rest).abs().max() < 1e-12
    colder, warmer = at_rest.clone(), at_rest.clone()
    colder[:, 3:10] = 0.01 * atoms.parameters[:, 3:10]
    warmer[:, 3:10] = 2.0 * atoms.parameters[:, 3:10]
    mean = [
        absorptive_structure_factors(atoms, ORIGIN, p).real.item() for p in (colder, atoms.parameters, warmer)
    ]
    assert 0.0 < mean[0] < 0.1 * mean[1] < mean[1] < mean[2] < 2.0 * mean[1]


def test_a_negative_displacement_does_not_absorb_either():
    atoms = one_atom("Si", -0.5)
    jacobian = torch.eye(11, dtype=torch.float64)
    assert absorptive_structure_factors(atoms, ORIGIN).abs() < 1e-12
    derivatives = absorptive_structure_factor_derivatives(atoms, along_a(0, 4), jacobian)
    assert derivatives.isfinite().all() and derivatives[3, 0] == 0.0


def test_total_intensity_decreases_with_thickness():
    """Quartz along c: faster than the mean absorption, since the columns of atoms draw the wave."""
    atoms = quartz()
    beams = reflections_within(atoms.cell, 0.9)
    beams = torch.cat([ORIGIN, beams[beams[:, 2] == 0]])
    table = DifferenceTable.of_beams([beams])
    u = potential_scale(atoms.cell, WAVELENGTH) * structure_factors(atoms, table.hkl)
    loss = absorption_scale(atoms.cell, WAVELENGTH) * absorptive_structure_factors(atoms, table.hkl)
    u_0 = loss[table.pairs(beams, beams).positions[0, 0]].real
    k = wave_number(WAVELENGTH)
    g_squared = beams.double() @ torch.tensor([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]], dtype=torch.float64)
    g_squared = (g_squared * beams).sum(1) * 4 / 3 / 4.913**2
    a = coupling(
        u + 1j * loss, table.pairs(beams, beams).positions, torch.ones(len(beams), dtype=torch.float64)
    )
    a = a + torch.diag_embed(-g_squared + 1j * u_0)
    assert (a - a.mH).abs().max() > 1e-4
    thickness = torch.arange(0.0, 2001.0, 50.0, dtype=torch.float64)
    psi = torch.matrix_exp(1j * math.pi / k * a * thickness[:, None, None])[:, :, 0]
    total = (psi.abs() ** 2).sum(1)
    assert total[0] == pytest.approx(1.0) and (total.diff() < 0).all()
    excess = -total.log()[1:] / (2 * math.pi * u_0 / k * thickness[1:])
    assert excess.min() > 1.0 and excess.max() < 3.0


@pytest.mark.parametrize("element", ["C", "O", "Si"])
def test_form_factors_at_low_angles_are_those_of_peng(element):
    atoms = atomic_model((10, 10, 10, 90, 90, 90), [(element, (0, 0, 0), 0.0, 1.0, 1.0)])
    peng = structure_factors(atoms, along_a(*range(2, 35))).real
    own = form_factor(element, (np.arange(2, 35) / 20) ** 2)
    np.testing.assert_allclose(own, peng, rtol=0.012)


def test_ions_absorb_like_atoms_and_the_unknown_is_refused():
    neutral = one_atom("Pb", 1.0)
    ion = replace(neutral, elements=("Pb2+",))
    assert absorptive_structure_factors(ion, ORIGIN) == absorptive_structure_factors(neutral, ORIGIN)
    with pytest.raises(ValueError, match="no absorptive form factors of Xx"):
        absorptive_structure_factors(replace(neutral, elements=("Xx",)), ORIGIN)


def test_table_is_that_of_the_script_and_complete():
    pytest.importorskip("cctbx")
    from cctbx.eltbx import e_scattering

    tool = runpy.run_path(str(TOOL))
    with TABLE.open(encoding="ascii") as file:
        header, *rows = csv.reader(file)
    assert [row[0] for row in rows] == list(e_scattering.ito_vol_c_2011_table_4_3_2_2_elements())
    np.testing.assert_allclose([float(b) for b in header[1:]], tool["EXPONENTS"], rtol=1e-5)
    for row in rows[::10]:
        expected = tool["amplitudes"](tool["form_factor"](row[0]))
        np.testing.assert_allclose([float(a) for a in row[1:]], expected, rtol=1e-4, atol=1e-9)
