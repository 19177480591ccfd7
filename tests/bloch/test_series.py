from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matrices import CASES, WAVE_NUMBER, exponentials, matrices
from scipy.special import jv
from synthetic import double

from dials_hybrid.bloch.series import Series, Spectrum, degree


@pytest.mark.parametrize("z", [0.0, 0.3, 5.0, 60.0, 480.0])
@pytest.mark.parametrize("smallest", [1e-6, 1e-15])
def test_the_series_ends_where_its_terms_are_negligible_and_not_much_later(z, smallest):
    last = degree(z, 0.0, smallest)
    assert np.abs(jv(np.arange(last, last + 200), z)).sum() < 2 * smallest
    assert last < 3 or abs(jv(last - max(3, last // 25), z)) > smallest / 10


def test_growing_vectors_make_the_series_longer():
    last, growth = degree(60.0, 0.02, 1e-6), 0.02
    n = np.arange(last, last + 200)
    assert np.abs(jv(n, 60.0) * np.exp(growth * n)).sum() < 2e-6
    assert last > degree(60.0, 0.0, 1e-6)


def test_coefficients_are_bessel_functions():
    thickness = double([0.0, 30.0, 900.0])
    spectrum = Spectrum(centre=0.1, half_width=1.3, absorption=0.02, spread=0.01)
    series = Series.of_spectrum(spectrum, thickness, WAVE_NUMBER)
    rate = 1.3 * math.pi / WAVE_NUMBER
    n, z = np.arange(len(series))[:, None], rate * thickness.numpy()
    factor = np.where(n == 0, 1.0, 2.0) * (-1.0) ** (n // 2)
    expected = torch.from_numpy(factor * jv(n, z))
    torch.testing.assert_close(series.coefficients, expected, rtol=0, atol=1e-14)
    slope = torch.from_numpy(factor * rate * (jv(n - 1, z) - jv(n + 1, z)) / 2)
    torch.testing.assert_close(series.by_thickness, slope, rtol=0, atol=1e-14)
    expected = torch.exp(1j * math.pi / WAVE_NUMBER * (0.1 + 0.02j) * thickness)
    torch.testing.assert_close(series.phase, expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("g_max", [0.7, 1.6])
def test_bounds_hold_all_eigenvalues_and_little_else(case, g_max):
    a = matrices(case, g_max=g_max, steps=5)
    bounds = Spectrum.of_matrices(a.coupling[None], a.diagonal[None], hermitian=True)
    values = torch.linalg.eigvalsh(a.full())
    low, high = float(values.min()), float(values.max())
    assert bounds.centre - bounds.half_width < low < high < bounds.centre + bounds.half_width
    assert 2 * bounds.half_width < 1.06 * (high - low)


def test_bounds_of_absorption():
    a = matrices("general", absorption=0.1)
    bounds = Spectrum.of_matrices(a.coupling[None], a.diagonal[None], hermitian=False)
    full = a.coupling + torch.diag_embed(a.diagonal)
    values = torch.linalg.eigvalsh((full - full.mH) / 2j)
    assert bounds.absorption - bounds.spread < values.min() < values.max() < bounds.absorption + bounds.spread
    assert (exponentials(a.coupling, a.diagonal, double([500.0])).abs() ** 2).sum(-1).max() < 0.9


def test_bounds_without_coupling_are_those_of_the_diagonals():
    diagonal = torch.linspace(-0.3, 0.5, 200, dtype=torch.float64).expand(2, 3, 200)
    bounds = Spectrum.of_matrices(torch.zeros(2, 200, 200).cdouble(), diagonal, hermitian=True)
    assert bounds.centre == pytest.approx(0.1)
    assert 0.4 <= bounds.half_width < 1.02 * 0.4


@pytest.mark.parametrize("n", [1, 2, 3])
def test_bounds_of_very_small_matrices(n):
    a = 0.1 * (torch.ones(1, n, n, dtype=torch.complex128) - torch.eye(n))
    d = torch.linspace(0.0, 0.3, n, dtype=torch.float64).expand(1, 2, n)
    bounds = Spectrum.of_matrices(a, d, hermitian=True)
    values = torch.linalg.eigvalsh(a + torch.diag_embed(d))
    assert bounds.centre - bounds.half_width <= values.min()
    assert values.max() <= bounds.centre + bounds.half_width


def test_a_matrix_that_is_not_finite_is_refused():
    a = torch.full((1, 4, 4), math.nan, dtype=torch.complex128)
    with pytest.raises(ValueError, match="not finite"):
        Spectrum.of_matrices(a, torch.zeros(1, 2, 4, dtype=torch.float64), hermitian=True)
