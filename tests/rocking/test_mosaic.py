from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from dials_hybrid.rocking.mosaic import mosaic_deviates

each_number_of_points = pytest.mark.parametrize("points", [1, 2, 3, 5, 7, 15, 21])


@each_number_of_points
def test_mosaic_deviates_are_means_of_equally_probable_intervals_over_and_over(points):
    deviates = mosaic_deviates(4 * points, points)
    bounds = norm.ppf(np.arange(points + 1) / points).clip(-12.0, 12.0)
    intervals = zip(bounds, bounds[1:], strict=False)
    expected = [norm.expect(lambda z: z, lb=low, ub=high, conditional=True) for low, high in intervals]
    for part in deviates.split(points):
        np.testing.assert_allclose(part.sort().values, expected, rtol=0, atol=1e-7)
        assert torch.equal(part, deviates[:points])


@each_number_of_points
def test_medians_are_those_of_equally_probable_intervals_in_the_order_of_the_means(points):
    medians = mosaic_deviates(4 * points, points, "medians")
    np.testing.assert_allclose(medians[:points].sort().values, norm.ppf((np.arange(points) + 0.5) / points))
    assert torch.equal(medians.argsort(stable=True), mosaic_deviates(4 * points, points).argsort(stable=True))


@each_number_of_points
def test_mosaic_deviates_have_mean_zero_and_a_variance_that_tends_to_one(points):
    deviates = mosaic_deviates(points, points)
    assert deviates.mean().item() == pytest.approx(0.0, abs=1e-14)
    assert 1.0 - 1.0 / points <= deviates.square().mean().item() < 1.0


@pytest.mark.parametrize("points", [5, 7, 15, 21])
def test_neighbouring_steps_have_distant_mosaic_deviates(points):
    quantile = torch.special.ndtr(mosaic_deviates(3 * points, points))
    jump = quantile.diff().abs()
    assert torch.minimum(jump, 1 - jump).min() > 0.25
