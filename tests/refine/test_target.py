"""What is minimised."""

from __future__ import annotations

import pytest
import torch
from synthetic import double

from dials_hybrid.data import Observations
from dials_hybrid.refine.target import Target


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
        free=torch.tensor([i in free for i in range(m)]),
    )


@pytest.fixture
def many():
    """200 intensities about 100, the calculated ones, and a target without robust weights."""
    generator = torch.Generator().manual_seed(0)
    calculated = 100.0 + 20.0 * torch.rand(200, generator=generator, dtype=torch.float64)
    noise = torch.randn(200, generator=generator, dtype=torch.float64)
    data = observations((calculated + 3.0 * noise).tolist(), [3.0] * 200, free=range(0, 200, 10))
    return calculated, Target.of(data, 0.0)


def test_residuals_by_hand():
    """sigma'^2 = 9 + (2 * 0.02 * 100)^2 = 25; a negative intensity has no instability."""
    target = Target.of(observations([100.0, -50.0], [3.0, 2.0]), instability=0.02)
    torch.testing.assert_close(target.residuals(double([110.0, -46.0])), double([2.0, 2.0]))
    assert target.chi_squared(double([110.0, -46.0])) == pytest.approx(8.0)


def test_free_reflections_have_no_weight():
    target = Target.of(observations([5.0, 7.0, 9.0], [1.0, 1.0, 1.0], free=[1]), instability=0.01)
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
    before = Target(spoilt, target.root_weight)
    factor = (before.robust(calculated, cutoff).root_weight / before.root_weight) ** 2
    assert float(factor[1]) == pytest.approx(0.5, abs=0.03)
    assert factor[2] < 1e-9
    assert factor[3:].nanmedian() > 0.9


def test_robust_weights_ignore_and_keep_out_the_free_set(many):
    calculated, target = many
    free = target.root_weight == 0.0
    spoilt = torch.where(free, calculated * 1e3, target.intensity)
    found = Target(spoilt, target.root_weight).robust(calculated, 3.0).root_weight
    torch.testing.assert_close(found, target.robust(calculated, 3.0).root_weight)
    assert (found[free] == 0.0).all()
