from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from pets_files import WAVELENGTH, Frame, about_x, excitation

from dials_hybrid.rocking.frames import VirtualFrames, shares
from dials_hybrid.rocking.measurement import Measurement, Reflections, joined

BEAM, X = np.array([0.0, 0.0, -1.0]), np.array([1.0, 0.0, 0.0])


def frames(semi_angle=(1.0, 0.5, 1.5), angle=(-2.0, -1.0, 3.0), precession=False) -> VirtualFrames:
    basis = np.stack([Frame("", alpha, 0.1).basis() for alpha in angle])
    return VirtualFrames(basis, np.array(angle), np.array(semi_angle), BEAM, X, precession)


def reflections(hkl, frame, run=0) -> Reflections:
    n = len(frame)
    columns = {name: np.ones(n) for name in ("intensity", "sigma", "angle", "half_width", "share")}
    return Reflections(
        hkl=np.array(hkl), run=np.full(n, run), row=np.arange(n), frame=np.array(frame), **columns
    )


def test_every_frame_has_its_own_midpoints():
    run = frames()
    cut = run.cut(0.3)
    assert np.bincount(cut.frame).tolist() == [7, 4, 10]
    for frame, (n, semi) in enumerate(zip((7, 4, 10), run.semi_angle, strict=True)):
        own = cut.frame == frame
        phi = (2.0 * (np.arange(n) + 0.5) / n - 1.0) * semi
        np.testing.assert_allclose(cut.angle[own], run.angle[frame] + phi)
        np.testing.assert_allclose(cut.weight[own].sum(), 2.0 * semi)
        for basis, turn in zip(cut.basis[own], phi, strict=True):
            np.testing.assert_allclose(basis, about_x(turn) @ run.basis[frame], atol=1e-12)
    assert run.range == 7.5


def test_rocking_curves_are_followed_beyond_a_frame():
    """Frames 0 and 1 overlap, frame 2 is alone."""
    cut = replace(frames(), margin=0.2).cut(0.3)
    together = cut.angle < 0.0
    for own, (low, high) in ((together, (-3.2, -0.3)), (~together, (1.3, 4.7))):
        n = math.ceil((high - low) / 0.3)
        np.testing.assert_allclose(cut.angle[own], low + (np.arange(n) + 0.5) / n * (high - low))
        np.testing.assert_allclose(cut.weight[own], (high - low) / n)
    precessed = frames(precession=True)
    np.testing.assert_array_equal(replace(precessed, margin=0.2).cut(0.3).basis, precessed.cut(0.3).basis)


def test_blurred_ends_have_steps_beyond_them():
    run, wide = replace(frames(), blurred=True), frames(semi_angle=(1.4, 0.9, 1.9))
    np.testing.assert_allclose(run.cut(0.3).basis, wide.cut(0.3).basis, atol=1e-12)
    made = reflections([(1, 0, 2), (1, 1, 2)], [2, 0])
    np.testing.assert_allclose(run.edges(made), [[1.5, 4.5], [-3.0, -1.0]])
    assert np.isinf(frames().edges(made)).all()
    assert Measurement((frames(),), made, WAVELENGTH, 2).dataset(0.3, 1).observations.edges is None
    measurement = Measurement((frames(), run), replace(made, run=np.array([0, 1])), WAVELENGTH, 2)
    edges = measurement.dataset(0.3, 1).observations.edges.tolist()
    assert edges == [[-np.inf, np.inf], [-3.0, -1.0]]
    assert measurement.blurred and not measurement.without_blur().blurred


def test_frames_that_are_not_used_are_not_cut():
    run = replace(frames(), used=np.array([True, False, True]))
    cut, whole = run.cut(0.3), frames().cut(0.3)
    own = whole.frame != 1
    for name in ("basis", "angle", "weight", "frame"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[own])
    made = reflections([(1, 0, 2), (1, 1, 2)], [2, 0])
    dataset = Measurement((run,), made, WAVELENGTH, 2).dataset(0.3, 1)
    assert dataset.steps.frames().tolist() == [[0, 0], [0, 2]]
    for first, last, frame in zip(
        dataset.observations.first, dataset.observations.last, dataset.observations.frame, strict=True
    ):
        assert (dataset.steps.frame[first:last] == frame).all() and last > first
    assert replace(run, used=np.array([True, True, False])).range == 2.5


@pytest.mark.parametrize("n", [7, 120, 600])
def test_as_many_steps_as_asked_for(n):
    run = frames(semi_angle=(1.425, 1.425, 1.425))
    assert np.bincount(run.cut(2.0 * 1.425 / n).frame).tolist() == [n, n, n]


