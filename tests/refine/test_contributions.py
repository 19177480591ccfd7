from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_target import observations

from dials_hybrid.refine.contributions import _about_structure, _normal_matrices, contributions
from dials_hybrid.refine.error_model import ErrorModel
from dials_hybrid.refine.least_squares import Linearisation
from dials_hybrid.refine.target import Target

STRUCTURE = slice(0, 3)
N = 60  # observations of each crystal


def problem(scale=1.0, degenerate=False):
    """Two crystals, three shared parameters and two of their own each; the derivatives of the second crystal
    are `scale` times as large. A degenerate one has an own parameter that does what a shared one does."""
    generator = torch.Generator().manual_seed(2)
    j = torch.randn(2 * N, 7, generator=generator, dtype=torch.float64)
    j[:N, 5:], j[N:, 3:5] = 0.0, 0.0
    j[N:] *= scale
    if degenerate:
        j[N:, 5] = 2.0 * j[N:, 0]
    residuals = torch.randn(2 * N, generator=generator, dtype=torch.float64)
    data = observations([0.0] * (2 * N), [1.0] * (2 * N))
    data = replace(data, crystal=torch.arange(2).repeat_interleave(N))
    return Linearisation(residuals, j), data


def found(at, data, prior=None, target=None):
    prior = torch.zeros(7, 7, dtype=torch.float64) if prior is None else prior
    target = target or Target.of(data, ErrorModel())
    inverse = torch.linalg.inv(at.jacobian.T @ at.jacobian + prior)
    return contributions(at, data.crystal, target, inverse, prior, STRUCTURE)


def test_what_crystals_say_about_the_structure_adds_up():
    """The referee is the inverse of the whole normal matrix."""
    at, data = problem()
    prior = torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    matrices = _normal_matrices(at, data.crystal, 2)
    torch.testing.assert_close(matrices.sum(0), at.jacobian.T @ at.jacobian)
    total = sum(_about_structure(matrix, prior, STRUCTURE) for matrix in matrices)
    expected = torch.linalg.inv(matrices.sum(0) + prior)[STRUCTURE, STRUCTURE]
    torch.testing.assert_close(torch.linalg.inv(total), expected)


def test_parts_add_up():
    at, data = problem()
    first, second = found(at, data)
    assert first.information + second.information == pytest.approx(1.0)
    assert first.chi_squared + second.chi_squared == pytest.approx(1.0)
    assert first.n_parameters + second.n_parameters == pytest.approx(7.0)
    assert first.n_work == second.n_work == N
    variance = float((at.residuals[:N] ** 2).sum()) / (N - first.n_parameters)
    assert first.goodness_of_fit == pytest.approx(variance**0.5)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_units_do_not_matter_but_precision_does(scale):
    at, data = problem(scale)
    other = replace(at, jacobian=at.jacobian * torch.tensor([1e3, 1.0, 1e-3, 1.0, 1.0, 1.0, 1.0]))
    first, second = found(at, data)
    assert found(other, data)[0].information == pytest.approx(first.information)
    if scale > 1.0:
        assert second.information > 0.8


def test_a_crystal_whose_own_numbers_take_it_all_says_less():
    plain, degenerate = (found(*problem(degenerate=flag))[1].information for flag in (False, True))
    assert degenerate < 0.75 * plain


def test_a_structure_that_is_held():
    at, data = problem()
    held = replace(at, jacobian=at.jacobian.clone())
    held.jacobian[:, STRUCTURE] = 0.0
    prior = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64))
    assert [each.information for each in found(held, data, prior)] == [None, None]


def test_weights_change_parts_but_no_goodness_of_fit():
    at, data = problem()
    target = Target.of(data, ErrorModel(), emphasis=(3.0, 1.0))
    root = target.emphasis.sqrt()
    weighted = Linearisation(root * at.residuals, root[:, None] * at.jacobian)
    plain, found_ = found(at, data)[0], found(weighted, data, target=target)[0]
    assert found_.information > 1.2 * plain.information
    assert found_.chi_squared > 1.2 * plain.chi_squared
    assert found_.goodness_of_fit == pytest.approx(plain.goodness_of_fit, rel=0.05)
