from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from synthetic import BEAM, central_differences, double, largest_error, sweep, triclinic, turned, upright

from dials_hybrid.model.thickness import Flat, Neural, Normal, ThicknessGrid, Wedge, conditions

MAXIMUM, NODES = 1000.0, 40
ANYWHERE = torch.zeros(4, dtype=torch.float64)


@pytest.fixture
def grid():
    return ThicknessGrid(MAXIMUM, NODES)


@pytest.fixture
def neural(grid):
    start = Normal(grid, mean=430.0, width=200.0)(ANYWHERE).detach()

    def build(seed=0, **options):
        return Neural(grid, start, **{"hidden": 6, "terms": 4, "strength": 0.5} | options, seed=seed)

    build.start = start
    return build


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


def test_quadrature_is_the_integral_over_the_whole_grid(grid):
    torch.testing.assert_close(grid.quadrature, grid.up_to(double(MAXIMUM)))
    assert (grid.quadrature > 0.0).all()


# ------------------------------------------------------------------------------ every model


def test_weights_do_not_depend_on_how_conditions_are_batched(grid, thickness_model):
    model = thickness_model(grid)
    if isinstance(model, Neural):
        randomise(model, 0, 1.0)
    several = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    weights = model(several)
    assert weights.shape == (3, NODES)
    for i in range(3):
        torch.testing.assert_close(weights[i], model(several[i]))


def test_derivatives_against_central_differences(grid, thickness_model):
    model = thickness_model(grid)
    names = [name for name, _ in model.named_parameters()]
    if isinstance(model, Neural):
        randomise(model, 0, 0.7)
    shapes = [parameter.shape for parameter in model.parameters()]
    where = double([0.3, -0.5, 0.1, 0.8])

    def weights(x):
        values = torch.split(x, [shape.numel() for shape in shapes])
        parameters = {name: v.reshape(s) for name, v, s in zip(names, values, shapes, strict=True)}
        return torch.func.functional_call(model, parameters, (where,))

    x = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    found = torch.autograd.functional.jacobian(weights, x)
    assert largest_error(found, central_differences(weights, x, 1e-4).detach()) < 1e-8


def test_prior_has_one_entry_a_parameter(grid, thickness_model):
    model = thickness_model(grid)
    centre, sigma = model.prior()
    assert len(centre) == len(sigma) == sum(p.numel() for p in model.parameters())
    assert (sigma > 0.0).all()


def test_weights_add_up_to_one(grid, thickness_model):
    """Exactly for densities; of a wedge of 390 A a little belongs to t = 0, which is no node."""
    model = thickness_model(grid)
    at_zero = {Flat: 2e-5, Wedge: 0.6 * grid.spacing / 390.0}.get(type(model), 1e-12)
    assert 1.0 - at_zero < model(ANYWHERE).sum().item() < 1.0 + 1e-12


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


@pytest.mark.parametrize("mean, width", [(500.0, 90.0), (430.0, 450.0), (0.0, 300.0)])
def test_normal_is_the_mean_over_the_truncated_distribution(grid, mean, width):
    """Up to a factor common to all reflections: crystal of thickness zero diffracts nothing."""
    p = scipy.stats.truncnorm(-mean / width, (MAXIMUM - mean) / width, loc=mean, scale=width)
    periods = [700.0, 500.0, 250.0]
    found = [(Normal(grid, mean, width)(ANYWHERE) @ rocking(grid, period)).item() for period in periods]
    expected = [
        scipy.integrate.quad(lambda t, x=x: p.pdf(t) * math.sin(math.pi * t / x) ** 2, 0, MAXIMUM)[0]
        for x in periods
    ]
    np.testing.assert_allclose(np.array(found) / sum(found), np.array(expected) / sum(expected), atol=3e-4)
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_error_falls_with_the_fourth_power_of_the_distance_of_nodes():
    thicknesses = np.linspace(450.0, 550.0, 33)
    errors = []
    for nodes in (20, 40, 80):
        grid = ThicknessGrid(MAXIMUM, nodes)
        found = [(grid.at(double(t)) @ rocking(grid, 400.0)).item() for t in thicknesses]
        errors.append(np.abs(found - np.sin(math.pi * thicknesses / 400.0) ** 2).max())
    assert errors[0] > 12 * errors[1] > 144 * errors[2]


# ------------------------------------------------------------------------------- the network


def test_before_training_the_network_gives_its_start_everywhere(neural):
    points = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(neural()(points), neural.start.expand(20, -1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("model, numbers", [(Flat, [310.0]), (Wedge, [777.0]), (Normal, [430.0, 60.0])])
def test_network_may_start_from_any_model(grid, model, numbers):
    """Also where that gives nothing or, as splines do, less than nothing."""
    start = model(grid, *numbers)(ANYWHERE).detach()
    weights = Neural(grid, start, hidden=3, terms=2, strength=1.0, seed=0)(ANYWHERE)
    assert (weights > 0.0).all()
    assert (weights @ grid.nodes).item() == pytest.approx((start @ grid.nodes).item(), rel=0.05)


def test_any_network_gives_a_distribution(neural):
    model = neural()
    where = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for seed in range(1000):
        randomise(model, seed, size=0.1 + 0.003 * seed)
        weights = model(where).detach()
        assert torch.isfinite(weights).all() and (weights >= 0.0).all() and (weights <= 1.0).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64))


def test_a_trained_network_depends_on_the_conditions(neural):
    model = neural()
    randomise(model, 0, 1.0)
    one, other = model(double([[0.3, 0.1, 0.2, 0.9], [0.5, 0.1, 0.2, 0.9]]))
    assert (one - other).abs().max() > 1e-3


def test_the_seed_decides(neural):
    def parameters(seed):
        return torch.nn.utils.parameters_to_vector(neural(seed=seed).parameters())

    assert torch.equal(parameters(7), parameters(7))
    assert not torch.equal(parameters(7), parameters(8))


def test_prior_of_the_network_is_centred_on_its_start(neural):
    model = neural(strength=0.25)
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    randomise(model, 1, 1.0)
    centre, sigma = model.prior()
    assert torch.equal(centre, start) and (sigma == 0.25).all()


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
