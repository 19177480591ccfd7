from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dials_hybrid.rocking.sweep import Sweep

N_IMAGES = 8


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
