"""Against abTEM, an independent program: see `reference/README.md`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from synthetic import atomic_model, double

from dials_hybrid.bloch import eigen
from dials_hybrid.bloch.beams import cut_segments, reflections_within
from dials_hybrid.bloch.electron import relativistic_factor, wave_number, wavelength
from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.bloch.matrix import DifferenceTable, coupling, symmetrisation
from dials_hybrid.bloch.scattering import potential_scale, structure_factors

TABLE = json.loads((Path(__file__).parent / "reference" / "abtem_bloch.json").read_text())
WAVELENGTH = wavelength(TABLE["energy_ev"] / 1000)
K = wave_number(WAVELENGTH)
UP = double([0.0, 0.0, 1.0])


@pytest.fixture(params=TABLE["cases"], ids=lambda case: case["name"])
def case(request):
    return request.param


@pytest.fixture
def atoms(case):
    gaussians = {
        element: (factor["a"], factor["b"])
        for element, factor in TABLE["form_factors"]["coefficients"].items()
    }
    atoms = [(element, xyz, u, 1.0, 1.0) for element, *xyz, u in case["atoms"]]
    return atomic_model(case["cell"], atoms, form_factors=gaussians)


def waves(case, atoms, symmetrised):
    """psi (N, T) in the order of the table, |psi|^2 being the flux, and M_g (N, 1)."""
    basis, hkl = double(case["reciprocal_basis"]), torch.tensor(case["hkl"])
    r = hkl.to(torch.float64) @ basis.T
    m = symmetrisation(r, UP, K) if symmetrised else torch.ones(len(r), dtype=torch.float64)
    table = DifferenceTable.of_beams([hkl])
    u = potential_scale(atoms.cell, WAVELENGTH) * structure_factors(atoms, table.hkl)
    a = coupling(u, table.pairs(hkl, hkl).positions, m) + torch.diag(
        2 * K * excitation_errors(r, UP, K) * m**2
    )
    thickness, beams = double(case["thicknesses"]), torch.arange(len(hkl))
    return eigen.solve(a[None], K).amplitudes(thickness, beams)[0], m[:, None]


def largest_relative_error(found, expected):
    strong = expected > 1e-4
    assert strong.sum() > 25
    return ((found - expected).abs() / expected)[strong].max()


def test_constants():
    assert WAVELENGTH == pytest.approx(TABLE["wavelength"], rel=1e-8)
    assert relativistic_factor(WAVELENGTH) == pytest.approx(TABLE["gamma"], rel=1e-8)


def test_excitation_errors(case):
    r = torch.tensor(case["hkl"], dtype=torch.float64) @ double(case["reciprocal_basis"]).T
    expected = double(case["excitation_errors"])
    torch.testing.assert_close(excitation_errors(r, UP, K), expected, rtol=0, atol=1e-9)


def test_couplings(case, atoms):
    u = potential_scale(atoms.cell, WAVELENGTH) * structure_factors(atoms, torch.tensor(case["coupling_hkl"]))
    expected = torch.complex(double(case["coupling_real"]), double(case["coupling_imag"]))
    assert (u - expected).abs().max() < 1e-7 * expected.abs().max()


def test_beams(case, atoms):
    hkl = reflections_within(atoms.cell, case["g_max"])
    basis, crystal = double(case["reciprocal_basis"])[None], torch.zeros(1, dtype=torch.long)
    (segment,) = cut_segments(basis, UP[None], crystal, hkl, wave_number=K, sg_max=case["sg_max"], length=1)
    assert sorted(segment.hkl.tolist()) == sorted(case["hkl"])


# The README lists what changes these numbers, by 1e-4 and more.
def test_intensities(case, atoms):
    psi, m = waves(case, atoms, symmetrised=True)
    assert largest_relative_error((m * psi).abs() ** 2, double(case["intensities"]).T) < 2e-6
    assert (m - 1).abs().max() > 1e-4 or not case["name"].endswith("general")


def test_intensities_without_symmetrisation(case, atoms):
    psi, _ = waves(case, atoms, symmetrised=False)
    assert largest_relative_error(psi.abs() ** 2, double(case["intensities_unsymmetrised"]).T) < 2e-6