def test_steps_of_a_precession_lie_on_the_cone():
    run = frames(precession=True)
    cut = run.cut(0.3)
    for frame, semi in enumerate(run.semi_angle):
        own = cut.frame == frame
        assert own.sum() == math.ceil(2.0 * math.pi * semi / 0.3)
        turns = cut.basis[own] @ np.linalg.inv(run.basis[frame])
        axis = turns @ BEAM  # where the beam would go
        np.testing.assert_allclose(axis @ BEAM, math.cos(math.radians(semi)))
        azimuth = np.sort(np.arctan2(axis[:, 1], axis[:, 0]))
        np.testing.assert_allclose(np.diff(azimuth), 2.0 * math.pi / own.sum(), rtol=1e-6)
        assert cut.weight[own].sum() == pytest.approx(2.0 * semi)


def test_where_reflections_cross_the_ewald_sphere():
    """Against S_g at the steps of the frame."""
    run = frames()
    hkl = np.array([h for h in np.ndindex(9, 9, 9)]) - 4
    frame = np.full(len(hkl), 2)
    s_g, swept = run.excitation(frame, hkl, WAVELENGTH)
    inside = (np.abs(s_g) < 0.9 * swept) & (swept > 0.001)
    hkl, frame = hkl[inside], frame[inside]
    assert len(hkl) > 5
    cut = run.cut(0.001)
    own = cut.frame == 2
    path = np.array([[excitation(basis @ h) for basis in cut.basis[own]] for h in hkl])
    expected = cut.angle[own][np.abs(path).argmin(1)]
    np.testing.assert_allclose(run.crossing(frame, hkl, WAVELENGTH), expected, atol=0.005)


@pytest.mark.parametrize("precession", [False, True])
def test_half_range_of_the_excitation_error(precession):
    """D_g against the largest change of S_g on the way, of reflections near the Ewald sphere."""
    run = frames(precession=precession)
    hkl = np.array([h for h in np.ndindex(7, 7, 7)]) - 3
    hkl = hkl[np.abs([excitation(run.basis[2] @ h) for h in hkl]) < 0.02]
    frame = np.full(len(hkl), 2)
    s_g, swept = run.excitation(frame, hkl, WAVELENGTH)
    cut = run.cut(0.005)
    path = np.array([[excitation(basis @ h) for basis in cut.basis[cut.frame == 2]] for h in hkl])
    np.testing.assert_allclose(s_g, [excitation(run.basis[2] @ h) for h in hkl], atol=1e-12)
    # the steps leave out half a step at each end
    np.testing.assert_allclose(0.5 * np.ptp(path, axis=1), swept, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(
        run.lever(reflections(hkl, frame)) * math.sin(math.radians(1.5)), swept, atol=1e-12
    )


def test_the_window_of_a_reflection_is_its_whole_frame():
    run = frames()
    made = reflections([(1, 0, 2), (0, 1, 2), (1, 1, 2)], [2, 0, 2])
    dataset = Measurement((run,), made, WAVELENGTH, 3).dataset(0.3, 1)
    steps, observations = dataset.steps, dataset.observations
    for first, last, frame in zip(observations.first, observations.last, observations.frame, strict=True):
        assert (steps.frame == frame).nonzero().flatten().tolist() == list(range(first, last))
    assert steps.frames().tolist() == [[0, 0], [0, 1], [0, 2]]
    assert observations.frames().tolist() == [[0, 0], [0, 2]]


def test_rows_of_overlapping_frames_share_a_measurement():
    run = frames(semi_angle=(1.0, 1.0, 1.0, 1.0), angle=(0.0, 1.0, 2.0, 9.0))
    hkl = np.array([(1, 0, 0)] * 4 + [(0, 1, 0)] * 2 + [(0, 0, 1)])
    frame = np.array([0, 1, 2, 3, 2, 1, 0])
    # frames 0 and 2 only touch; frame 3 is far away
    np.testing.assert_allclose(shares(run, hkl, frame), [1 / 2, 1 / 3, 1 / 2, 1, 1 / 2, 1 / 2, 1])
    # in precession each has images of its own
    np.testing.assert_array_equal(shares(replace(run, precession=True), hkl, frame), np.ones(7))


def test_joined_measurements_keep_their_runs_apart():
    first = Measurement((frames(),), reflections([(1, 0, 2)], [1]), 0.02, 5, {"odd": 3, "even": 1})
    second = Measurement((frames(), frames()), reflections([(1, 0, 3)], [2], run=1), 0.03, 2, {"odd": 1})
    both = joined([first, second])
    assert len(both.runs) == 3 and both.reflections.run.tolist() == [0, 2]
    assert both.reflections.hkl.tolist() == [[1, 0, 2], [1, 0, 3]]
    assert (both.n_rows, both.rejected) == (7, {"odd": 4, "even": 1})
    assert both.wavelength == pytest.approx(0.025)
