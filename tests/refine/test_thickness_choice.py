"""Cross-validation of thickness models, on intensities that no wave equation is needed for.

`test_protocol` has the choice within a refinement.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from simulated import SETTINGS, quartz_crystal, simulate

from dials_hybrid.model.simulation import silent
from dials_hybrid.model.thickness import Flat, Normal
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.free_set import unique_reflections
from dials_hybrid.refine.joint_fit import JointFit
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.state import State
from dials_hybrid.refine.target import Weighting
from dials_hybrid.refine.thickness_choice import cross_validate, folds
from dials_hybrid.refine.thickness_stage import change_model, starts

GRID = (700.0, 20)
TRUTH = {"flat": lambda grid: Flat(grid, 300.0), "normal": lambda grid: Normal(grid, 250.0, 130.0)}


@pytest.fixture(scope="module")
def prepared():
    """Function of the name of a truth: builder, fit of a model, and the model before the choice."""
    crystal = quartz_crystal()

    def prepare(truth):
        measured = simulate(crystal.scan, TRUTH[truth](ThicknessGrid(700.0, 40)), step=0.05)
        build = Builder(crystal.inputs(measured, crystal.truth), SETTINGS, silent)
        dataset = build.dataset(GRID[0], 1)
        state = State("joint", None, GRID, "normal", [[280.0, 80.0]])

        def make_fit(hybrid):
            return JointFit(hybrid, Weighting({"instability": 0.0}, 3.0), crystal.origin_shifts)

        hybrid = build.hybrid(dataset, state)
        make_fit(hybrid).set_scale()
        return build, make_fit, hybrid, state

    return prepare


def test_folds_keep_equivalents_together_and_are_of_one_size():
    group = torch.arange(100).repeat(3)
    found = folds(group, seed=0)
    assert torch.equal(found[:100], found[200:])
    assert torch.bincount(found).tolist() == [60] * 5
    assert not torch.equal(found, folds(group, seed=1))


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


def test_predictions_have_not_seen_what_they_predict(prepared):
    """Spoiling one fold changes the predictions of all others, not its own."""
    build, make_fit, hybrid, state = prepared("normal")
    fit, observations = make_fit(hybrid), hybrid.dataset.observations
    group = unique_reflections(observations.hkl, hybrid.crystal.start.rotations)
    fold = folds(group, seed=0)
    evaluation = hybrid.evaluate()
    target = fit.weighting.target(observations, evaluation.intensity)
    expected = cross_validate(fit, evaluation.sums, target, fold)
    spoilt = torch.where(fold == 2, 3.0, 1.0) * target.intensity
    before = hybrid.vector()
    found = cross_validate(fit, evaluation.sums, replace(target, intensity=spoilt), fold)
    assert torch.equal(found[fold == 2], expected[fold == 2])
    assert not torch.isclose(found[fold != 2], expected[fold != 2]).any()
    assert torch.equal(hybrid.vector(), before)


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
