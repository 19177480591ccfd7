from __future__ import annotations

import math

import pytest
import torch
from synthetic import selected

from dials_hybrid.model.scale import Scale
from dials_hybrid.model.smooth import spline_basis


@pytest.fixture
def observations(synthetic):
    return synthetic.dataset.observations


@pytest.fixture
def scale(synthetic, observations):
    return Scale(observations, synthetic.dataset.steps.n_crystals, n_nodes=3)


def test_starts_at_one(scale):
    assert (scale() == 1.0).all()


def test_equal_coefficients_are_one_scale_a_crystal(scale, observations):
    for index in range(len(scale.log_scale)):
        scale.log_scale.data[index] = math.log(index + 2.5)
    torch.testing.assert_close(scale(), 2.5 + observations.crystal.double())


def test_logarithm_is_a_spline_over_the_observed_angles(scale, observations):
    scale.log_scale.data[0] = torch.tensor([0.1, -0.4, 0.7])
    own = observations.crystal == 0
    angle = observations.angle[own]
    basis = spline_basis(angle, float(angle.min()), float(angle.max()), 3)
    torch.testing.assert_close(scale()[own].log(), basis @ scale.log_scale[0])
    assert (scale()[~own] == 1.0).all()


def test_derivative_is_the_scale_times_the_design_matrix(scale):
    scale.log_scale.data += torch.linspace(-1, 1, 3, dtype=torch.float64)
    by_autograd = torch.autograd.functional.jacobian(
        lambda x: torch.func.functional_call(scale, {"log_scale": x}), scale.log_scale.data
    )
    expected = by_autograd.flatten(1)
    torch.testing.assert_close(scale()[:, None] * scale.design_matrix, expected)


@pytest.mark.parametrize("n", [0, 1])
def test_crystals_with_hardly_an_observation(observations, n):
    few = selected(observations, torch.arange(len(observations)) < n)
    scale = Scale(few, n_crystals=1, n_nodes=4)
    scale.log_scale.data[:] = math.log(2.0)
    torch.testing.assert_close(scale(), torch.full((n,), 2.0, dtype=torch.float64))


def test_prior_leaves_it_free(scale):
    centre, sigma = scale.prior()
    assert len(centre) == len(sigma) == scale.log_scale.numel()
    assert sigma.isinf().all()
