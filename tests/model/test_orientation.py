from __future__ import annotations

import math

import pytest
import torch
from synthetic import BEAM, ROTATION_AXIS, central_differences, largest_error

from dials_hybrid.bloch.geometry import rotation_matrix
from dials_hybrid.model.orientation import Orientation


@pytest.fixture
def steps(synthetic):
    return synthetic.dataset.steps


@pytest.fixture
def build(steps):
    def build(n_nodes=3, mosaic_spread=None) -> Orientation:
        return Orientation(steps, n_nodes=n_nodes, mosaic_spread=mosaic_spread, restraint=0.05)

    return build


def set_parameters(orientation, x):
    torch.nn.utils.vector_to_parameters(x, orientation.parameters())


def test_starts_where_the_steps_are(build, steps):
    torch.testing.assert_close(build().basis(steps), steps.basis, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n_nodes", [1, 2, 5])
def test_equal_coefficients_turn_the_crystal_across_rotation_axis_and_beam(build, steps, n_nodes):
    orientation = build(n_nodes)
    orientation.tilt.data[:] = 0.7
    axis = torch.linalg.cross(BEAM, ROTATION_AXIS)
    turn = rotation_matrix(math.radians(0.7) * axis / axis.norm())
    torch.testing.assert_close(orientation.basis(steps), turn @ steps.basis)


def test_tilts_of_one_crystal_leave_the_others(build, steps):
    orientation = build()
    orientation.tilt.data[0] = 0.4
    expected = torch.where(steps.crystal == 0, math.radians(0.4), 0.0).double()
    torch.testing.assert_close(orientation.tilts(), expected[None])


def test_mosaic_tilt_is_spread_times_deviate(build, steps):
    orientation = build(mosaic_spread=0.2)
    orientation.tilt.data[:] = 0.1
    torch.testing.assert_close(orientation.tilts()[0], torch.deg2rad(0.1 + 0.2 * steps.mosaic))
    torch.testing.assert_close(orientation.smooth_tilts(), torch.full_like(steps.angle, math.radians(0.1)))
    assert steps.mosaic.abs().max() > 1.0


def test_design_matrix_against_central_differences(build):
    orientation = build(mosaic_spread=0.2)
    x = torch.nn.utils.parameters_to_vector(orientation.parameters()).detach()

    def tilts(x):
        set_parameters(orientation, x)
        return orientation.tilts()[0].detach()

    assert largest_error(orientation.design_matrix()[0], central_differences(tilts, x, 0.1)) < 1e-12


@pytest.mark.parametrize("mosaic_spread", [None, 0.2])
def test_prior_restrains_the_tilts_and_not_the_mosaic_spread(build, mosaic_spread):
    orientation = build(mosaic_spread=mosaic_spread)
    centre, sigma = orientation.prior()
    n = orientation.tilt.numel()
    assert len(centre) == len(sigma) == sum(p.numel() for p in orientation.parameters())
    assert (sigma[:n] == 0.05).all() and sigma[n:].isinf().all()
    assert (centre[:n] == 0.0).all()
