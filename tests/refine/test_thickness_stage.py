"""One thickness model in the place of another, and the starts that are worth a trial."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dials_hybrid.model.simulation import silent
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.thickness_stage import (
    change_model,
    prefers_another,
    starts,
    widened,
    with_thickness,
)


@pytest.mark.parametrize("truth, likely", [("flat", {"flat"}), ("normal", {"wedge", "normal", "gamma"})])
def test_what_is_enough_is_chosen(prepared, truth, likely):
    build, make_fit, hybrid, state = prepared(truth)
    model, after, candidates = change_model(build, make_fit, hybrid, state, "auto")
    assert after.thickness_model in likely
    assert [c.model for c in candidates if c.chosen] == [after.thickness_model]
    r1_free = {c.model: c.r1_free for c in candidates}
    if after.thickness_model != "normal":
        assert after.vector == model.vector().tolist()
        observations = model.dataset.observations
        free, intensity = observations.free, model.evaluate().intensity
        expected = r_values(observations.intensity[free], observations.sigma[free], intensity[free])
        assert r1_free[after.thickness_model] == pytest.approx(expected.r1_obs, rel=0.01)
    assert truth == "flat" or r1_free["flat"] > r1_free["normal"]
    blocks, others = hybrid.slices(), model.slices()
    assert torch.equal(model.vector()[others["crystal"]], hybrid.vector()[blocks["crystal"]])
    assert torch.equal(model.vector()[others["orientation"]], hybrid.vector()[blocks["orientation"]])


def test_asked_again_the_simpler_one_is_taken_and_stays(prepared):
    """Of a plate, which a narrow normal distribution describes as well."""
    build, make_fit, hybrid, state = prepared("flat")
    assert state.thickness_model == "normal"
    _, _, candidates = change_model(build, make_fit, hybrid, state, "auto")
    before = replace(state, comparison=candidates)
    model, again, _ = change_model(build, make_fit, hybrid, before, "auto")
    assert model is not hybrid
    assert again.thickness_model == "flat"
    same, still, _ = change_model(build, make_fit, model, again, "auto")
    assert same is model
    assert still.thickness_model == "flat"


def test_starts_are_refined_sorted_and_apart(prepared):
    """From three starts that lead to the same thickness."""
    build, make_fit, hybrid, state = prepared("flat")
    minima = {"flat": [[320.0], [290.0], [650.0]]}
    state = replace(
        state, thickness_model="flat", thickness_start=[[650.0]], scan=SimpleNamespace(minima=minima)
    )
    flat = build.hybrid(hybrid.dataset, state)
    sums = make_fit(flat).set_scale()
    found = list(starts(build, make_fit, flat, sums, state))
    assert len(found) == 1
    model, start = found[0]
    assert model.thickness[0].thickness.item() == pytest.approx(300.0, rel=0.03)
    assert start.thickness_start[0] in minima["flat"]


@pytest.mark.parametrize(
    "thickness, grid, expected",
    [
        (300.0, (700.0, 20), (False, False)),
        (600.0, (700.0, 20), (True, False)),
        (237.0, (240.0, 16), (False, True)),
    ],
)
def test_a_scan_notices_another_thickness(prepared, thickness, grid, expected):
    """Plates of 300 A: found, missed, and beyond what is considered."""
    build, make_fit, hybrid, state = prepared("flat")
    state = replace(state, grid=grid, thickness_model="flat", thickness_start=[[thickness]])
    model = build.hybrid(hybrid.dataset, state)
    fit = make_fit(model)
    sums = fit.set_scale()
    found = fit.refine_thickness(sums, max_cycles=0, tolerance=0.0)
    assert prefers_another(model, found, "flat") == expected
    assert prefers_another(model, found, None) == expected


def test_another_thickness_leaves_all_else(prepared):
    build, _, hybrid, state = prepared("normal")
    with torch.no_grad():
        hybrid.crystal.shifts += 1e-3
        hybrid.scale.constant += 0.3
    flat = with_thickness(build, hybrid, replace(state, thickness_model="flat", thickness_start=[[410.0]]))
    assert flat.thickness[0].thickness.item() == pytest.approx(410.0)
    for name, part in flat.slices().items():
        if name != "thickness":
            assert torch.equal(flat.vector()[part], hybrid.vector()[hybrid.slices()[name]])


@pytest.mark.parametrize("maximum, expected", [(300.0, True), (800.0, False)])
def test_a_grid_that_ends_too_soon_is_replaced(prepared, maximum, expected):
    """Crystals up to about 500 A: the wedge that fits best, and what is allowed beyond it."""
    build, make_fit, _, state = prepared("normal")
    build = Builder(build.inputs, replace(build.settings, thickness_maximum=None), silent)
    state = replace(state, grid=(maximum, 16))
    hybrid = build.hybrid(build.dataset(maximum, 1), state)
    fit = make_fit(hybrid)
    found = fit.refine_thickness(fit.set_scale(), max_cycles=10, tolerance=1e-3)
    model, after = widened(build, hybrid, found, state)
    assert (after.grid[0] > maximum) == expected == (model is not hybrid)
    assert model.grid.maximum == after.grid[0]
    if expected:
        assert after.grid[0] < 1.7 * maximum and after.grid[0] % 50.0 == 0.0
        assert model.thickness[0].numbers() == pytest.approx(hybrid.thickness[0].numbers(), rel=1e-6)
        blocks, others = hybrid.slices(), model.slices()
        for name in ("crystal", "orientation", "scale"):
            assert torch.equal(model.vector()[others[name]], hybrid.vector()[blocks[name]])
        assert build.hybrid(build.dataset(after.grid[0], 1), after).vector().tolist() == after.vector


def test_a_largest_thickness_that_was_given_stays(prepared):
    build, make_fit, _, state = prepared("normal")
    build = Builder(build.inputs, replace(build.settings, thickness_maximum=300.0), silent)
    state = replace(state, grid=(300.0, 16))
    hybrid = build.hybrid(build.dataset(300.0, 1), state)
    fit = make_fit(hybrid)
    found = fit.refine_thickness(fit.set_scale(), max_cycles=2, tolerance=1e-3)
    assert widened(build, hybrid, found, state) == (hybrid, state)


@pytest.mark.parametrize("truth, numbers", [("flat", 2), ("normal", None)])
def test_a_network_starts_from_what_is_enough(prepared, truth, numbers):
    """Never from a wedge where the crystal is a plate."""
    build, make_fit, hybrid, state = prepared(truth)
    model, after, _ = change_model(build, make_fit, hybrid, state, "neural")
    assert after.thickness_model == "neural"
    assert list(model.thickness[0].start) == after.thickness_start[0]
    assert numbers is None or len(after.thickness_start[0]) == numbers
