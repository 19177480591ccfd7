"""All stages on a small simulated data set."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from simulated import SETTINGS, quartz_crystal, simulate

from dials_hybrid.io.checkpoint import write_json
from dials_hybrid.model.simulation import silent
from dials_hybrid.model.thickness import Normal
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine import protocol as module
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.protocol import Protocol
from dials_hybrid.refine.state import STAGES, State

SHORT = replace(SETTINGS, g_max=1.4, max_cycles=3, rocking_step=0.15, outlier_cutoff=3.0)
MODELS = ["flat", "wedge", "normal", "gamma", "histogram", "neural"]
LATER = ["auto", "histogram", "neural"]  # put in place of a normal distribution


@pytest.fixture(scope="module")
def inputs():
    crystal = quartz_crystal()
    measured = simulate(crystal.scan, Normal(ThicknessGrid(600.0, 24), 200.0, 150.0), step=0.05)
    return crystal.inputs(measured, crystal.displaced(0.03, seed=0))


def run(inputs, model, start=None, **settings):
    """Outcome and the states after each stage."""
    checkpoints = []
    protocol = Protocol(
        inputs, replace(SHORT, thickness_model=model, **settings), on_checkpoint=checkpoints.append
    )
    return protocol.run(start), {state.stage: state for state in checkpoints}


@pytest.fixture(scope="module")
def whole(inputs):
    """Uninterrupted runs, one a thickness model."""
    return {model: run(inputs, model) for model in MODELS}


def assert_same(found, expected, tolerance):
    """Parameters, intensities, s.u.s and figures, relative to the largest of each."""
    pairs = [
        (found.hybrid.vector(), expected.hybrid.vector()),
        (found.fit.evaluation.intensity, expected.fit.evaluation.intensity),
        (*(torch.diagonal(o.fit.covariance).sqrt() for o in (found, expected)),),
        (*(torch.tensor([o.fit.goodness_of_fit]) for o in (found, expected)),),
    ]
    for values, others in pairs:
        torch.testing.assert_close(values, others, rtol=tolerance, atol=tolerance * 1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_stages(whole, model):
    outcome, states = whole[model]
    expected = [stage for stage in STAGES if stage != "thickness" or model in LATER]
    assert list(states) == expected[:-1]
    assert outcome.state.stage == "final" and outcome.state.thickness_model == model
    assert outcome.state.vector == outcome.hybrid.vector().tolist()
    assert outcome.hybrid.dtype == torch.float64
    stages = [cycle.stage for cycle in outcome.state.history]
    assert sorted(set(stages), key=STAGES.index) == [stage for stage in expected[1:] if stage != "thickness"]
    assert all(stages.count(stage) <= 4 for stage in stages)
    first, last = outcome.state.history[0], outcome.state.history[-1]
    assert last.r1_obs < 0.5 * first.r1_obs


def test_the_last_stage_goes_on_where_its_weights_were_those_of_a_worse_model(inputs, whole, monkeypatch):
    monkeypatch.setattr("dials_hybrid.refine.protocol._DESCRIBED", (5.0, 6.0))
    outcome, _ = run(inputs, "flat")
    before, now = ([cycle.number for cycle in o.state.history] for o in (whole["flat"][0], outcome))
    assert now[: len(before)] == before and len(now) > len(before)
    final = [cycle.number for cycle in outcome.state.history if cycle.stage == "final"]
    assert final == list(range(1, len(final) + 1))


def test_network_is_as_good_as_what_it_starts_from(whole):
    """The distribution is normal here, so there is nothing to gain."""
    normal, neural = (whole[model][0].state.history[-1] for model in ("normal", "neural"))
    assert neural.r1_obs < 1.05 * normal.r1_obs
    assert neural.r1_free < 1.3 * normal.r1_free


@pytest.mark.parametrize("model", ["wedge", "neural", "auto"])
def test_resumed_runs_end_where_uninterrupted_ones_do(inputs, whole, model, tmp_path):
    """Also finished ones, which repeat their last stage."""
    expected, states = whole[model] if model in whole else run(inputs, model)
    for stage in states:
        write_json(tmp_path / "checkpoint", states[stage].as_dict())
        start = State.from_dict(json.loads((tmp_path / "checkpoint").read_text()))
        found, later = run(inputs, model, start)
        assert list(later) == list(states)[list(states).index(stage) + 1 :]
        assert_same(found, expected, 1e-6)
        assert repr(found.state.history) == repr(expected.state.history)
        assert found.state.comparison == expected.state.comparison


@pytest.mark.parametrize("changes", [{"vector": [0.1] * 7}, {"thickness_start": [[200.0, 100.0]]}])
def test_a_damaged_checkpoint_is_refused_in_a_sentence(inputs, whole, changes):
    damaged = replace(whole["wedge"][1]["joint"], **changes)
    with pytest.raises(ValueError, match="checkpoint is damaged"):
        run(inputs, "wedge", damaged)


def test_auto_compares_and_takes_what_is_enough(inputs):
    """The distribution is normal, broad and the same everywhere: no plate and no network."""
    outcome, states = run(inputs, "auto")
    comparison = {candidate.model: candidate for candidate in outcome.state.comparison}
    assert list(comparison) == ["flat", "wedge", "normal", "gamma", "neural"]
    chosen = [c.model for c in comparison.values() if c.chosen]
    assert chosen == [outcome.state.thickness_model]
    assert outcome.state.thickness_model not in ("flat", "neural")
    assert comparison["flat"].behind > 2.0 * comparison["flat"].standard_error
    assert min(c.behind for c in comparison.values()) == 0.0
    assert states["joint"].thickness_model == "normal"


def test_same_seed_same_result(inputs, whole):
    again, _ = run(inputs, "neural")
    assert torch.equal(again.hybrid.vector(), whole["neural"][0].hybrid.vector())
    assert asdict(again.state.history[-1]) == asdict(whole["neural"][0].state.history[-1])


def test_seed_decides_the_free_set(inputs, whole):
    other, _ = run(inputs, "wedge", seed=1)
    free = [outcome.hybrid.dataset.observations.free for outcome in (other, whole["wedge"][0])]
    assert not torch.equal(*free)


def test_two_processes_give_the_same(inputs, whole):
    found, _ = run(inputs, "neural", nproc=2)
    assert_same(found, whole["neural"][0], 1e-9)


def test_callbacks(inputs):
    """Each stage is announced, then its cycles, then its checkpoint; progress sees every segment."""
    seen, segments = [], []

    def progress(iterable, total):
        segments.append(total)
        return iterable

    Protocol(
        inputs,
        replace(SHORT, thickness_model="flat", max_cycles=1),
        on_stage=lambda stage: seen.append(("start", stage)),
        on_cycle=lambda cycle: seen.append(("cycle", cycle.stage)),
        on_checkpoint=lambda state: seen.append(("end", state.stage)),
        progress=progress,
    ).run()
    stages = ["scan", "orientation", "joint", "final"]
    kinds = ["start", "cycle", "end"]
    never = [("cycle", "scan"), ("end", "final")]
    assert seen == [(kind, stage) for stage in stages for kind in kinds if (kind, stage) not in never]
    assert min(segments) > 1


def test_scan_looks_further_when_the_data_ask_for_it(inputs):
    """Not beyond a maximum that the user has set."""
    _, states = run(inputs, "wedge", max_cycles=0)
    maximum, n_nodes = states["scan"].grid
    assert 1.4 * states["scan"].scan.best["wedge"][0] < maximum < 2000.0
    assert 16 <= n_nodes <= 64
    _, states = run(inputs, "wedge", max_cycles=0, thickness_maximum=250.0)
    assert states["scan"].grid[0] == 250.0
    assert states["scan"].scan.at_bound


def test_a_start_anew_keeps_the_structure_and_nothing_else(inputs, monkeypatch):
    """As where the thickness was wrong at first. Resumed after the second scan it ends alike."""
    answers = iter([(True, False)] + [(False, False)] * 4)
    monkeypatch.setattr(module, "prefers_another", lambda *_: next(answers))
    states, stages = [], []
    settings = replace(SHORT, thickness_model="wedge")
    found = Protocol(inputs, settings, on_stage=stages.append, on_checkpoint=states.append).run()
    assert stages == ["scan", "orientation", "joint", "scan", "orientation", "joint", "final"]
    assert [state.stage for state in states] == ["scan", "orientation", "scan", "orientation", "joint"]
    first, anew = states[1], states[2]
    assert repr(anew.given) == repr(first.given) == repr(found.state.given)  # with the structure as given
    assert repr(anew.history).startswith(repr(first.history)[:-1])
    build = Builder(inputs, settings, silent, rough=True)
    model = build.hybrid(build.dataset(anew.grid[0], 1), replace(anew, vector=None))
    at, fresh, vector = model.slices(), model.vector(), torch.tensor(anew.vector, dtype=torch.float64)
    assert vector[at["crystal"]].abs().max() > 0.0
    assert torch.equal(vector[at["crystal"].stop :], fresh[at["crystal"].stop :])
    assert anew.scan.best_chi_squared["wedge"] < 0.9 * states[0].scan.best_chi_squared["wedge"]
    again = Protocol(inputs, settings).run(anew)
    assert_same(again, found, 1e-6)


def test_the_final_stage_may_prefer_another_thickness_too(inputs, monkeypatch):
    """Of all models where the program chose one, else of that which the user wants."""
    asked, stages = [], []
    settings = replace(SHORT, thickness_model="neural", max_cycles=1)

    def answer(hybrid, fit, model):
        asked.append(model)
        return model is None and asked.count(None) == 1, False

    monkeypatch.setattr(module, "prefers_another", answer)
    Protocol(inputs, settings, on_stage=stages.append).run()
    one = ["scan", "orientation", "joint", "thickness", "final"]
    assert stages == one + one and asked == ["normal", None] * 2


def test_the_thickness_model_is_chosen_again_only_once(inputs, monkeypatch):
    """However often the run is resumed."""
    monkeypatch.setattr(module, "in_doubt", lambda _: True)
    change_model = module.change_model

    def another(build, make_fit, hybrid, state, wanted, evaluation=None):
        return change_model(build, make_fit, hybrid, state, "neural" if evaluation else wanted, evaluation)

    monkeypatch.setattr(module, "change_model", another)
    settings = replace(SHORT, thickness_model="auto", max_cycles=1)
    states, stages = [], []
    whole = Protocol(inputs, settings, on_stage=stages.append, on_checkpoint=states.append).run()
    assert stages[2:] == ["joint", "thickness", "final", "thickness", "final"]
    assert states[-1].chosen_again and states[-1].stage == "thickness"
    stages.clear()
    again = Protocol(inputs, settings, on_stage=stages.append).run(states[-1])
    assert stages == ["final"]
    assert_same(again, whole, 1e-6)


@pytest.mark.parametrize("far, rounds", [(True, 4), (False, 1)])
def test_the_joint_stage_goes_on_while_the_fit_is_poor(inputs, monkeypatch, far, rounds):
    monkeypatch.setattr(module, "_POOR", 0.0 if far else 1.0)
    outcome, _ = run(inputs, "wedge", max_cycles=1)
    joint = [cycle.number for cycle in outcome.state.history if cycle.stage == "joint"]
    assert joint == list(range(1, rounds + 1))


@pytest.mark.parametrize("answer, starts", [((True, False), 4), ((False, True), 1)])
def test_starts_anew_come_to_an_end(inputs, monkeypatch, answer, starts):
    """After four; at once where there is nothing beyond the grid."""
    monkeypatch.setattr(module, "prefers_another", lambda *_: answer)
    stages = []
    settings = replace(SHORT, thickness_model="flat", thickness_maximum=600.0, max_cycles=1)
    Protocol(inputs, settings, on_stage=stages.append).run()
    assert stages == ["scan", "orientation", "joint"] * starts + ["final"]


def test_free_set_can_be_empty(inputs):
    outcome, _ = run(inputs, "wedge", free_fraction=0.0)
    last = outcome.state.history[-1]
    assert last.r1_free != last.r1_free and last.r1_obs < 0.1


def test_displacements_that_are_not_positive_are_made_anew(inputs, monkeypatch):
    """Refined from where they are, and from the isotropic ones: what fits better goes on."""
    seen, ends = [], []
    settings = replace(SHORT, thickness_model="flat", thickness_maximum=600.0)
    protocol = Protocol(inputs, settings, on_cycle=seen.append)
    hybrid = protocol._model(protocol.rough, protocol._scan())
    good = hybrid.crystal.shifts.detach().clone()

    def recorded(crystal):
        ends.append((crystal.shifts.detach().clone(), hybrid.vector()))
        return good + ends_with

    monkeypatch.setattr(module, "isotropic_instead", recorded)
    ends_with = 0.05  # every coordinate moved, and every U larger: ends worse
    worse, cycles = protocol._refine(hybrid, "joint")
    assert torch.equal(hybrid.vector(), ends[-1][1]) and protocol.reached == hybrid.vector().tolist()
    assert 0 < len(cycles) < len(seen)  # those of the fit that is kept
    with torch.no_grad():
        hybrid.crystal.shifts.add_(0.05)
    ends_with = 0.0
    better, _ = protocol._refine(hybrid, "joint")
    assert better.log_likelihood > worse.log_likelihood - 1.0
    assert not torch.equal(hybrid.vector(), ends[-1][1])
    protocol._refine(hybrid, "final")
    assert len(ends) == 2  # of the joint stage alone


def test_a_mosaic_spread_that_is_too_large_begins_anew(inputs, monkeypatch):
    """Where the spread of the start fits better by itself; the structure and the tilts stay."""
    stages = []
    settings = replace(SHORT, thickness_model="flat", thickness_maximum=600.0, mosaic_points=5)
    protocol = Protocol(inputs, settings, on_stage=stages.append)
    hybrid = protocol._model(protocol.rough, protocol._scan())
    protocol._joint_fit(hybrid).set_scale()
    fit, _ = protocol._refine(hybrid, "orientation")
    assert protocol._narrow(hybrid, fit) is None and not stages
    with torch.no_grad():
        hybrid.orientation.mosaic.fill_(2.0)
    before = hybrid.vector()
    broad = protocol._joint_fit(hybrid).refine_thickness(hybrid.evaluate().sums, max_cycles=5, tolerance=1e-3)
    hybrid.load_vector(before)
    start = protocol._narrow(hybrid, broad)
    assert torch.equal(hybrid.vector(), before)
    blocks = hybrid.slices()
    spread = blocks["orientation"].stop - 1
    assert start[spread] == settings.mosaic_spread
    assert torch.equal(start[:spread], before[:spread])

    monkeypatch.setattr(protocol, "_narrow", lambda hybrid, fit: start)
    found, cycles = protocol._refine(hybrid, "joint")
    assert stages[0] == "mosaicity" and found.log_likelihood > broad.log_likelihood
    assert [cycle.number for cycle in cycles] == list(range(1, len(cycles) + 1))
    protocol._refine(hybrid, "final")
    assert stages.count("mosaicity") == 1  # of the joint stage alone


def test_without_mosaicity_there_is_no_spread_to_begin_anew(inputs):
    protocol = Protocol(inputs, replace(SHORT, thickness_model="flat", mosaic_points=1))
    hybrid = protocol._model(protocol.rough, protocol._scan())
    assert protocol._narrow(hybrid, None) is None
