"""Weights of rocking steps for a crystal whose blocks are turned about the rotation axis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from measured import ATOMS, measured_frames, measured_sweep
from synthetic import central_differences, free_parameters, largest_error

from dials_hybrid.bloch.beams import Segment
from dials_hybrid.model.batches import batched
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Normal
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.model.windows import Windows
from dials_hybrid.rocking.measurement import Measurement, joined


def blurred(measurement: Measurement) -> Measurement:
    return replace(measurement, runs=tuple(replace(run, blurred=True) for run in measurement.runs))


def one_image() -> Measurement:
    """The second image of the sweep: from 0.3 to 0.6 degree of 0.9."""
    measurement = blurred(measured_sweep())
    reflections = replace(
        measurement.reflections, half_width=np.full(len(measurement.reflections), 0.15)
    ).select(np.array([0]))
    return replace(measurement, reflections=reflections)


def whole(dataset) -> Segment:
    """All steps as one segment."""
    nothing = torch.zeros(0, 3, dtype=torch.long)
    return Segment(0, len(dataset.steps), 0, nothing, nothing)


@pytest.fixture
def image():
    return one_image().dataset(0.005, 1)


def weights(dataset, spread: float, largest: float | None = None) -> torch.Tensor:
    """Of all steps for the first observation; windows are made for the largest spread."""
    spreads = torch.tensor([[spread], [spread if largest is None else largest]], dtype=torch.float64)
    return Windows(dataset, spreads[1]).weights(whole(dataset), torch.tensor([0]), spreads[0])[0]


@pytest.mark.parametrize("spread", [0.02, 0.07])
def test_the_average_over_turned_blocks(image, spread):
    """That of sharp windows, moved by ten thousand quantiles of the turn."""
    turn = spread * torch.special.ndtri((torch.arange(10_000) + 0.5).double() / 10_000)
    angle, length = image.steps.angle, image.steps.weight
    low = torch.maximum(angle - length / 2.0, 0.3 + turn[:, None])
    high = torch.minimum(angle + length / 2.0, 0.6 + turn[:, None])
    expected = (high - low).clamp(min=0.0).mean(0)
    found = weights(image, spread)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(length[0]))
    assert float(found.sum()) == pytest.approx(0.3, rel=1e-4)


def test_without_spread_windows_are_sharp(image):
    angle, length = image.steps.angle, float(image.steps.weight[0])
    found = weights(image, 0.0)
    far = (angle - 0.45).abs() - 0.15
    assert (found[far > 2.0 * length] == 0.0).all()
    torch.testing.assert_close(found[far < -2.0 * length], image.steps.weight[far < -2.0 * length])
    assert float(found.sum()) == pytest.approx(0.3, rel=1e-3)


def test_derivatives_against_central_differences(image):
    windows, segment, row = Windows(image, torch.tensor([0.05]).double()), whole(image), torch.tensor([0])
    for spread in (0.03, -0.03, 0.004):
        x = torch.tensor([spread], dtype=torch.float64)
        expected = central_differences(lambda s: windows.weights(segment, row, s), x, 1e-5)[..., 0]
        assert largest_error(windows.rates(segment, row, x).T, expected.T) < 1e-6


def test_windows_reach_as_far_as_a_spread_that_grows_asks(image):
    """Made for a spread of 0.04, they hold 99.9 % of the weight for one of 0.06."""
    found, expected = weights(image, 0.06, largest=0.04), weights(image, 0.06)
    assert float(found.sum()) == pytest.approx(float(expected.sum()), rel=1e-3)
    assert int((weights(image, 0.04) > 0.0).sum()) < 0.8 * len(image.steps)


def test_nothing_is_beyond_the_ends_of_a_scan():
    """There windows stay sharp."""
    measurement = one_image()
    reflections = replace(measurement.reflections, angle=np.array([0.15]))
    dataset = replace(measurement, reflections=reflections).dataset(0.005, 1)
    assert dataset.observations.edges.tolist() == [[-np.inf, pytest.approx(0.3)]]
    found = weights(dataset, 0.05)
    torch.testing.assert_close(found[:10], dataset.steps.weight[:10], rtol=1e-3, atol=0)


def test_steps_belong_to_their_own_frame():
    """Those beyond the ends of a frame overlap with the next ones."""
    dataset = blurred(measured_frames()).dataset(0.05, 1)
    windows = Windows(dataset, torch.tensor([0.05]).double())
    steps, observations = dataset.steps, dataset.observations
    assert float(steps.angle[steps.frame == 1].min()) == pytest.approx(-0.6 - 0.3 - 0.4, abs=0.05)
    for frame in range(3):
        own = (steps.frame == frame).nonzero().flatten()
        segment = replace(whole(dataset), first=int(own[0]), last=int(own[-1]) + 1)
        rows = windows.rows(segment)
        assert torch.equal(rows, (observations.frame == frame).nonzero().flatten())
        sums = windows.weights(segment, rows, torch.tensor([0.05]).double()).sum(1)
        torch.testing.assert_close(sums, torch.full_like(sums, 0.6), rtol=1e-4, atol=0)


def hybrid(measurement: Measurement) -> Hybrid:
    data = measurement.dataset(0.05, 3)
    n = data.steps.n_crystals
    return Hybrid(
        data,
        Crystal(ATOMS, *free_parameters(ATOMS, ("x",))),
        Orientation(data.steps, n_nodes=1, mosaic_spread=0.06, restraint=0.1),
        [Normal(ThicknessGrid(600.0, 24), mean=200.0, width=120.0) for _ in range(n)],
        Scale(data.observations, n, 1),
        BeamPolicy(g_max=1.2, sg_max=0.02, segment_length=4),
    )


@pytest.mark.parametrize("with_structure", [True, False])
def test_jacobian_of_the_mosaic_spread(with_structure):
    """Of two crystals, an image of a sweep and frames, by one spread each that acts in both directions."""
    sweep = blurred(measured_sweep())
    half_width = np.full(len(sweep.reflections), 0.15)
    sweep = replace(sweep, reflections=replace(sweep.reflections, half_width=half_width))
    model = hybrid(joined([sweep, blurred(measured_frames())]))
    model.simulation  # noqa: B018  beams and windows stay as they are
    x, columns = model.vector(), model.slices()["orientation"]
    columns = slice(columns.stop - 2, columns.stop)

    def intensity(part):
        y = x.clone()
        y[columns] = part
        model.load_vector(y)
        return model.evaluate().intensity

    expected = central_differences(intensity, x[columns], 1e-3)
    model.load_vector(x)
    found = model.evaluate(derivatives=True, structure=with_structure).jacobian[:][:, columns]
    assert largest_error(found, expected) < 1e-6
    without = replace(model.dataset, observations=replace(model.dataset.observations, edges=None))
    assert largest_error(hybrid_of(model, without), expected) > 0.05


def test_segments_together_have_the_same_windows():
    """Of an image of a sweep and of frames, where what is filled up would count twice."""
    sweep = blurred(measured_sweep())
    half_width = np.full(len(sweep.reflections), 0.15)
    sweep = replace(sweep, reflections=replace(sweep.reflections, half_width=half_width))
    model = hybrid(joined([sweep, blurred(measured_frames())]))
    expected, simulation = model.evaluate(derivatives=True), model.simulation
    simulation.shares = [batched(share, 100, 24, 2**26) for share in simulation.shares]
    assert len(simulation.shares[0]) == 2 < len(simulation.tasks)
    found = model.evaluate(derivatives=True)
    torch.testing.assert_close(found.intensity, expected.intensity, rtol=1e-11, atol=0)
    values = expected.jacobian[:]
    assert ((found.jacobian[:] - values).abs() <= 1e-11 * values.abs().amax(0)).all()
    torch.testing.assert_close(model.evaluate().intensity, expected.intensity, rtol=1e-11, atol=0)


def hybrid_of(model: Hybrid, dataset) -> torch.Tensor:
    """The columns of the spread in the Jacobian with sharp windows."""
    model.dataset = dataset
    model.update_beams()
    columns = model.slices()["orientation"]
    return model.evaluate(derivatives=True).jacobian[:][:, columns.stop - 2 : columns.stop]
