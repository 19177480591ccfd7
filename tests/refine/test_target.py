"""What is minimised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import double

from dials_hybrid.data import Observations
from dials_hybrid.refine.error_model import ErrorModel
from dials_hybrid.refine.target import Target, Weighting


def observations(intensity, sigma, free=()):
    m = len(intensity)
    index = torch.arange(m)
    return Observations(
        hkl=torch.ones(m, 3, dtype=torch.long),
        intensity=double(intensity),
        sigma=double(sigma),
        first=index,
        last=index + 1,
        crystal=torch.zeros(m, dtype=torch.long),
        angle=index.double(),
        row=index,
        frame=torch.full((m,), -1),
        share=torch.ones(m, dtype=torch.float64),
        free=torch.tensor([i in free for i in range(m)]),
    )


@pytest.fixture
def many():
    """200 intensities about 100, the calculated ones, and a target without robust weights."""
    generator = torch.Generator().manual_seed(0)
    calculated = 100.0 + 20.0 * torch.rand(200, generator=generator, dtype=torch.float64)
    noise = torch.randn(200, generator=generator, dtype=torch.float64)
    data = observations((calculated + 3.0 * noise).tolist(), [3.0] * 200, free=range(0, 200, 10))
    return calculated, Target.of(data, ErrorModel(instability=0.0))


def test_residuals_by_hand():
    """sigma'^2 = 9 + (2 * 0.02 * 100)^2 = 25; a negative intensity has no instability."""
    target = Target.of(observations([100.0, -50.0], [3.0, 2.0]), ErrorModel(instability=0.02))
    torch.testing.assert_close(target.residuals(double([110.0, -46.0])), double([2.0, 2.0]))
    assert target.chi_squared(double([110.0, -46.0])) == pytest.approx(8.0)


def test_free_reflections_have_no_weight():
    target = Target.of(observations([5.0, 7.0, 9.0], [1.0, 1.0, 1.0], free=[1]), ErrorModel())
    assert (target.root_weight > 0).tolist() == [True, False, True]
    assert target.n_work == 2
    a, b = double([5.0, 7.0, 9.0]), double([5.0, -1e9, 9.0])
    assert target.chi_squared(a) == target.chi_squared(b) == 0.0
    assert target.best_scale(b) == 1.0


def test_best_scale_minimises_chi_squared(many):
    """Against a fine grid; several models at once."""
    calculated, target = many
    models = torch.stack([calculated / 2.5, calculated**2])
    best = target.best_scale(models)
    assert best.shape == (2,)
    for factor, model in zip(best, models, strict=True):
        grid = factor * torch.linspace(0.99, 1.01, 2001, dtype=torch.float64)
        chi_squared = target.chi_squared(grid[:, None] * model)
        assert abs(int(chi_squared.argmin()) - 1000) <= 1
        assert chi_squared[0] > chi_squared[1000] < chi_squared[-1]


def test_robust_weights(many):
    """A residual of c robust deviations counts half; those of Gaussian noise hardly change."""
    calculated, target = many
    cutoff = 3.0
    residuals = target.residuals(calculated)
    deviation = 1.4826 * float(residuals[target.root_weight > 0].abs().median())
    assert deviation == pytest.approx(1.0, abs=0.2)
    spoilt = target.intensity.clone()
    spoilt[1] = calculated[1] - cutoff * deviation * 3.0
    spoilt[2] = calculated[2] + 1e6
    before = replace(target, intensity=spoilt)
    factor = (before.robust(calculated, cutoff).root_weight / before.root_weight) ** 2
    assert float(factor[1]) == pytest.approx(0.5, abs=0.03)
    assert factor[2] < 1e-9
    assert factor[3:].nanmedian() > 0.9


def test_robust_weights_ignore_and_keep_out_the_free_set(many):
    calculated, target = many
    free = target.root_weight == 0.0
    spoilt = torch.where(free, calculated * 1e3, target.intensity)
    found = replace(target, intensity=spoilt).robust(calculated, 3.0).root_weight
    torch.testing.assert_close(found, target.robust(calculated, 3.0).root_weight)
    assert (found[free] == 0.0).all()


def test_held_out_observations_have_no_weight_either(many):
    calculated, target = many
    held_out = torch.arange(200) % 7 == 0
    found = target.robust(calculated, 3.0).without(held_out)
    assert not found.work[held_out].any()
    assert found.n_work == (target.work & ~held_out).sum()
    again = target.without(held_out).robust(calculated, 3.0)  # weights made anew do not bring them back
    assert torch.equal(again.work, found.work)


