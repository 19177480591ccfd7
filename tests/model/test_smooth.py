from __future__ import annotations

import pytest
import torch

from dials_hybrid.model.smooth import spline_basis

ANGLE = torch.linspace(-20.0, 30.0, 101, dtype=torch.float64)
NUMBERS = [1, 2, 3, 4, 5, 9]


@pytest.mark.parametrize("n", NUMBERS)
def test_functions_are_positive_and_add_up_to_one(n):
    basis = spline_basis(ANGLE, -20.0, 30.0, n)
    assert basis.shape == (len(ANGLE), n)
    assert (basis >= 0.0).all()
    assert (basis.amax(0) > 0.4).all()
    torch.testing.assert_close(basis.sum(1), torch.ones_like(ANGLE), rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", NUMBERS)
def test_polynomials_up_to_their_degree_are_exact(n):
    degree = min(3, n - 1)
    basis = spline_basis(ANGLE, -20.0, 30.0, n)
    polynomial = (1 + ANGLE / 30.0) ** degree
    coefficients = torch.linalg.lstsq(basis, polynomial[:, None]).solution
    torch.testing.assert_close(basis @ coefficients, polynomial[:, None])
    higher = ((ANGLE / 30.0) ** (degree + 1))[:, None]
    residual = basis @ torch.linalg.lstsq(basis, higher).solution - higher
    assert residual.abs().max() > 1e-6


@pytest.mark.parametrize("n", [4, 9])
def test_splines_are_smooth(n):
    """Second derivatives of cubic splines are continuous: no jump of the third differences."""
    basis = spline_basis(torch.linspace(0, 1, 2001, dtype=torch.float64), 0.0, 1.0, n)
    second = basis.diff(dim=0).diff(dim=0) * 2000**2
    assert second.diff(dim=0).abs().max() < 0.02 * second.abs().max()


@pytest.mark.parametrize("n", NUMBERS)
def test_outside_the_limits_it_stays_what_it_is_at_the_limit(n):
    outside, limits = (torch.tensor(x, dtype=torch.float64) for x in ([-99.0, 99.0], [-20.0, 30.0]))
    assert torch.equal(spline_basis(outside, -20.0, 30.0, n), spline_basis(limits, -20.0, 30.0, n))


def test_each_function_has_its_own_region():
    order = spline_basis(ANGLE, -20.0, 30.0, 9).argmax(0)
    assert (order.diff() > 0).all()


def test_precision_of_the_angles_is_kept():
    assert spline_basis(ANGLE.float(), -20.0, 30.0, 5).dtype == torch.float32
