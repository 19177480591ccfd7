"""Splines on the nodes of thickness: exact for cubics, and for averages as good as quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from dials_hybrid.model.thickness_grid import ThicknessGrid

MAXIMUM, NODES = 1200.0, 24


@pytest.fixture(scope="module")
def grid() -> ThicknessGrid:
    return ThicknessGrid(MAXIMUM, NODES)


def cubic(t):
    """Starts as t^2, as intensities do."""
    return 3e-6 * t**2 - 2e-9 * t**3


def pendelloesung(t):
    return np.sin(np.pi * t / 310.0) ** 2


def at_nodes(function, grid) -> torch.Tensor:
    return torch.as_tensor(function(grid.nodes.numpy()))


def test_nodes_end_at_the_maximum(grid):
    assert len(grid) == NODES == len(grid.nodes)
    assert grid.nodes.tolist() == pytest.approx([50.0 * i for i in range(1, NODES + 1)])
    assert grid.spacing == 50.0


@pytest.mark.parametrize("t", [0.0, 13.0, 50.0, 777.7, 1200.0])
def test_a_cubic_is_exact_between_nodes(grid, t):
    values, place = at_nodes(cubic, grid), torch.tensor(t, dtype=torch.float64)
    assert float(grid.at(place) @ values) == pytest.approx(cubic(t), abs=1e-12)
    integral = 1e-6 * t**3 - 0.5e-9 * t**4
    assert float(grid.up_to(place) @ values) == pytest.approx(integral, abs=1e-9)


def test_each_spline_is_one_at_its_node(grid):
    weights = torch.stack([grid.at(t) for t in grid.nodes])
    assert weights == pytest.approx(torch.eye(NODES, dtype=torch.float64), abs=1e-12)


def test_beyond_the_maximum_the_last_node_counts(grid):
    assert torch.equal(grid.at(torch.tensor(1300.0)), grid.at(torch.tensor(MAXIMUM)))
    assert torch.equal(grid.at(torch.tensor(-5.0)), grid.at(torch.tensor(0.0)))


def test_parts_of_a_density_add_up(grid):
    log_p = -0.5 * ((grid.points - 400.0) / 90.0) ** 2
    assert float(grid.share(log_p).sum()) == pytest.approx(1.0)
    assert torch.allclose(grid.density(log_p + 17.0), grid.density(log_p))


@pytest.mark.parametrize(("mean", "width"), [(400.0, 90.0), (700.0, 30.0), (150.0, 12.0)])
def test_averages_over_a_density_by_quadrature(grid, mean, width):
    """Down to a fifth of the distance of two nodes; the rest is what the splines miss of the function."""
    weights = grid.density(-0.5 * ((grid.points - mean) / width) ** 2)
    found = float(weights @ at_nodes(pendelloesung, grid))

    def p(t):
        return np.exp(-0.5 * ((t - mean) / width) ** 2)

    def integral(function):
        return quad(function, 0, MAXIMUM, limit=200, points=[mean])[0]

    expected = integral(lambda t: p(t) * pendelloesung(t)) / integral(p)
    assert found == pytest.approx(expected, abs=2e-3)


def test_derivative_by_thickness(grid):
    t = torch.tensor(433.0, dtype=torch.float64, requires_grad=True)
    (grid.at(t) @ at_nodes(cubic, grid)).backward()
    assert float(t.grad) == pytest.approx(6e-6 * 433.0 - 6e-9 * 433.0**2)
