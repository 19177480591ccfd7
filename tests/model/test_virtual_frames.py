"""Virtual frames beside a sweep in the joint model: own tilts, scales, segments, and their derivatives."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from measured import ATOMS, measured_frames, measured_sweep
from synthetic import (
    BEAM,
    ROTATION_AXIS,
    central_differences,
    free_parameters,
    largest_error,
)

from dials_hybrid.bloch.geometry import rotation_matrix
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Normal
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.rocking.frames import VirtualFrames, shares
from dials_hybrid.rocking.measurement import joined


@pytest.fixture(scope="module")
def data():
    """Crystal 0 is the sweep, crystal 1 has the frames."""
    return joined([measured_sweep(), measured_frames()]).dataset(0.1, 1)


@pytest.fixture(scope="module")
def common():
    """Both again, with whole rocking curves: overlapping frames have their steps in common."""
    return joined([measured_sweep(), measured_frames(margin=0.1)]).dataset(0.1, 1)


@pytest.fixture
def hybrid(data):
    return model(data)


def model(data) -> Hybrid:
    grid = ThicknessGrid(600.0, 24)
    return Hybrid(
        data,
        Crystal(ATOMS, *free_parameters(ATOMS, ("x",))),
        Orientation(data.steps, n_nodes=1, mosaic_spread=None, restraint=0.1, frame_restraint=0.03),
        [Normal(grid, mean=200.0, width=120.0) for _ in range(2)],
        Scale(data.observations, 2, 1, frame_restraint=0.2),
        BeamPolicy(g_max=1.2, sg_max=0.02, segment_length=4),
    )


def test_tilts_of_a_frame_turn_that_frame_alone(data, hybrid):
    hybrid.orientation.frame_tilt.data[1] = torch.tensor([0.3, -0.2], dtype=torch.float64)
    across = torch.linalg.cross(BEAM, ROTATION_AXIS)
    across = across / across.norm()
    about = torch.linalg.cross(across, BEAM)
    turn = rotation_matrix(math.radians(0.3) * across - math.radians(0.2) * about)
    own = (data.steps.crystal == 1) & (data.steps.frame == 1)
    basis = hybrid.orientation.basis(data.steps)
    torch.testing.assert_close(basis[own], turn @ data.steps.basis[own])
    torch.testing.assert_close(basis[~own], data.steps.basis[~own])
    expected = torch.where(own, math.radians(0.3), 0.0).double()
    torch.testing.assert_close(hybrid.orientation.smooth_tilts(), expected)


def test_common_steps_have_the_tilt_across_alone(common):
    """That of each frame in its middle, and in between in proportion to the scan angle."""
    orientation = model(common).orientation
    assert orientation.frame_tilt.shape == (3, 1) and orientation.axes.shape[1] == 1
    orientation.frame_tilt.data[:, 0] = torch.tensor([0.1, 0.3, -0.2])
    steps = common.steps
    expected = np.interp(steps.angle, [-1.0, -0.6], [0.1, 0.3])
    expected[steps.angle > -0.15] = -0.2
    expected = torch.where(steps.crystal == 1, torch.deg2rad(torch.tensor(expected)), 0.0)
    torch.testing.assert_close(orientation.smooth_tilts().double(), expected)


def test_common_steps_give_the_intensities_of_separate_ones():
    """Frames of one rotation, followed so far beyond their ends that no rocking curve is cut."""
    separate, common = measured_frames(), measured_frames(margin=0.6)
    wide = VirtualFrames(**{**vars(separate.runs[0]), "semi_angle": np.full(3, 0.9)})
    common = replace(
        common, reflections=replace(common.reflections, half_width=np.full(len(common.reflections), 0.9))
    )
    found = []
    for measurement in (replace(separate, runs=(wide,)), common):
        hybrid = model(joined([measured_sweep(), measurement]).dataset(0.004, 1))
        found.append((len(hybrid.dataset.steps), hybrid.evaluate().intensity))
    assert found[1][0] < 0.7 * found[0][0]
    assert (found[1][1] - found[0][1]).abs().sum() < 0.01 * found[0][1].sum()


def test_scale_of_a_frame_is_beside_the_smooth_one(data, hybrid):
    hybrid.scale.constant.data[:] = torch.tensor([0.1, 0.5])
    hybrid.scale.of_frame.data[2] = -0.3
    observations = data.observations
    own = (observations.crystal == 1) & (observations.frame == 2)
    expected = 0.1 + 0.4 * observations.crystal - 0.3 * own
    torch.testing.assert_close(hybrid.scale().log(), expected.double())


def test_priors_hold_what_frames_add(hybrid):
    centre, sigma = hybrid.orientation.prior()
    assert sigma.tolist() == [0.1] * 2 + [0.03] * 6 and (centre == 0.0).all()
    centre, sigma = hybrid.scale.prior()
    assert sigma.tolist() == [math.inf] * 2 + [0.2] * 3 and (centre == 0.0).all()


def test_without_restraints_frames_add_nothing(data):
    orientation = Orientation(data.steps, n_nodes=1, mosaic_spread=None, restraint=0.1)
    assert orientation.frame_tilt.numel() == 0 and orientation.axes.shape[1] == 1
    assert Scale(data.observations, 2, 1).of_frame.numel() == 0


def test_segments_never_span_two_frames(data, hybrid):
    for task in hybrid.simulation.tasks:
        part = slice(task.segment.first, task.segment.last)
        assert len(data.steps.frame[part].unique()) == len(data.steps.crystal[part].unique()) == 1
    assert hybrid.simulation.covered().all()


@pytest.mark.parametrize("steps", ["data", "common"])
def test_jacobian_of_tilts_and_scales_against_central_differences(steps, request):
    hybrid = model(request.getfixturevalue(steps))
    generator = torch.Generator().manual_seed(1)
    for parameter in (hybrid.orientation.frame_tilt, hybrid.scale.of_frame):
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    x = hybrid.vector()
    hybrid.simulation  # noqa: B018  beams stay as they are
    found = hybrid.evaluate(derivatives=True).jacobian[:]
    blocks = hybrid.slices()
    for name in ("orientation", "scale"):
        part = blocks[name]

        def intensity(own, part=part):
            y = x.clone()
            y[part] = own
            hybrid.load_vector(y)
            return hybrid.evaluate().intensity

        expected = central_differences(intensity, x[part], 1e-3)
        assert largest_error(found[:, part], expected) < 1e-6


def test_shares_add_up_to_the_number_of_measurements():
    measurement = measured_frames()
    made = measurement.reflections
    share = shares(measurement.runs[0], made.hkl, made.frame)
    overlapping = made.frame < 2
    crossings = np.unique(np.column_stack([made.hkl, overlapping]), axis=0)
    assert (share[~overlapping] == 1.0).all() and (share[overlapping] < 1.0).any()
    assert share.sum() == pytest.approx(len(crossings))
