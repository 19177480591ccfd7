from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dials_hybrid.rocking.sweep import Sweep

N_IMAGES = 8


class Windows(SimpleNamespace):
    """Of reflections: all that a sweep asks for."""

    def __init__(self, angle, half_width):
        super().__init__(angle=angle, half_width=half_width)

    def __len__(self) -> int:
        return len(self.angle)


def make_sweep(width: float = 0.7, axis=(1.0, 0.0, 0.0)) -> Sweep:
    """A crystal that turns about `axis` and whose cell grows on the way."""
    z = np.arange(N_IMAGES + 1.0)
    turns = Rotation.from_rotvec((-5.0 + width * z)[:, None] * np.array(axis), degrees=True)
    b = np.diag([0.1, 0.12, 0.08]) * (1.0 - 1e-4 * z[:, None, None])
    return Sweep(turns.as_matrix(), b, z, np.array([0.0, 0.0, -1.0]), np.array(axis), -5.0, width)


@pytest.mark.parametrize("step", [0.1, 0.033, 5.0])
@pytest.mark.parametrize("width", [0.7, -0.35])
def test_steps_are_midpoints_of_equal_parts_of_the_scan(step, width):
    sweep = make_sweep(width)
    cut = sweep.cut(step)
    n = math.ceil(abs(width) * N_IMAGES / step)
    assert len(cut) == n
    each = width * N_IMAGES / n
    np.testing.assert_allclose(cut.weight, abs(each))
    np.testing.assert_allclose(cut.angle, -5.0 + each * (np.arange(n) + 0.5))
    z = (cut.angle + 5.0) / width
    np.testing.assert_allclose(cut.basis, sweep.basis(z), atol=1e-12)


def test_the_orientation_between_scan_points_is_on_the_way():
    sweep = make_sweep()
    middle = Rotation.from_rotvec([-5.0 + 0.7 * 2.5, 0.0, 0.0], degrees=True).as_matrix()
    np.testing.assert_allclose(sweep.basis(np.array([2.5]))[0], middle @ sweep.b[[2, 3]].mean(0), atol=1e-12)


@pytest.mark.parametrize("width", [0.7, -0.7])
def test_windows_hold_the_steps_near_an_angle(width):
    sweep = make_sweep(width)
    cut = sweep.cut(0.05)
    angle = np.array([-5.0 + width, -5.0 + 4.2 * width, -5.0 + 7.9 * width])
    half = np.array([0.3, 0.5, 0.4])
    first, last = sweep.windows(cut, SimpleNamespace(angle=angle, half_width=half))
    for i in range(3):
        inside = np.flatnonzero(np.abs(cut.angle - angle[i]) < half[i])
        assert (first[i], last[i]) == (inside[0], inside[-1] + 1)


@pytest.mark.parametrize("width", [0.7, -0.7])
def test_edges_of_windows_are_blurred_within_the_scan(width):
    sweep = replace(make_sweep(width), blurred=True)
    angle = -5.0 + width * np.array([0.5, 2.0, N_IMAGES - 0.25])
    made = Windows(angle, np.array([0.35, 0.3, 0.5]))
    low, high = sweep.edges(made)[:, :: 1 if width > 0 else -1].T
    sign = np.sign(width)
    np.testing.assert_allclose(low, [-sign * np.inf, angle[1] - sign * 0.3, angle[2] - sign * 0.5])
    np.testing.assert_allclose(high, [angle[0] + sign * 0.35, angle[1] + sign * 0.3, sign * np.inf])
    assert np.isinf(make_sweep(width).edges(made)).all()
