from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from synthetic import BEAM, central_differences, double, largest_error, sweep, triclinic, turned, upright

from dials_hybrid.model.thickness import Flat, Gamma, Normal, Wedge, conditions, moments
from dials_hybrid.model.thickness_grid import ThicknessGrid

MAXIMUM, NODES = 1000.0, 40
ANYWHERE = torch.zeros(4, dtype=torch.float64)


@pytest.fixture
def grid():
    return ThicknessGrid(MAXIMUM, NODES)


def rocking(grid, period):
    """Two-beam intensities sin^2(pi t / xi) at the nodes."""
    return torch.sin(math.pi * grid.nodes / period) ** 2


def randomise(model, seed, size):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


# ------------------------------------------------------------------------------------- the grid


def test_at_a_node_the_weight_is_one_there_and_zero_elsewhere(grid):
    for j in (0, 17, NODES - 1):
        expected = torch.eye(NODES, dtype=torch.float64)[j]
        torch.testing.assert_close(grid.at(grid.nodes[j]), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("t", [333.3, 500.0, 771.0])
def test_straight_lines_are_reproduced(grid, t):
    assert (grid.at(double(t)) @ grid.nodes).item() == pytest.approx(t, rel=1e-6)
    area = (grid.up_to(double(t)) - grid.up_to(double(300.0))) @ grid.nodes
    assert area.item() == pytest.approx((t**2 - 300.0**2) / 2, rel=1e-6)


def test_beyond_the_grid_the_last_node_counts(grid):
    torch.testing.assert_close(grid.at(double(1200.0)), grid.at(double(MAXIMUM)))
    assert not grid.at(double(-5.0)).any()


def test_a_uniform_density_integrates_over_the_whole_grid(grid):
    weights = grid.density(torch.zeros_like(grid.points))
    torch.testing.assert_close(weights, grid.up_to(double(MAXIMUM)) / MAXIMUM)
    assert grid.share(torch.zeros_like(grid.points)).sum() == pytest.approx(1.0)


# ------------------------------------------------------------------------------ every model


def test_weights_do_not_depend_on_how_conditions_are_batched(grid, thickness_model):
    model = thickness_model(grid)
    if hasattr(model, "strength"):
        randomise(model, 0, 1.0)
    several = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    weights = model(several)
    assert weights.shape == (3, NODES)
    for i in range(3):
        torch.testing.assert_close(weights[i], model(several[i]))


def test_derivatives_against_central_differences(grid, thickness_model):
    model = thickness_model(grid)
    names = [name for name, _ in model.named_parameters()]
    if hasattr(model, "strength"):
        randomise(model, 0, 0.7)
    shapes = [parameter.shape for parameter in model.parameters()]
    where = double([0.3, -0.5, 0.1, 0.8])

    def weights(x):
        values = torch.split(x, [shape.numel() for shape in shapes])
        parameters = {name: v.reshape(s) for name, v, s in zip(names, values, shapes, strict=True)}
        return torch.func.functional_call(model, parameters, (where,))

    x = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    found = torch.autograd.functional.jacobian(weights, x)
    assert largest_error(found, central_differences(weights, x, 3e-4).detach()) < 1e-8


def test_prior_has_one_entry_a_parameter(grid, thickness_model):
    model = thickness_model(grid)
    centre, sigma = model.prior()
    assert len(centre) == len(sigma) == sum(p.numel() for p in model.parameters())
    assert (sigma > 0.0).all()


def test_weights_and_what_belongs_to_thickness_zero_add_up_to_one(grid, thickness_model):
    """The spline at t = 0 has value 1 and slope 0 there: half an interval of the density, nearly."""
    model = thickness_model(grid)
    missing = 1.0 - model(ANYWHERE).sum().item()
    assert -2e-5 < missing < 0.6 * grid.spacing / 390.0


# ------------------------------------------------------------------- against exact integrals


# Twenty and ten nodes a period; the error of a spline is largest at the upper end of the grid.
@pytest.mark.parametrize("period, inside, at_the_end", [(500.0, 2e-5, 2e-4), (250.0, 3e-4, 2e-3)])
def test_flat_is_the_intensity_at_one_thickness(grid, period, inside, at_the_end):
    for t in np.linspace(1.0, MAXIMUM, 113):
        found = Flat(grid, t)(ANYWHERE) @ rocking(grid, period)
        tolerance = inside if t < 0.9 * MAXIMUM else at_the_end
        assert found.item() == pytest.approx(math.sin(math.pi * t / period) ** 2, abs=tolerance)


@pytest.mark.parametrize("period, tolerance", [(500.0, 1e-5), (250.0, 1e-4)])
@pytest.mark.parametrize("top", [80.0, 310.0, 777.0, 1000.0])
def test_wedge_is_the_mean_over_all_thicknesses(grid, period, tolerance, top):
    found = Wedge(grid, top)(ANYWHERE) @ rocking(grid, period)
    phase = 2 * math.pi * top / period
    assert found.item() == pytest.approx(0.5 - math.sin(phase) / (2 * phase), abs=tolerance)


EXACT = {
    Normal: lambda mean, width: scipy.stats.truncnorm(
        -mean / width, (MAXIMUM - mean) / width, loc=mean, scale=width
    ),
    Gamma: lambda mean, width: scipy.stats.gamma((mean / width) ** 2, scale=width**2 / mean),
}


# The narrowest have a third and two thirds of the distance of two nodes.
@pytest.mark.parametrize("period, tolerance", [(700.0, 1e-4), (500.0, 3e-4), (250.0, 3e-3)])
@pytest.mark.parametrize(
    "model, mean, width",
    [
        *((Normal, mean, width) for mean, width in ((500.0, 90.0), (430.0, 450.0), (0.0, 300.0))),
        *((Normal, mean, width) for mean in (500.0, 512.5, 519.0) for width in (8.0, 16.0)),
        *((Gamma, mean, width) for mean, width in ((300.0, 200.0), (600.0, 60.0), (200.0, 190.0))),
    ],
)
def test_densities_are_means_over_the_distribution(grid, model, mean, width, period, tolerance):
    """Crystal of thickness zero diffracts nothing, but counts."""
    p = EXACT[model](mean, width)
    t = np.linspace(0.0, MAXIMUM, 200_001)[1:]
    pdf = p.pdf(t) / scipy.integrate.trapezoid(p.pdf(t), t)
    expected = scipy.integrate.trapezoid(pdf * np.sin(math.pi * t / period) ** 2, t)
    found = model(grid, mean, width)(ANYWHERE) @ rocking(grid, period)
    assert found.item() == pytest.approx(expected, abs=tolerance)


def test_width_and_mean_are_found_again(grid):
    for model in (Normal, Gamma):
        found = model(grid, 430.0, 120.0)
        assert found.mean.item() == 430.0
        assert found.width.item() == pytest.approx(120.0)
        mean, spread = moments(found(ANYWHERE).detach(), grid.nodes)
        assert mean.item() == pytest.approx(430.0, abs=0.5)
        assert spread.item() == pytest.approx(120.0, rel=0.01)


def test_error_falls_with_the_fourth_power_of_the_distance_of_nodes():
    thicknesses = np.linspace(450.0, 550.0, 33)
    errors = []
    for nodes in (20, 40, 80):
        grid = ThicknessGrid(MAXIMUM, nodes)
        found = [(grid.at(double(t)) @ rocking(grid, 400.0)).item() for t in thicknesses]
        errors.append(np.abs(found - np.sin(math.pi * thicknesses / 400.0) ** 2).max())
    assert errors[0] > 12 * errors[1] > 144 * errors[2]


# -------------------------------------------------------------------------------- conditions


def test_conditions_are_the_scaled_angle_and_the_beam_in_the_crystal():
    atoms = triclinic()
    steps = sweep(turned(atoms, 0.3, -0.5, 0.2), n=5, width=2.0)
    found = conditions(steps.angle, steps.basis, BEAM.expand(5, 3), (-4.0, 4.0))
    assert found[:, 0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    direct = torch.linalg.inv(steps.basis).mT  # columns a, b, c
    along = (direct @ found[:, 1:, None])[..., 0]
    torch.testing.assert_close(along / along.norm(dim=1, keepdim=True), BEAM.expand(5, 3))
    torch.testing.assert_close(found[:, 1:].norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_conditions_along_c_are_a_unit_vector():
    basis = upright(triclinic())[None]
    direct_c = torch.linalg.inv(basis[0])[2]
    found = conditions(double([0.0]), basis, (direct_c / direct_c.norm())[None], (0.0, 0.0))
    np.testing.assert_allclose(found, [[0, 0, 0, 1]], atol=1e-12)
