"""The error model finds the one that residuals were made with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from dials_hybrid.refine.error_model import ErrorModel, fit_error_model, log_likelihood

N = 4000
TRUTH = ErrorModel(gain=2.2, instability=0.025, floor=30.0)


def measured(cutoff, seed=0):
    """Intensities over four decades with normal or Student noise of the true error model."""
    rng = np.random.default_rng(seed)
    calculated = 10.0 ** rng.uniform(0.0, 4.5, N)
    sigma = np.sqrt(calculated + 400.0)
    true = np.sqrt((2.2 * sigma) ** 2 + (0.05 * calculated) ** 2 + 30.0**2)
    noise = rng.standard_normal(N) if cutoff is None else rng.standard_t(cutoff**2, N)
    return [torch.as_tensor(x) for x in (calculated + true * noise, sigma, calculated)]


def fit(data, cutoff, share=None, **fixed):
    share = torch.ones(N, dtype=torch.float64) if share is None else share
    return fit_error_model(*data, share=share, cutoff=cutoff, fixed=fixed)


def test_sigma_by_hand():
    """(2 * 3)^2 + (2 * 0.05 * (100 + 2 * 130) / 3)^2 + 4^2 = 36 + 144 + 16."""
    errors = ErrorModel(gain=2.0, instability=0.05, floor=4.0)
    i, sigma, calculated = (torch.tensor([x]) for x in (100.0, 3.0, 130.0))
    assert errors.sigma(i, sigma, calculated).item() == pytest.approx(14.0)
    assert errors.sigma(i, sigma).item() == pytest.approx(math.sqrt(36 + 100 + 16))
    assert errors.sigma(-i, sigma).item() == pytest.approx(math.sqrt(52))


@pytest.mark.parametrize("cutoff, referee", [(None, scipy.stats.norm), (3.0, scipy.stats.t(9.0))])
def test_log_likelihood_is_that_of_scipy(cutoff, referee):
    deviation, sigma = torch.tensor([-3.0, 0.5, 40.0]).double(), torch.tensor([2.0, 1.0, 5.0]).double()
    expected = referee.logpdf((deviation / sigma).numpy()) - np.log(sigma.numpy())
    np.testing.assert_allclose(log_likelihood(deviation, sigma, cutoff), expected)


@pytest.mark.parametrize("cutoff", [None, 3.0])
def test_truth_is_found(cutoff):
    """P contains the noise of I_obs, which takes something from the instability."""
    found = fit(measured(cutoff), cutoff)
    assert found.instability == pytest.approx(TRUTH.instability, rel=0.12)
    assert sigmas(found) == pytest.approx(sigmas(TRUTH), rel=0.1)


def sigmas(errors):
    """sigma' of a weak, a middling and a strong reflection."""
    i = torch.tensor([1.0, 300.0, 10000.0]).double()
    return errors.sigma(i, (i + 400.0).sqrt(), i).tolist()


def test_right_sigmas_stay():
    rng = np.random.default_rng(1)
    calculated, sigma = rng.uniform(10.0, 1e4, N), rng.uniform(5.0, 50.0, N)
    data = [torch.as_tensor(x) for x in (calculated + sigma * rng.standard_normal(N), sigma, calculated)]
    found = fit(data, 30.0)  # as good as normal
    assert found.gain == pytest.approx(1.0, abs=0.05)
    assert found.instability < 0.002 and found.floor < 5.0


def test_what_the_model_lacks_is_not_all_taken_for_noise():
    """An error of 20 % of the intensities: the instability stops at its limit."""
    i, sigma, calculated = measured(3.0)
    wrong = 1.0 + 0.2 * torch.as_tensor(np.random.default_rng(2).standard_normal(N))
    assert fit((i * wrong, sigma, calculated), 3.0).instability == pytest.approx(0.03)


def test_fixed_numbers_stay():
    data = measured(3.0)
    found = fit(data, 3.0, instability=0.01, floor=0.0)
    assert (found.instability, found.floor) == (0.01, 0.0)
    assert found.gain > TRUTH.gain
    assert fit(data, 3.0, gain=1.0, instability=0.02, floor=3.0) == ErrorModel(1.0, 0.02, 3.0)


def test_outliers_hardly_matter_to_the_robust_likelihood():
    i, sigma, calculated = measured(3.0)
    spoilt = i.clone()
    spoilt[::50] *= 30.0
    before, after = (fit((x, sigma, calculated), 3.0) for x in (i, spoilt))
    assert sigmas(after) == pytest.approx(sigmas(before), rel=0.5)


def test_repeated_rows_count_once():
    """Half of the measurements listed three times, with a third of a share each."""
    data = measured(3.0)
    rows = torch.cat([torch.arange(N), torch.arange(N // 2).repeat(2)])
    share = torch.ones(len(rows), dtype=torch.float64)
    share[: N // 2] = share[N:] = 1.0 / 3.0
    found = fit([x[rows] for x in data], 3.0, share)
    expected = fit(data, 3.0)
    assert found.gain == pytest.approx(expected.gain, rel=1e-3)
    assert found.instability == pytest.approx(expected.instability, rel=1e-3)
