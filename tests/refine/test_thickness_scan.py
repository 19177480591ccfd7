"""The scan finds the thickness that intensities were made with."""

from __future__ import annotations

import pytest
import torch
from simulated import quartz_crystal, true_model

from dials_hybrid.data import Observations
from dials_hybrid.model.thickness import PARAMETRIC, Flat, ThicknessGrid
from dials_hybrid.refine.target import Target
from dials_hybrid.refine.thickness_scan import scan_thickness

GRID = ThicknessGrid(800.0, 40)
TRUTH = {"flat": [308.0], "wedge": [549.0], "normal": [280.0, 160.0]}


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
    target = Target(intensity + noise * sigma * random, torch.where(observations.free, 0.0, 1.0 / sigma))
    return scan_thickness(sums, GRID, target)


def weights_of(name, numbers):
    return PARAMETRIC[name](GRID, *numbers)(torch.zeros(4)).detach()


@pytest.mark.parametrize("name", TRUTH)
def test_truth_is_the_best(name, sums, observations):
    found = scan(sums, observations, weights_of(name, TRUTH[name]), noise=1.0)
    spacing = 8.0 if name != "normal" else 40.0
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
    root_weight = torch.where(held_out, 0.0, 1.0).double()
    spoilt = torch.where(held_out, 1e3 * intensity, intensity)
    found, expected = (scan_thickness(sums, GRID, Target(i, root_weight)) for i in (spoilt, intensity))
    assert found == expected


def test_a_crystal_thicker_than_the_grid_is_noticed(sums, observations):
    assert scan(sums, observations, weights_of("wedge", [800.0])).at_bound
