"""A .cif_pets file read back here, without the program's own reader, against the sweep it was made from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("dials.array_family.flex")

from scipy.spatial.transform import Rotation
from simulated_experiments import experiments

from dials_hybrid.io.experiments import read_sweep
from dials_hybrid.io.pets import read_pets
from dials_hybrid.io.virtual_frames import merged_images, on_images, reflections_of_frames, write_pets

WAVE_NUMBER = 1.0 / 0.02508
HKL = np.array([h for h in itertools.product(range(-4, 5), repeat=3) if any(h)])


@pytest.fixture(scope="module")
def sweep():
    return read_sweep(experiments(images=20)[0])


@pytest.fixture(scope="module")
def frames(sweep):
    return merged_images(sweep, n_merged=3, step=2)


@pytest.fixture(scope="module")
def listed(frames):
    return reflections_of_frames(frames, HKL, WAVE_NUMBER)


def test_frames_are_whole_windows_of_images(sweep, frames):
    assert frames.semi_angle == 1.5
    np.testing.assert_array_equal(frames.centre, np.arange(1.5, 18.6, 2))
    with pytest.raises(ValueError, match="20 images, fewer than virtual_frames.n_merged=21"):
        merged_images(sweep, 21, 1)
    assert len(merged_images(sweep, 20, 5)) == 1


def test_reflections_cross_the_ewald_sphere_in_their_frame(sweep, frames, listed):
    """By the sign of S_g at both ends of the frame."""
    hkl, frame = listed
    found = {(*h, v) for h, v in zip(hkl.tolist(), frame.tolist(), strict=True)}
    missing = wrong = 0
    for v, centre in enumerate(frames.centre):
        ends = sweep.basis(centre + np.array([-1.5, 1.5]))
        r = np.einsum("eij,gj->egi", ends, HKL.astype(float))
        s_g = -(r @ sweep.beam + (r**2).sum(-1) / (2.0 * WAVE_NUMBER))
        crossing = (s_g[0] > 0) != (s_g[1] > 0)
        for h, crosses in zip(HKL.tolist(), crossing.tolist(), strict=True):
            missing += crosses and (*h, v) not in found
            wrong += not crosses and (*h, v) in found
    assert len(found) > 100
    assert missing + wrong <= 0.03 * len(found)  # |S_g| is not quite linear in the angle


def test_overlapping_frames_share_their_images(frames, listed):
    hkl, frame = listed
    images, place = on_images(frames, hkl, frame)
    assert place.shape == (len(hkl), 3)
    key = np.column_stack([images.hkl, images.angle])
    assert len(np.unique(key, axis=0)) == len(images) < 3 * len(hkl)
    np.testing.assert_array_equal(images.hkl[place], np.repeat(hkl[:, None], 3, axis=1))
    centre = frames.sweep.angle(frames.centre[frame])
    np.testing.assert_allclose(images.angle[place], centre[:, None] + [-1.0, 0.0, 1.0])
    assert (images.half_width == 0.5).all()


def read_back(path):
    """UB, zones (V, 9) and reflections (M, 6) of a .cif_pets file."""
    lines = path.read_text().splitlines()
    ub = [float(line.split()[1]) for line in lines if line.startswith("_diffrn_orient_matrix_UB_")]
    rows = [line.split() for line in lines if line and line.lstrip()[0] in "-0123456789"]
    zones = np.array([row for row in rows if len(row) == 9], dtype=float)
    return np.reshape(ub, (3, 3)), zones, np.array([row for row in rows if len(row) == 6], dtype=float)


@pytest.mark.parametrize("turn", [(0.3, -0.5, 0.2), (-2.0, 1.0, 0.4)])
def test_the_file_tells_the_orientations_and_intensities(tmp_path, turn):
    sweep = read_sweep(experiments(images=20, turn=turn)[0])
    frames = merged_images(sweep, 2, 1)
    hkl, frame = reflections_of_frames(frames, HKL, WAVE_NUMBER)
    intensity, sigma = np.linspace(-5.0, 1e5, len(hkl)), np.linspace(1.0, 300.0, len(hkl))
    write_pets(
        tmp_path / "x.cif_pets",
        frames,
        hkl,
        frame,
        intensity,
        sigma,
        cell=(4.913, 4.913, 5.405, 90.0, 90.0, 120.0),
        volume=112.98,
        wavelength=0.02508,
        mosaic_spread=0.04,
    )
    ub, zones, rows = read_back(tmp_path / "x.cif_pets")
    np.testing.assert_array_equal(rows[:, :3], hkl)
    np.testing.assert_array_equal(rows[:, 5], frame + 1)
    np.testing.assert_allclose(rows[:, 3], intensity, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rows[:, 4], sigma, rtol=1e-5)
    assert len(zones) == 19 and np.all(zones[:, 4] == 1.0)
    np.testing.assert_allclose(zones[:, 5], sweep.angle(frames.centre), atol=0.01)
    alpha, beta, omega = np.radians(zones[:, 5:8]).T
    turns = [
        Rotation.from_rotvec(angle[:, None] * axis)
        for angle, axis in zip((omega, alpha, beta), np.eye(3)[[2, 0, 1]], strict=True)
    ]
    basis = (turns[0] * turns[1] * turns[2]).as_matrix() @ ub
    truth = sweep.basis(frames.centre)
    # in the laboratory or in the frame of the file: excitation errors, lengths and hand are the same
    h = HKL.astype(float)
    along = np.einsum("vj,gj->vg", basis[:, 2], h)
    np.testing.assert_allclose(-along, np.einsum("vij,i,gj->vg", truth, sweep.beam, h), atol=2e-5)
    np.testing.assert_allclose(np.linalg.det(basis), np.linalg.det(truth), rtol=1e-5)
    # the zone axis [uvw] is a lattice row along z: (G^-T uvw) has no other component
    direction = np.einsum("vij,vj->vi", np.linalg.inv(truth).transpose(0, 2, 1), zones[:, 1:4])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    np.testing.assert_allclose(direction, np.tile(-sweep.beam, (19, 1)), atol=1e-4)
    # the rotation axis is x, where excitation errors do not change
    step = basis[10] @ np.linalg.inv(basis[9])
    np.testing.assert_allclose(Rotation.from_matrix(step).as_rotvec(degrees=True), [1.0, 0.0, 0.0], atol=1e-3)


def test_the_reader_understands_it(tmp_path, sweep, frames, listed):
    """The program's own reader finds the same excitation errors and the same rotation."""
    hkl, frame = listed
    ones = np.ones(len(hkl))
    crystal = {"cell": (4.913, 4.913, 5.405, 90.0, 90.0, 120.0), "volume": 112.98}
    name = tmp_path / "x.cif_pets"
    write_pets(name, frames, hkl, frame, ones, ones, **crystal, wavelength=0.02508, mosaic_spread=0.0)
    data = read_pets(name)
    np.testing.assert_array_equal(data.hkl, hkl)
    np.testing.assert_array_equal(data.frame, frame)
    s_g, reach = data.frames.excitation(data.frame, data.hkl, data.wavelength)
    r = np.einsum("mij,mj->mi", sweep.basis(frames.centre[frame]), hkl.astype(float))
    np.testing.assert_allclose(s_g, -(r @ sweep.beam + (r**2).sum(1) / (2.0 * WAVE_NUMBER)), atol=2e-5)
    assert (np.abs(s_g) < 1.01 * reach).all()
    assert not data.frames.precession
    # at the end of a frame
    cut, centre = data.frames.cut(0.5), frames.centre[frame]
    last = np.searchsorted(cut.frame, frame, side="right") - 1
    turned = np.einsum("mij,mj->mi", cut.basis[last], hkl.astype(float)) @ data.frames.beam
    expected = np.einsum("mij,mj->mi", sweep.basis(centre + 1.25), hkl.astype(float)) @ sweep.beam
    np.testing.assert_allclose(turned, expected, atol=3e-5)
