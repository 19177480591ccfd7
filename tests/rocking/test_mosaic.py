from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from dials_hybrid.rocking.mosaic import mosaic_deviates

each_number_of_points = pytest.mark.parametrize("points", [1, 2, 3, 5, 7, 15, 21])


@each_number_of_points
def test_mosaic_deviates_are_quantiles_of_the_normal_distribution_over_and_over(points):
    deviates = mosaic_deviates(4 * points, points)
    expected = norm.ppf((np.arange(points) + 0.5) / points)
    for part in deviates.split(points):
        np.testing.assert_allclose(part.sort().values, expected, rtol=0, atol=1e-12)
        assert torch.equal(part, deviates[:points])


@each_number_of_points
def test_mosaic_deviates_have_mean_zero_and_a_variance_that_tends_to_one(points):
    deviates = mosaic_deviates(points, points)
    assert deviates.mean().item() == pytest.approx(0.0, abs=1e-14)
    assert 1.0 - 1.25 / points < deviates.square().mean().item() < 1.0


@pytest.mark.parametrize("points", [5, 7, 15, 21])
def test_neighbouring_steps_have_distant_mosaic_deviates(points):
    quantile = torch.special.ndtr(mosaic_deviates(3 * points, points))
    jump = quantile.diff().abs()
    assert torch.minimum(jump, 1 - jump).min() > 0.25
