from __future__ import annotations

from dataclasses import replace

import numpy as np
from pets_files import about_x
from scipy.linalg import expm, logm
from test_frames import BEAM, X, frames, reflections

from dials_hybrid.rocking.frames import VirtualFrames
from dials_hybrid.rocking.measurement import Measurement


def drifting(angle, drift, semi_angle=1.0, margin=0.3) -> VirtualFrames:
    """Frames of a scan about x; drift (n, 3) turns them besides [degree]."""
    start = frames().basis[0]
    basis = [about_x(a) @ turn(d) @ start for a, d in zip(angle, drift, strict=True)]
    semi_angle = np.broadcast_to(semi_angle, len(angle))
    return VirtualFrames(np.stack(basis), np.array(angle), semi_angle, BEAM, X, False, margin)


def turn(vector) -> np.ndarray:
    x, y, z = np.radians(vector)
    return expm(np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))


def test_frames_of_one_rotation_make_one_sweep():
    run = drifting([0.0, 0.9, 2.0], np.zeros((3, 3)))
    cut = run.cut(0.1)
    assert len(cut) == 46  # -1.3 to 3.3 degree
    np.testing.assert_allclose(cut.angle, -1.25 + 0.1 * np.arange(46))
    np.testing.assert_allclose(cut.weight, 0.1)
    for basis, angle in zip(cut.basis, cut.angle, strict=True):
        np.testing.assert_allclose(basis, about_x(angle) @ run.basis[0], atol=1e-12)


def test_between_two_frames_a_turn_grows_in_proportion():
    drift = np.array([[0.0, 0.0, 0.0], [0.0, 0.3, -0.1], [0.1, 0.2, 0.2]])
    run = drifting([0.0, 0.9, 2.0], drift)
    cut = run.cut(0.1)
    for k, angle in enumerate(cut.angle):
        i = 0 if angle < 0.9 else 1
        u = np.clip((angle - run.angle[i]) / (run.angle[i + 1] - run.angle[i]), 0.0, 1.0)
        first, second = (turn(drift[j]) for j in (i, i + 1))
        between = expm(u * logm(second @ first.T)).real @ first
        np.testing.assert_allclose(cut.basis[k], about_x(angle) @ between @ run.basis[0], atol=1e-9)
        assert (cut.frame[k], cut.next_frame[k]) == (i, i + 1)
        np.testing.assert_allclose(cut.part[k], u, atol=1e-12)


def test_gaps_and_jumps_part_frames():
    """Frames 0 and 1 only touch; 2 is turned by more than its semi-angle; 3 is at the angle of 2."""
    drift = np.array([[0.0, 0.0, 0.0]] * 2 + [[0.0, 1.4, 0.0]] * 3)
    run = drifting([0.0, 2.6, 3.6, 3.6, 4.6], drift)
    cut = run.cut(0.1)
    assert [np.unique(cut.frame[start : start + 26]).tolist() for start in (0, 26, 52)] == [[0], [1], [2]]
    assert set(cut.frame[78:]) | set(cut.next_frame[78:]) == {3, 4}
    np.testing.assert_allclose(cut.weight.sum(), 3 * 2.6 + 3.6)
    steps = Measurement((run,), reflections([(1, 0, 2)], [2]), 0.0251, 1).dataset(0.1, 1).steps
    assert steps.frames().tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4]]


def test_windows_lie_about_the_rocking_curve_in_the_chain_of_its_frame():
    """Frames 2 and 3 are turned far away from 0 and 1, at scan angles that both have."""
    drift = np.zeros((4, 3))
    drift[2:, 1] = 5.0
    run = drifting([0.0, 1.0, 1.5, 2.0], drift)
    made = replace(
        reflections([(1, 0, 2)] * 4, [3, 0, 1, 2]),
        angle=np.array([2.5, -0.5, 1.4, 1.4]),
        half_width=np.array([0.6, 0.7, 0.7, 0.7]),
    )
    dataset = Measurement((run,), made, 0.0251, 4).dataset(0.1, 1)
    windows = zip(dataset.observations.first, dataset.observations.last, made.frame, strict=True)
    for i, (first, last, frame) in enumerate(windows):
        angle = dataset.steps.angle[first:last].numpy()
        inside = np.arange(-200, 201) / 100.0 + made.angle[i]
        inside = inside[np.abs(inside - made.angle[i]) < made.half_width[i]]
        assert abs(angle[0] - inside[0]) < 0.11 and abs(angle[-1] - inside[-1]) < 0.11
        upright = about_x(-float(angle[0])) @ dataset.steps.basis[int(first)].numpy()
        np.testing.assert_allclose(upright, turn(drift[frame]) @ run.basis[0], atol=1e-9)


def test_frames_that_are_not_used_are_bridged():
    run = replace(drifting([0.0, 1.0, 2.0], np.zeros((3, 3))), used=np.array([True, False, True]))
    cut = run.cut(0.1)
    assert set(cut.frame) == {0} and set(cut.next_frame) == {2}
    np.testing.assert_allclose(cut.weight.sum(), 4.6)
