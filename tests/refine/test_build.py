"""From settings to data and models."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from simulated import SETTINGS, quartz_crystal, simulate

from dials_hybrid.model.simulation import silent
from dials_hybrid.model.thickness import Flat, Gamma, Normal, Wedge
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.model.thickness_network import Histogram, Neural
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.state import State
from dials_hybrid.rocking.mosaic import mosaic_deviates

GRID = (500.0, 20)


@pytest.fixture(scope="module")
def inputs():
    crystal = quartz_crystal()
    measured = simulate(crystal.scan, Wedge(ThicknessGrid(*GRID), 300.0), step=0.1)
    return crystal.inputs(measured, crystal.truth)


def builder(inputs, rough=False, **settings) -> Builder:
    return Builder(inputs, replace(SETTINGS, **settings), silent, rough)


def state(model="wedge", start=(300.0,), **changes) -> State:
    return replace(State("scan", None, GRID, model, [list(start)]), **changes)


def test_steps_follow_thickness_and_resolution(inputs):
    """1 / (t g_max) radian; less than half as many for each quantile of a mosaic spread; or as asked for."""

    def step(thickness, points, rough=False, **settings):
        return float(builder(inputs, rough, **settings).dataset(thickness, points).steps.weight.max())

    expected = math.degrees(1.0 / (500.0 * SETTINGS.g_max))
    assert step(500.0, 1) == pytest.approx(expected, rel=0.01)
    assert step(1000.0, 1) == pytest.approx(expected / 2.0, rel=0.01)
    assert step(500.0, 5) == pytest.approx(1.8 * expected / 5.0, rel=0.01)
    assert step(500.0, 5, rough=True) == pytest.approx(4.0 * expected / 5.0, rel=0.01)
    assert step(500.0, 1, rough=True) == pytest.approx(expected, rel=0.01)
    assert step(500.0, 1, g_max=0.75) == pytest.approx(2.0 * expected, rel=0.02)
    for rough in (False, True):
        assert step(500.0, 5, rough, rocking_step=0.11) == pytest.approx(0.11, rel=0.01)


def test_tilts_are_the_means_or_the_medians_as_the_settings_have_it(inputs):
    means, medians = (
        builder(inputs, mosaic_tilts=tilts).dataset(500.0, 5).steps.mosaic for tilts in ("means", "medians")
    )
    assert torch.equal(means, mosaic_deviates(len(means), 5))
    assert torch.equal(medians, mosaic_deviates(len(means), 5, "medians"))
    assert float(medians.max()) < float(means.max())


def test_steps_are_fine_enough(inputs):
    """One per cent, in the sum over all reflections, from steps five times finer."""
    coarse, fine = builder(inputs), builder(inputs, rocking_step=0.015)
    found, expected = (
        build.hybrid(build.dataset(GRID[0], 1), state()).evaluate().intensity for build in (coarse, fine)
    )
    assert float((found - expected).abs().sum() / expected.sum()) < 0.01


@pytest.mark.parametrize(("rough", "limit"), [(False, 0.005), (True, 0.01)])
def test_steps_with_mosaic_spread_are_fine_enough(inputs, rough, limit):
    """In amplitudes, against steps four times finer."""
    settings = {"mosaic_points": 5, "mosaic_spread": 0.1}
    coarse, fine = builder(inputs, rough, **settings), builder(inputs, rocking_step=0.01, **settings)
    found, expected = (
        build.hybrid(build.dataset(GRID[0], 5), state()).evaluate().intensity.clamp(min=0.0).sqrt()
        for build in (coarse, fine)
    )
    error = float((found - expected).abs().sum() / expected.sum())
    assert error < limit


def test_free_set_is_the_same_for_all_steps(inputs):

    def free(thickness, **settings):
        return builder(inputs, **settings).dataset(thickness, 1).observations.free

    coarse = free(300.0, free_fraction=0.1)
    assert 0.05 < float(coarse.double().mean()) < 0.15
    assert torch.equal(coarse, free(900.0, free_fraction=0.1))
    assert not torch.equal(coarse, free(300.0, free_fraction=0.1, seed=1))
    assert not free(300.0, free_fraction=0.0).any()


def test_nodes_follow_the_pendelloesung(inputs):
    """Splines between them reproduce the intensities of plates half-way between."""
    build = builder(inputs)
    dataset = build.dataset(GRID[0], 1)
    assert build.n_nodes(dataset, 100.0) == 16
    assert build.n_nodes(dataset, 1e5) == 64
    n = build.n_nodes(dataset, 3000.0)
    assert 16 < n < 43
    assert build.n_nodes(dataset, 4500.0) == pytest.approx(1.5 * n, abs=1)
    plate = 3000.0 * (n - 6.5) / n
    found, expected = (
        build.hybrid(dataset, state("flat", [plate], grid=grid)).evaluate().intensity
        for grid in ((3000.0, n), (plate, 5))
    )
    assert float((found - expected).abs().max() / expected.max()) < 0.01


MODELS = {
    "flat": ([310.0], Flat, 310.0),
    "wedge": ([310.0], Wedge, 155.0),
    "normal": ([250.0, 40.0], Normal, 250.0),
    "gamma": ([250.0, 40.0], Gamma, 250.0),
    "histogram": ([250.0, 40.0], Histogram, 250.0),
    "neural": ([250.0, 40.0], Neural, 250.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_thickness_model_starts_where_the_state_says(inputs, name):
    start, kind, mean = MODELS[name]
    build = builder(inputs)
    hybrid = build.hybrid(build.dataset(GRID[0], 1), state(name, start))
    assert isinstance(hybrid.thickness[0], kind)
    assert hybrid.grid.maximum == GRID[0] and len(hybrid.grid) == GRID[1]
    assert hybrid.mean_thickness(hybrid.evaluate()) == pytest.approx(mean, rel=0.01)


def test_parameters_come_from_the_state(inputs):
    build = builder(inputs)
    dataset = build.dataset(GRID[0], 1)
    x = build.hybrid(dataset, state()).vector()
    x = x + 1e-3 * torch.arange(len(x))
    hybrid = build.hybrid(dataset, state(vector=x.tolist()))
    assert torch.equal(hybrid.vector(), x)
    assert torch.equal(hybrid.crystal.shifts, x[: len(inputs.names)])


@pytest.mark.parametrize("points, wanted, refined", [(1, True, False), (5, True, True), (5, False, False)])
def test_mosaicity_is_refined_where_there_are_points_for_it(inputs, points, wanted, refined):
    build = builder(inputs, mosaic_points=points, mosaic_spread=0.07)
    hybrid = build.hybrid(build.dataset(GRID[0], points), state(), mosaic=wanted)
    assert (hybrid.orientation.mosaic is not None) == refined
    if refined:
        assert hybrid.orientation.mosaic.tolist() == [0.07]


@pytest.mark.parametrize(
    "changes",
    [{"vector": [0.1] * 5}, {"thickness_start": [[300.0], [300.0]]}, {"thickness_start": [[300.0, 20.0]]}],
)
def test_a_state_of_another_model_is_refused(inputs, changes):
    build = builder(inputs)
    with pytest.raises(ValueError, match="^the checkpoint is damaged"):
        build.hybrid(build.dataset(GRID[0], 1), state(**changes))


def test_free_distributions_know_where_thickness_shows(inputs):
    """t_0 is a sixth of the shortest extinction distance, of which the grid's nodes are a part."""
    build = builder(inputs)
    dataset = build.dataset(GRID[0], 1)
    model = build.hybrid(dataset, state("histogram", [250.0, 40.0])).thickness[0]
    extinction = 14.0 * 3000.0 / build.n_nodes(dataset, 3000.0)
    t = model.grid.points
    tau = torch.acos(model.basis[:, 0]) * GRID[0] / math.pi
    t_0 = float((tau**2 - t**2).sqrt()[0])
    assert t_0 == pytest.approx(extinction / (2.0 * math.pi), rel=0.08)
