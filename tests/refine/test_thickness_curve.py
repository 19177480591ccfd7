"""Mean and spread of p(t), their uncertainties, and what the thickness costs the structure."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from simulated import SETTINGS, quartz_crystal, simulate
from synthetic import central_differences

from dials_hybrid.model.simulation import silent
from dials_hybrid.model.thickness import Normal, moments
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.state import State
from dials_hybrid.refine.thickness_curve import thickness_in_uncertainties, thickness_moments

GRID = (600.0, 20)


@pytest.fixture(scope="module")
def hybrid():
    crystal = quartz_crystal()
    measured = simulate(crystal.scan, Normal(ThicknessGrid(*GRID), 200.0, 100.0), step=0.2)
    build = Builder(crystal.inputs(measured, crystal.truth), replace(SETTINGS, rocking_step=0.2), silent)
    model = build.hybrid(build.dataset(GRID[0], 1), State("scan", None, GRID, "neural", [[200.0, 100.0]]))
    x = model.vector()
    part = model.slices()["thickness"]
    noise = torch.randn(part.stop - part.start, generator=torch.Generator().manual_seed(0))
    x[part] += 0.5 * noise
    model.load_vector(x)
    return model


def random_covariance(n):
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return 0.01 * root @ root.T


def test_uncertainties_against_central_differences(hybrid):
    x, part = hybrid.vector(), hybrid.slices()["thickness"]
    covariance = random_covariance(len(x))
    rows = torch.tensor([0, 7, 20])
    found = thickness_moments(hybrid, SimpleNamespace(covariance=covariance), 0, rows)

    def both(numbers):
        hybrid.load_vector(torch.cat([x[: part.start], numbers, x[part.stop :]]))
        return torch.cat(moments(hybrid.thickness[0](hybrid.conditions[rows]), hybrid.grid.nodes)).detach()

    value, slope = both(x[part]), central_differences(both, x[part], 1e-4)
    hybrid.load_vector(x)
    torch.testing.assert_close(torch.cat([found.mean, found.spread]), value)
    variance = torch.einsum("kp,pq,kq->k", slope, covariance[part, part], slope)
    torch.testing.assert_close(
        torch.cat([found.mean_su, found.spread_su]), variance.sqrt(), rtol=1e-5, atol=0
    )


def test_what_the_thickness_costs(hybrid):
    """The inverse of the structure's own block of the normal matrix holds the thickness."""
    blocks, n = hybrid.slices(), len(hybrid.vector())
    covariance = random_covariance(n)
    both = torch.cat([torch.arange(n)[blocks["crystal"]], torch.arange(n)[blocks["thickness"]]])
    inverse = torch.linalg.inv(covariance[both][:, both])
    size = blocks["crystal"].stop
    held = torch.linalg.inv(inverse[:size, :size])
    free = covariance[:size, :size]
    expected = (torch.diagonal(free) / torch.diagonal(held)).max().sqrt().item()
    found = thickness_in_uncertainties(hybrid, SimpleNamespace(covariance=covariance))
    assert found == pytest.approx(expected, rel=1e-4)
