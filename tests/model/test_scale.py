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
    for index in range(len(scale.constant)):
        scale.constant.data[index] = math.log(2.0)
        scale.log_scale.data[index] = math.log((index + 2.5) / 2.0)
    torch.testing.assert_close(scale(), 2.5 + observations.crystal.double())


def test_logarithm_is_a_spline_over_the_observed_angles(scale, observations):
    scale.log_scale.data[0] = torch.tensor([0.1, -0.4, 0.7])
    own = observations.crystal == 0
    angle = observations.angle[own]
    basis = spline_basis(angle, float(angle.min()), float(angle.max()), 3)
    torch.testing.assert_close(scale()[own].log(), basis @ scale.log_scale[0])
    assert (scale()[~own] == 1.0).all()


def test_derivative_is_the_scale_times_the_design_matrix(scale):
    scale.constant.data += 0.4
    scale.log_scale.data += torch.linspace(-1, 1, 3, dtype=torch.float64)

    def call(constant, log_scale):
        return torch.func.functional_call(scale, {"constant": constant, "log_scale": log_scale})

    derivatives = torch.autograd.functional.jacobian(call, (scale.constant.data, scale.log_scale.data))
    expected = torch.cat([each.flatten(1) for each in derivatives], dim=1)
    torch.testing.assert_close(scale()[:, None] * scale.design_matrix, expected)


@pytest.mark.parametrize("n", [0, 1])
def test_crystals_with_hardly_an_observation(observations, n):
    few = selected(observations, torch.arange(len(observations)) < n)
    scale = Scale(few, n_crystals=1, n_nodes=4)
    scale.constant.data[:] = math.log(2.0)
    torch.testing.assert_close(scale(), torch.full((n,), 2.0, dtype=torch.float64))


def test_prior_leaves_the_constant_free_and_holds_the_rest(observations):
    scale = Scale(observations, n_crystals=2, n_nodes=3, restraint=0.07)
    centre, sigma = scale.prior()
    assert sigma.tolist() == [math.inf] * 2 + [0.07] * 6 and (centre == 0.0).all()


def test_one_node_is_the_constant(observations):
    scale = Scale(observations, n_crystals=2, n_nodes=1)
    assert scale.design_matrix.shape == (len(observations), 2) and scale.log_scale.numel() == 0
    scale.constant.data[:] = torch.tensor([0.5, 1.5])
    torch.testing.assert_close(scale().log(), 0.5 + observations.crystal.double())
