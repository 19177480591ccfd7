"""The scan finds the thickness that intensities were made with."""

from __future__ import annotations

import pytest
import torch
from simulated import quartz_crystal, true_model

from dials_hybrid.data import Observations
from dials_hybrid.model.thickness import PARAMETRIC, Flat
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.target import Target
from dials_hybrid.refine.thickness_scan import scan_thickness

GRID = ThicknessGrid(800.0, 40)
TRUTH = {"flat": [308.0], "wedge": [549.0], "normal": [280.0, 160.0], "gamma": [240.0, 80.0]}


@pytest.fixture(scope="module")
def observations() -> Observations:
    return quartz_crystal().scan.dataset(0.1, 1).observations


@pytest.fixture(scope="module")
def sums():
    """Intensities at the nodes (M, T) from the wave equation."""
    hybrid = true_model(quartz_crystal().scan, Flat(GRID, 300.0), step=0.1, brightest=1.0)
    return hybrid.evaluate().sums.intensity


def scan(sums, observations, weights, noise=0.0):
    """Of 70 times the intensities of these thickness weights, with one per cent of `noise`."""
    intensity = 70.0 * sums @ weights
    random = torch.randn(len(intensity), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = 0.01 * intensity.mean()
    return scan_thickness(sums, GRID, target_of(intensity + noise * sigma * random, sigma))


def target_of(intensity, sigma, held_out=None):
    work = torch.ones_like(intensity) if held_out is None else (~held_out).double()
    one = torch.ones_like(work)
    return Target(intensity, sigma.expand(len(intensity)), work, one, one)


def weights_of(name, numbers):
    return PARAMETRIC[name](GRID, *numbers)(torch.zeros(4)).detach()


@pytest.mark.parametrize("name", TRUTH)
def test_truth_is_the_best(name, sums, observations):
    found = scan(sums, observations, weights_of(name, TRUTH[name]), noise=1.0)
    spacing = 40.0 if name in ("normal", "gamma") else 8.0
    assert found.best[name] == pytest.approx(TRUTH[name], abs=spacing)
    assert min(found.best_chi_squared, key=found.best_chi_squared.get) == name
    assert not found.at_bound


def test_chi_squared_of_exact_intensities_is_nil(sums, observations):
    """For a candidate of the scan itself; the scale is found in closed form."""
    thickness = scan(sums, observations, weights_of("flat", [300.0])).thickness
    exact = scan(sums, observations, weights_of("flat", [thickness[40]]))
    assert exact.best["flat"] == [thickness[40]]
    assert exact.best_chi_squared["flat"] < 1e-12 * min(
        exact.best_chi_squared["wedge"], max(exact.chi_squared)
    )
    assert exact.chi_squared.index(min(exact.chi_squared)) == 40


def test_free_reflections_have_no_say(sums, observations):
    weights = weights_of("wedge", TRUTH["wedge"])
    intensity = sums @ weights
    held_out = torch.arange(len(intensity)) % 5 == 0
    spoilt = torch.where(held_out, 1e3 * intensity, intensity)
    found, expected = (
        scan_thickness(sums, GRID, target_of(i, torch.ones(1).double(), held_out))
        for i in (spoilt, intensity)
    )
    assert found == expected


def test_a_crystal_thicker_than_the_grid_is_noticed(sums, observations):
    assert scan(sums, observations, weights_of("wedge", [800.0])).at_bound


def test_minima_are_listed_from_the_deepest(sums, observations):
    """sin^2(pi t / 400) is 1 at 200 and 600 A, sin^2(pi t / 200) at 100, 300, 500 and 700 A."""
    nodes = GRID.nodes
    beams = torch.cat([torch.sin(torch.pi * nodes / x).square().expand(15, -1) for x in (400.0, 200.0)])
    weights = Flat(GRID, 304.0)(torch.zeros(4)).detach()
    noise = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    intensity = beams @ weights + 0.3 * noise
    found = scan_thickness(beams, GRID, target_of(intensity, torch.full((1,), 0.3).double()))
    assert found.minima["flat"][0] == found.best["flat"]
    assert sorted(round(t / 100.0) for (t,) in found.minima["flat"]) == [1, 3, 5, 7]
