from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from synthetic import BEAM, WAVELENGTH, triclinic, turned

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.bloch.matrix import DifferenceTable, coupling, symmetrisation
from dials_hybrid.bloch.scattering import potential_scale, structure_factors

K = 1 / WAVELENGTH


@pytest.fixture(scope="module")
def beams():
    """Beams (N, 3), their vectors r [1/A] and the U (D,) of all differences, with their table."""
    atoms = triclinic()
    hkl = reflections_within(atoms.cell, 0.45)
    hkl = torch.cat([torch.zeros_like(hkl[:1]), hkl])
    table = DifferenceTable.of_beams([hkl])
    u = potential_scale(atoms.cell, WAVELENGTH) * structure_factors(atoms, table.hkl)
    return hkl, hkl.to(torch.float64) @ turned(atoms, 0.3, -0.5, 0.2).T, u, table


def test_differences_of_all_beam_sets_are_found_again():
    sets = [torch.tensor(hkl) for hkl in ([[0, 0, 0], [3, -2, 1]], [[0, 0, 0], [-4, 0, 5], [-4, 1, 5]])]
    table = DifferenceTable.of_beams(sets)
    expected = set()
    for hkl in sets:
        differences = hkl[:, None] - hkl[None]
        pairs = table.pairs(hkl, hkl)
        assert torch.equal(table.hkl[pairs.positions], differences)
        assert torch.equal(table.hkl[pairs.opposite.positions], -differences)
        expected |= set(map(tuple, differences.flatten(0, 1).tolist()))
    assert sorted(map(tuple, table.hkl.tolist())) == sorted(expected)


def test_coupling_by_its_definition(beams):
    hkl, r, u, table = beams
    m = symmetrisation(r, BEAM, K)
    found = coupling(u, table.pairs(hkl, hkl).positions, m)
    at = {tuple(h): i for i, h in enumerate(table.hkl.tolist())}
    for i, j in np.ndindex(*found.shape):
        expected = 0.0 if i == j else u[at[tuple((hkl[i] - hkl[j]).tolist())]] * m[i] * m[j]
        assert abs(found[i, j] - expected) < 1e-16
    assert len(hkl) > 10


def test_real_potential_gives_a_hermitian_matrix(beams):
    hkl, r, u, table = beams
    a = coupling(u, table.pairs(hkl, hkl).positions, symmetrisation(r, BEAM, K))
    assert a.imag.abs().max() > 1e-3
    assert (a - a.mH).abs().max() < 1e-17


def test_batches_of_potentials_are_coupled_one_by_one(beams):
    hkl, r, u, table = beams
    m, pairs = symmetrisation(r, BEAM, K), table.pairs(hkl, hkl).positions
    both = coupling(torch.stack([u, 2j * u]), pairs, m)
    assert torch.equal(both[1], coupling(2j * u, pairs, m))


def test_symmetrisation_keeps_the_bloch_waves(beams):
    """M A M has the eigenvalues of the problem A c = gamma (1 + g.n / K) c it stands for."""
    hkl, r, u, table = beams
    m = symmetrisation(r, BEAM, K)
    s_g = excitation_errors(r, BEAM, K)
    a = coupling(u, table.pairs(hkl, hkl).positions, torch.ones_like(m)) + torch.diag(2 * K * s_g)
    weight = torch.diag(1 + (r @ BEAM) / K)
    expected = np.sort(scipy.linalg.eigvals(a.numpy(), weight.numpy()).real)
    symmetric = coupling(u, table.pairs(hkl, hkl).positions, m) + torch.diag(2 * K * s_g * m**2)
    np.testing.assert_allclose(torch.linalg.eigvalsh(symmetric), expected, rtol=0, atol=1e-11)
    assert 1e-4 < (m - 1).abs().max() < 1e-2