@pytest.mark.parametrize("cutoff", [2.0, 3.0])
def test_goodness_of_fit_and_slope_of_normal_residuals(cutoff):
    """expected() against a million residuals, slope() against the derivative of psi."""
    r = torch.randn(10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = Target.of(observations(r[:100].tolist(), [1.0] * 100), ErrorModel(instability=0.0))
    one = torch.ones_like(r)
    target = replace(target, intensity=-r, sigma=one, share=one, emphasis=one, robust_weight=one)
    target = target.robust(torch.zeros_like(r), cutoff)
    zero = torch.zeros_like(r)
    assert target.expected() == pytest.approx(float(target.chi_squared(zero) / len(r)), rel=0.005)

    def psi(r):
        return r / (1.0 + (r / cutoff) ** 2)

    slope = (psi(r + 1e-5) - psi(r - 1e-5)).mean() / 2e-5
    assert target.slope() == pytest.approx(float(slope / (psi(r) / r).mean()), rel=0.005)


@pytest.mark.parametrize("cutoff", [2.0, 3.0])
def test_variance_of_a_mean_with_robust_weights(cutoff):
    """score_variance() / (slope() <w> n), as of a normal matrix, against the scatter of 4000 means."""
    n = 200
    values = torch.randn(4000, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean = torch.zeros(4000, 1, dtype=torch.float64)
    for _ in range(20):
        w = 1.0 / (1.0 + ((values - mean) / cutoff) ** 2)
        mean = (w * values).sum(1, keepdim=True) / w.sum(1, keepdim=True)
    target = Target.of(observations(values[0].tolist(), [1.0] * n), ErrorModel(instability=0.0))
    r = values.flatten()
    one = torch.ones_like(r)
    target = replace(target, intensity=-r, sigma=one, share=one, emphasis=one, robust_weight=one)
    target = target.robust(torch.zeros_like(r), cutoff)
    expected = target.score_variance() / (target.slope() * float(target.robust_weight.mean()) * n)
    assert float(mean.var()) == pytest.approx(expected, rel=0.06)


def test_without_robust_weights_nothing_is_corrected(many):
    assert many[1].expected() == many[1].slope() == many[1].score_variance() == 1.0


def test_weighting_refines_the_error_model_without_the_free_set(many):
    calculated, target = many
    data = observations(target.intensity.tolist(), [1.0] * 200, free=range(0, 200, 10))
    spoilt = replace(data, intensity=torch.where(data.free, 1e6, data.intensity))
    weighting = Weighting({"instability": 0.0, "floor": 0.0}, cutoff=3.0)
    found, other = (weighting.target(d, calculated) for d in (data, spoilt))
    assert found.errors == other.errors
    assert found.errors[0].gain == pytest.approx(3.0, rel=0.2)
    assert found.cutoff == 3.0 and (found.weight[~data.free] < 1.0).all()
    assert Weighting({}, None).target(data, calculated).weight.max() == 1.0


@pytest.fixture
def two(many):
    """The first 100 and the others as two crystals, the sigmas of the second a third of the noise."""
    calculated, target = many
    sigma = [3.0] * 100 + [1.0] * 100
    data = observations(target.intensity.tolist(), sigma, free=range(0, 200, 10))
    return calculated, replace(data, crystal=torch.arange(2).repeat_interleave(100))


def test_each_crystal_has_an_error_model(two):
    calculated, data = two
    target = Weighting({"instability": 0.0, "floor": 0.0}, None).target(data, calculated)
    assert [errors.gain for errors in target.errors] == pytest.approx([1.0, 3.0], rel=0.2)
    expected = data.sigma * torch.tensor([target.errors[c].gain for c in data.crystal.tolist()])
    torch.testing.assert_close(target.sigma, expected.double())


def test_a_crystal_with_nothing_but_free_reflections_takes_the_model_of_all(two):
    calculated, data = two
    data = replace(data, free=data.crystal == 1)
    first, second = Weighting({}, None).target(data, calculated).errors
    assert first == second


def test_weights_of_crystals(two):
    """Three to one is 1.5 to 0.5 where both have as many work reflections; robust weights do not see it."""
    calculated, data = two
    plain, weighted = (Weighting({}, 3.0, emphasis).target(data, calculated) for emphasis in ((), (6.0, 2.0)))
    torch.testing.assert_close(weighted.weight[:100], 1.5 * plain.weight[:100])
    torch.testing.assert_close(weighted.weight[100:], 0.5 * plain.weight[100:])
    assert weighted.n_work == plain.n_work == 180.0
    assert weighted.slope() == pytest.approx(plain.slope())
    assert weighted.errors == plain.errors
    out = weighted.without(data.crystal == 1)
    assert out.n_work == 90.0 and not out.weight[100:].any()
