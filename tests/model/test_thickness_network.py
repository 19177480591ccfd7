"""Free distributions: what they start as, that they stay distributions, and what their priors forbid."""

from __future__ import annotations

import math

import pytest
import torch
from synthetic import double

from dials_hybrid.model.thickness import Normal, Wedge
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.model.thickness_network import Histogram, Neural

GRID = ThicknessGrid(1000.0, 40)
ANYWHERE = torch.zeros(4, dtype=torch.float64)
OPTIONS = {"terms": 4, "strength": 0.5, "thin": 80.0}


def neural(mean=430.0, width=200.0, seed=0, **options):
    return Neural(GRID, mean, width, **{"hidden": 6} | OPTIONS | options, seed=seed)


def histogram(mean=430.0, width=200.0, **options):
    return Histogram(GRID, mean, width, **OPTIONS | options)


def randomise(model, seed, size):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.mark.parametrize("build", [neural, histogram])
@pytest.mark.parametrize("mean, width", [(430.0, 200.0), (310.0, 60.0), (0.0, 900.0)])
def test_before_training_they_are_the_normal_distribution(build, mean, width):
    """But for the little that lets the data put something anywhere."""
    points = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = Normal(GRID, mean, width)(points)
    torch.testing.assert_close(build(mean, width)(points), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("build", [neural, histogram])
def test_any_numbers_give_a_distribution(build):
    """Positive shares that add up to one, bounded by the grid, for 1000 random settings."""
    model = build()
    where = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = torch.randn(1000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s = torch.randn(1000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    share = GRID.share(model.log_density(5.0 * f, s))
    assert (share >= 0.0).all()
    torch.testing.assert_close(share.sum(1), torch.ones(1000, dtype=torch.float64))
    for seed in range(1000):
        randomise(model, seed, size=0.1 + 0.003 * seed)
        weights = model(where).detach()
        assert torch.isfinite(weights).all()
        # splines of a density that is narrower than they are have small negative lobes
        assert (weights > -0.15).all() and (weights.sum(1) < 1.0 + 1e-3).all()


@pytest.mark.parametrize("build", [Neural, Histogram])
def test_they_can_start_from_a_wedge(build):
    """With a soft edge: half of the density where it ends, and a mean that is hardly larger."""
    options = OPTIONS | ({"hidden": 6, "seed": 0} if build is Neural else {})
    weights = build(GRID, 600.0, **options)(ANYWHERE).detach()
    wedge = Wedge(GRID, 600.0)(ANYWHERE).detach()
    assert (weights @ GRID.nodes).item() == pytest.approx((wedge @ GRID.nodes).item(), rel=0.05)
    level = weights[8]  # at 225 A; 600 and 800 A are the nodes 23 and 31
    assert (weights[23] / level).item() == pytest.approx(0.5, abs=0.02)
    assert 0.0 < (weights[31] / level).item() < 0.05


@pytest.mark.parametrize("start", [(600.0,), (300.0, 120.0)])
def test_a_stretched_distribution_is_that_of_a_thicker_crystal(start):
    model = neural(*start) if len(start) == 2 else Neural(GRID, *start, hidden=6, seed=0, **OPTIONS)
    plain = torch.zeros(4, dtype=torch.float64)
    share, stretched = (GRID.share(model.log_density(plain, double([math.log(x)]))) for x in (1.0, 1.3))
    mean, thicker = (float(x @ GRID.points) for x in (share, stretched))
    assert thicker == pytest.approx(1.3 * mean, rel=0.01)


def test_a_trained_network_depends_on_the_conditions():
    model = neural()
    randomise(model, 0, 1.0)
    one, other = model(double([[0.3, 0.1, 0.2, 0.9], [0.5, 0.1, 0.2, 0.9]]))
    assert (one - other).abs().max() > 1e-3


def test_the_seed_decides():
    def parameters(seed):
        return torch.nn.utils.parameters_to_vector(neural(seed=seed).parameters())

    assert torch.equal(parameters(7), parameters(7))
    assert not torch.equal(parameters(7), parameters(8))


@pytest.mark.parametrize("build", [neural, histogram])
def test_priors_are_centred_on_the_start(build):
    model = build(strength=0.25)
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    randomise(model, 1, 1.0)
    centre, sigma = model.prior()
    assert torch.equal(centre, start) and (sigma[-model.n_held :] == 0.25).all()
    assert torch.equal(start[-model.n_held :], torch.zeros(model.n_held, dtype=torch.float64))


def test_the_hidden_layer_has_a_prior_of_its_own():
    model = neural(strength=0.25)
    _, sigma = model.prior()
    assert (
        len(sigma) - model.n_held == 6 * 5 and (sigma[: -model.n_held] == sigma[0]).all() and sigma[0] != 0.25
    )


def test_no_freedom_where_all_intensities_grow_as_the_square_of_thickness():
    """Below t_0 the logarithm of the density is moved as a whole; far above, by the cosines themselves."""
    f = double([0.5, -0.3, 0.8, -1.0])
    blind, plain = histogram(thin=200.0), histogram(thin=1e-3)

    def tilt(model, t):
        return float(model.basis[(GRID.points - t).abs().argmin()] @ f)

    expected = sum(f[n - 1] / n * math.cos(0.9 * math.pi * n) for n in range(1, 5))
    assert tilt(plain, 900.0) == pytest.approx(float(expected), abs=0.02)
    assert abs(tilt(plain, 100.0) - tilt(plain, 1.0)) > 3.0 * abs(tilt(blind, 100.0) - tilt(blind, 1.0))
    assert abs(tilt(blind, 1.0) - tilt(plain, 200.0)) < 0.02


def test_detail_costs_more_than_trends():
    """Changes of the density of the same size: the l-th cosine needs l times the number."""

    def change(order, number):
        model = histogram(thin=1.0)
        model.f.data[order - 1] = number
        return (model.basis @ model.f.detach()).std().item()

    assert change(4, 0.4) == pytest.approx(change(1, 0.1), rel=0.1)
