"""Stated distributions against numerical integration on a dense grid, and interpolation in thickness."""

from __future__ import annotations

import numpy as np
import pytest

from dials_hybrid.refine.specimen import Chebyshev, Misorientation, StatedThickness

X = np.linspace(-1.0, 1.0, 2001)


def pendelloesung(t):
    return np.sin(np.pi * t / 310.0) ** 2 + 0.1 * np.sin(np.pi * t / 95.0) ** 2


def dense_average(law: StatedThickness, function) -> float:
    """Midpoint rule over 2e5 points, from the densities as the docstring states them."""
    top = {"wedge": 2.0 * law.mean, "normal": law.mean + 4.0 * law.width}[law.model]
    t = (np.arange(200_000) + 0.5) * top / 200_000
    p = np.ones_like(t)
    if law.model == "normal":
        p = np.exp(-0.5 * ((t - law.mean) / law.width) ** 2)
    return float((p * function(t)).sum() / p.sum())


@pytest.mark.parametrize(
    "law",
    [StatedThickness("wedge", 600.0), StatedThickness("normal", 430.0, 450.0)],
    ids=lambda law: law.model,
)
def test_quadrature_of_densities(law):
    t, p = law.quadrature()
    assert p.sum() == pytest.approx(1.0, abs=1e-12) and (p >= 0.0).all() and (t > 0.0).all()
    assert p @ pendelloesung(t) == pytest.approx(dense_average(law, pendelloesung), abs=1e-6)
    mean, spread = law.moments(np.zeros(1))
    assert mean[0] == pytest.approx(dense_average(law, lambda t: t), rel=1e-6)
    variance = dense_average(law, lambda t: (t - mean[0]) ** 2)
    assert spread[0] == pytest.approx(variance**0.5, rel=1e-6)


def test_wedge_and_plate_have_the_moments_of_the_textbook():
    mean, spread = StatedThickness("wedge", 600.0).moments(np.zeros(1))
    assert (mean[0], spread[0]) == pytest.approx((600.0, 1200.0 / 12**0.5))
    assert np.all(StatedThickness("flat", 250.0).moments(X)[1] == 0.0)


def test_all_thicknesses_change_together():
    linear = StatedThickness("wedge", 500.0, change="linear", amplitude=0.2)
    mean, spread = linear.moments(X)
    assert (mean[0], mean[1000], mean[-1]) == pytest.approx((400.0, 500.0, 600.0))
    np.testing.assert_allclose(spread / mean, 1.0 / 3**0.5)
    assert linear.largest == pytest.approx(1200.0, rel=1e-3)
    wave = StatedThickness("flat", 500.0, change="sinusoidal", amplitude=0.1, periods=2.0)
    mean, _ = wave.moments(X)
    assert (mean.max(), mean.min()) == pytest.approx((550.0, 450.0), rel=1e-4)
    assert mean.mean() == pytest.approx(500.0, rel=1e-4)
    assert ((mean[1:-1] > mean[:-2]) & (mean[1:-1] > mean[2:])).sum() == 2


def test_misorientation_is_smooth_and_as_large_as_stated():
    tilt = Misorientation(constant=0.3, smooth=0.02, seed=4).tilt(X, 0)
    assert tilt.mean() == pytest.approx(0.3, abs=1e-4)
    assert tilt.std() == pytest.approx(0.02, rel=1e-3)
    slopes = np.abs(np.diff(tilt)) / (X[1] - X[0])
    assert slopes.max() < 0.02 * 3**0.5 * 1.5 * np.pi * 2.0
    assert np.array_equal(tilt, Misorientation(0.3, 0.02, 4).tilt(X, 0))
    assert not np.allclose(tilt, Misorientation(0.3, 0.02, 4).tilt(X, 1))
    assert not np.allclose(tilt, Misorientation(0.3, 0.02, 5).tilt(X, 0))


def test_interpolation_converges_exponentially_and_its_tail_says_so():
    t = np.linspace(0.0, 1500.0, 301)
    errors, tails = [], []
    for n in (40, 75, 110):
        interpolation = Chebyshev(1500.0, n)
        values = pendelloesung(interpolation.nodes)
        found = [interpolation.weights(np.array([x]), np.ones(1)) @ values for x in t]
        errors.append(np.abs(found - pendelloesung(t)).max())
        tails.append(interpolation.tail(values))
    assert errors[0] > 1e-3 > 1e-6 > errors[1] > errors[2]
    assert tails[0] > 1e-4 > 1e-6 > tails[1] > tails[2]
    assert errors[2] < 1e-11


def test_weights_of_a_distribution_are_those_of_its_points():
    interpolation = Chebyshev(1000.0, 30)
    t, p = StatedThickness("normal", 400.0, 150.0).quadrature()
    together = interpolation.weights(t, p)
    single = sum(pq * interpolation.weights(np.array([tq]), np.ones(1)) for tq, pq in zip(t, p, strict=True))
    np.testing.assert_allclose(together, single, atol=1e-12)
    assert together.sum() == pytest.approx(1.0)
