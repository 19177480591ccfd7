"""R values against sums done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from synthetic import double

from dials_hybrid.refine.rvalues import amplitude_weights, merged, observed, r1_with_best_scale, r_values

# F_o = 10, 5, 2, 0; only the first two have I > 3 sigma
INTENSITY = double([100.0, 25.0, 4.0, -3.0])
SIGMA = double([10.0, 5.0, 2.0, 1.0])
CALCULATED = double([81.0, 36.0, 1.0, 4.0])  # F_c = 9, 6, 1, 2


def test_sums_by_hand():
    values = r_values(INTENSITY, SIGMA, CALCULATED)
    assert values.n_observed == 2 and values.n_all == 4
    assert values.r1_obs == pytest.approx((1 + 1) / 15)
    assert values.r1_all == pytest.approx((1 + 1 + 1 + 2) / 17)
    # sigma_F = 0.5, 0.5, 0.5 and 5 sqrt(1)
    w = [1 / (0.25 + 0.01), 1 / (0.25 + 0.0025), 1 / (0.25 + 0.0004), 1 / 25]
    numerator = w[0] + w[1] + w[2] + 4 * w[3]
    denominator = 100 * w[0] + 25 * w[1] + 4 * w[2]
    assert values.wr_all == pytest.approx(math.sqrt(numerator / denominator))


def test_weights_change_formula_where_the_intensity_drowns():
    i = double([0.02, 0.009, 0.0, -7.0])
    expected = double([1 / (1 / (4 * 0.02) + 1e-4 * 0.02), 1 / (25 + 1e-4 * 0.009), 1 / 25, 1 / 25])
    torch.testing.assert_close(amplitude_weights(i, torch.ones_like(i)), expected)


def test_observed_is_strictly_more_than_three_sigma():
    assert observed(double([3.0, 3.001, -9.0]), double([1.0, 1.0, 1.0])).tolist() == [False, True, False]


def test_perfect_model():
    values = r_values(INTENSITY, SIGMA, INTENSITY)
    assert values.r1_obs == values.r1_all == values.wr_all == 0.0


def test_negative_calculated_intensities_count_as_zero():
    """A spline in thickness can dip below zero."""
    assert r_values(double([16.0]), double([1.0]), double([-4.0])).r1_obs == 1.0


def test_nothing_to_sum_is_not_a_number():
    """As for a free set without reflections."""
    none = torch.zeros(0, dtype=torch.float64)
    values = r_values(none, none, none)
    assert values.n_all == values.n_observed == 0
    assert all(math.isnan(r) for r in (values.r1_obs, values.r1_all, values.wr_all))
    weak = r_values(double([2.0]), double([1.0]), double([1.0]))
    assert math.isnan(weak.r1_obs) and weak.r1_all == pytest.approx(1.0 - 0.5**0.5)


def test_merged_means():
    group = torch.tensor([1, 0, 0])
    i, sigma, calculated = merged(
        group, double([7.0, 10.0, -4.0]), double([0.5, 3.0, 4.0]), double([8.0, 2.0, 6.0])
    )
    assert i.tolist() == [3.0, 7.0]
    assert sigma.tolist() == [2.5, 0.5]
    assert calculated.tolist() == [4.0, 8.0]


def test_merging_leaves_out_groups_that_no_observation_has():
    one = double([1.0])
    assert [part.tolist() for part in merged(torch.tensor([2]), one, one, one)] == [[1.0]] * 3


def test_best_scale_is_that_of_a_search():
    torch.manual_seed(4)
    f_o, f_c = 5.0 + 20.0 * torch.rand(2, 12, dtype=torch.float64)
    sigma = torch.where(torch.arange(12) < 9, 0.1 * f_o**2, f_o**2)  # the last three are not observed
    found = r1_with_best_scale(f_o**2, sigma, f_c**2)
    k = torch.linspace(0.1, 5.0, 50001, dtype=torch.float64)[:, None]
    searched = ((f_o - k * f_c)[:, :9].abs().sum(1) / f_o[:9].sum()).min()
    assert found == pytest.approx(float(searched), abs=1e-4)
    assert found <= searched
    assert r1_with_best_scale(f_o**2, sigma, 7.0 * f_o**2) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(r1_with_best_scale(f_o**2, f_o**2, f_c**2))
