from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from synthetic import BEAM, ROTATION_AXIS, double, triclinic, turned

from dials_hybrid.bloch.geometry import (
    excitation_error_tilts,
    excitation_errors,
    excitation_errors_of_lattice,
    rotation_matrix,
    tilt_axes,
)

K = 39.87


@pytest.fixture
def r():
    """Reciprocal-lattice vectors (50, 3) [1/A] of a tilted triclinic crystal."""
    hkl = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3).to(torch.float64)
    return hkl[hkl.abs().sum(1) > 0] @ turned(triclinic(), 0.3, -0.5, 0.2).T


@pytest.mark.parametrize("angle", [1e-9, 1e-3, 1.0, math.pi])
def test_rotation_is_that_of_scipy(angle):
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    vectors *= angle / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = Rotation.from_rotvec(vectors).as_matrix()
    np.testing.assert_allclose(rotation_matrix(double(vectors.tolist())), expected, atol=1e-14)


def test_positive_rotation_about_z_takes_x_to_y():
    turn = rotation_matrix(double([0, 0, math.pi / 2]))
    torch.testing.assert_close(turn @ double([1, 0, 0]), double([0, 1, 0]))


def test_tilt_axes_span_the_plane_across_the_beam():
    across, along = tilt_axes(BEAM, ROTATION_AXIS)
    frame = torch.stack([across, along, BEAM])
    torch.testing.assert_close(frame @ frame.T, torch.eye(3, dtype=torch.float64))
    assert abs(across @ ROTATION_AXIS) < 1e-15
    projected = ROTATION_AXIS - (ROTATION_AXIS @ BEAM) * BEAM
    torch.testing.assert_close(along, projected / projected.norm())


def test_excitation_error_by_its_definition(r):
    k = K * BEAM
    expected = (K**2 - (k + r).square().sum(-1)) / (2 * K)
    torch.testing.assert_close(excitation_errors(r, BEAM, K), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("beams", [1, 5])
def test_excitation_errors_of_lattice_points_in_several_orientations(beams):
    generator = torch.Generator().manual_seed(1)
    basis = 0.2 * torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    beam = torch.nn.functional.normalize(torch.randn(beams, 3, generator=generator).double(), dim=1)
    hkl = torch.cartesian_prod(*[torch.arange(-3, 4)] * 3).double()
    expected = excitation_errors((basis @ hkl.T).mT, beam[:, None], K)
    beam = beam[0] if beams == 1 else beam
    found = excitation_errors_of_lattice(basis, beam, hkl, K)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_excitation_error_vanishes_on_the_ewald_sphere_and_is_positive_inside():
    angles = torch.linspace(0.001, 0.05, 7, dtype=torch.float64)
    scattered = torch.stack([angles.sin(), 0 * angles, -angles.cos()], -1)
    for radius, sign in ((K, 0), (K - 1e-3, 1), (K + 1e-3, -1)):
        s_g = excitation_errors(radius * scattered - K * BEAM, BEAM, K)
        torch.testing.assert_close(s_g, torch.full_like(s_g, sign * 1e-3), rtol=1e-4, atol=1e-13)


def test_excitation_error_changes_with_tilt_as_in_central_differences(r):
    for axis in tilt_axes(BEAM, ROTATION_AXIS):
        up, down = (excitation_errors(r @ rotation_matrix(t * axis).T, BEAM, K) for t in (1e-5, -1e-5))
        found = excitation_error_tilts(r, BEAM, axis)
        assert found.abs().max() > 0.1
        torch.testing.assert_close(found, (up - down) / 2e-5, rtol=0, atol=1e-9)
