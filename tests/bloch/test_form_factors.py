"""Form factors against the published formulas and against others that they were not made from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import double, quartz, triclinic

from dials_hybrid.bloch.form_factors import charge, ion, with_form_factors
from dials_hybrid.bloch.scattering import form_factors, structure_factors

# Lobato & Van Dyck (2014), table of coefficients: a [A] and b [A^2] of silicon.
SILICON = (
    (2.87189142611612, -2.06173501195173, 2.17114024204478, -0.0663073633058801, 0.00301070709670513),
    (5.08487103642989, 0.429178185305126, 0.366485434192162, 0.119710611296903, 0.0143994536128397),
)


def test_lobato_van_dyck():
    atoms = with_form_factors(quartz(), "lobato")
    s = torch.linspace(0.0, 6.0, 50).double()
    a, b = map(double, SILICON)
    x = b * (2.0 * s[:, None]) ** 2
    expected = (a * (2.0 + x) / (1.0 + x) ** 2).sum(1)
    found = form_factors(atoms, s**2)[:, atoms.elements.index("Si")]
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=0.0)


def test_both_tables_agree_at_the_angles_of_bragg_reflections():
    s = torch.linspace(0.1, 1.5, 15).double() ** 2
    peng, lobato = (form_factors(with_form_factors(quartz(), table), s) for table in ("peng", "lobato"))
    assert 0.0 < (peng / lobato - 1.0).abs().max() < 0.06


def test_peng_leaves_neutral_atoms_as_they_are():
    atoms = quartz()
    found = with_form_factors(atoms, "peng")
    assert torch.equal(found.form_factor_a, atoms.form_factor_a)
    assert torch.equal(found.form_factor_b, atoms.form_factor_b)


@pytest.mark.parametrize(
    "name, expected", [("O2-", -2), ("Cs1+", 1), ("Br-", -1), ("Si4+", 4), ("Si", 0), ("O", 0)]
)
def test_charge(name, expected):
    assert charge(name) == expected


@pytest.mark.parametrize("name", ["Na1+", "Cl1-", "Cs1+", "Pb2+", "O2-", "Si4+"])
def test_ions_against_x_ray_form_factors(name):
    """Mott & Bethe with the X-ray form factors of ions by Waasmaier & Kirfel, fits of their own."""
    xray_scattering = pytest.importorskip("cctbx.eltbx.xray_scattering")
    tiny_pse = pytest.importorskip("cctbx.eltbx.tiny_pse")
    gaussian = xray_scattering.wk1995(name).fetch()
    number = tiny_pse.table(name.rstrip("+-0123456789")).atomic_number()
    s = double([0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6])
    x_ray = torch.tensor([gaussian.at_stol(value) for value in s.tolist()]).double()
    expected = 0.0239337 * (number - x_ray) / s**2
    a, b = ion(name, 0.02)
    found = (a * torch.exp(-b * s[:, None] ** 2)).sum(1)
    # The fits may differ by a twentieth of an electron, and in the tails by 5 %.
    tolerance = 0.05 * 0.0239337 / s**2 + torch.where(s > 1.0, 0.05, 0.02) * expected.abs()
    assert ((found - expected).abs() < tolerance).all()


def rock_salt():
    """Na+ and Cl- in a cell of 5.64 A, without its centring."""
    atoms = quartz()
    sites = double([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    parameters = torch.zeros(8, 11, dtype=torch.float64)
    parameters[:, :3] = torch.cat([sites, sites + 0.5])
    parameters[:, 3], parameters[:, 10] = 0.01, 1.0
    return replace(
        atoms,
        labels=tuple("abcdefgh"),
        elements=("Na1+",) * 4 + ("Cl1-",) * 4,
        cell=double([5.64, 5.64, 5.64, 90, 90, 90]),
        parameters=parameters,
        anisotropic=torch.zeros(8, dtype=torch.bool),
        multiplicity=torch.ones(8).double(),
        form_factor_type=torch.tensor([0] * 4 + [1] * 4),
        rotations=torch.eye(3).double()[None],
        translations=torch.zeros(1, 3).double(),
    )


def test_charges_of_a_neutral_cell_cancel_in_the_mean_potential():
    """At g = 0 the Gaussians of the table remain; else the term of the charge is that of the formula."""
    atoms = rock_salt()
    charged = with_form_factors(atoms, "peng")
    hkl = torch.tensor([[0, 0, 0], [1, 1, 1], [2, 0, 0], [2, 2, 0], [6, 2, 4]])
    found = structure_factors(charged, hkl)
    bare = [ion(name, 0.02) for name in ("Na1+", "Cl1-")]
    s_squared = hkl.double().square().sum(1) / 5.64**2 / 4.0
    signs = double([1, -1, 1, 1, 1])  # of chlorine
    gaussians = [(a[:5] * torch.exp(-b[:5] * s_squared[:, None])).sum(1) for a, b in bare]
    coulomb = 0.0239336 / s_squared * (1.0 - signs)
    coulomb[0] = 0.0
    factor = 4.0 * torch.exp(-8.0 * torch.pi**2 * 0.01 * s_squared)
    expected = factor * (gaussians[0] + signs * gaussians[1] + coulomb)
    torch.testing.assert_close(found.real, expected, rtol=2e-4, atol=1e-9)


def test_a_charged_cell_is_refused():
    atoms = replace(rock_salt(), elements=("Na1+",) * 4 + ("Cl",) * 4)
    with pytest.raises(ValueError, match=r"charge of \+4.00 together.*structure.ions=neutral"):
        with_form_factors(atoms, "peng")


def test_unknown_ions_are_refused():
    atoms = replace(triclinic(), elements=("H1+",) * triclinic().n_atoms)
    with pytest.raises(ValueError, match="no electron scattering factors of the ion H1"):
        with_form_factors(atoms, "peng")
