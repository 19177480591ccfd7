"""Cross-validation of thickness models, on intensities that no wave equation is needed for.

`test_thickness_stage` and `test_protocol` have the choice within a refinement.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dials_hybrid.refine.free_set import unique_reflections
from dials_hybrid.refine.thickness_choice import Candidate, Comparison, Trial, cross_validate, folds, in_doubt


def test_folds_keep_equivalents_together_and_are_of_one_size():
    group = torch.arange(100).repeat(3)
    found = folds(group, seed=0)
    assert torch.equal(found[:100], found[200:])
    assert torch.bincount(found).tolist() == [60] * 5
    assert not torch.equal(found, folds(group, seed=1))


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


class Judged(Comparison):
    """A comparison whose models, named by how far they are behind, are known to a standard error of 1."""

    def __init__(self, behind, present=None):
        object.__setattr__(self, "behind", behind)
        object.__setattr__(self, "present", present)

    def _behind(self, trials):
        best = min(self.behind[name] for name in trials)
        return {name: (self.behind[name] - best, float(self.behind[name] > best)) for name in trials}


@pytest.mark.parametrize(
    "flat, normal, gamma, neural, expected",
    [
        (0.9, 0.5, 0.0, 3.0, "flat"),  # the simplest that is as good as the best
        (5.0, 1.9, 1.5, 0.0, "normal"),  # the network is better, but not clearly
        (5.0, 2.9, 2.1, 0.0, "neural"),
        (9.0, 3.0, 1.5, 0.0, "gamma"),
        (1.9, 3.0, 2.5, 0.0, "flat"),  # the simplest is not clearly worse
    ],
)
def test_a_network_is_chosen_where_it_is_clearly_better(flat, normal, gamma, neural, expected):
    behind = {"flat": flat, "normal": normal, "gamma": gamma, "neural": neural}
    assert Judged(behind).choose(dict.fromkeys(behind)) == expected


@pytest.mark.parametrize(
    "flat, normal, gamma, neural, expected",
    [
        (5.0, 1.9, 0.0, 3.0, "normal"),  # not clearly behind
        (5.0, 2.1, 0.0, 3.0, "gamma"),
        (5.0, 2.1, 2.1, 0.0, "neural"),
        (5.0, 1.9, 2.1, 0.0, "normal"),
        (0.9, 0.0, 0.0, 3.0, "flat"),  # simpler, and as good as the best
        (1.1, 0.0, 0.0, 3.0, "normal"),
    ],
)
def test_less_simple_than_what_was_chosen_before_only_if_clearly_better(
    flat, normal, gamma, neural, expected
):
    behind = {"flat": flat, "normal": normal, "gamma": gamma, "neural": neural}
    assert Judged(behind, present="normal").choose(dict.fromkeys(behind)) == expected


def test_a_choice_among_others_than_that_of_before():
    assert (
        Judged({"flat": 0.0, "wedge": 0.5}, present="neural").choose(dict.fromkeys(("flat", "wedge")))
        == "flat"
    )


def test_how_far_a_model_is_behind(prepared):
    """Sums over unique reflections, and their scatter, of what each observation says."""
    _, make_fit, hybrid, _ = prepared("normal")
    observations, intensity = hybrid.dataset.observations, hybrid.evaluate().intensity
    target = make_fit(hybrid).weighting.target(observations, intensity)
    group = unique_reflections(observations.hkl, hybrid.crystal.start.rotations)
    comparison = Comparison(make_fit, None, target, group, 0, True)
    worse = intensity + torch.where(group % 2 == 0, 2.0, 0.5) * target.sigma
    trials = {name: Trial(hybrid, None, predicted) for name, predicted in (("a", worse), ("b", intensity))}
    found = comparison._behind(trials)
    assert found["b"] == (0.0, 0.0)
    each = comparison._likelihood(intensity) - comparison._likelihood(worse)
    sums = [float(each[(group == g) & target.work].sum()) for g in group[target.work].unique()]
    assert found["a"][0] == pytest.approx(sum(sums))
    assert found["a"][1] == pytest.approx(torch.tensor(sums).std().item() * len(sums) ** 0.5)


@pytest.mark.parametrize(
    "behind, chosen, expected",
    [
        ((3.0, 0.8, 0.0), 1, True),  # the network is ahead, by less than two standard errors of 1
        ((3.0, 0.3, 0.0), 1, False),  # hardly ahead
        ((3.0, 0.0, 0.9), 1, False),  # not ahead
        ((9.0, 5.0, 0.0), 2, False),  # chosen
        ((0.8, 0.0, 3.0), 0, True),  # the simpler one was taken
        ((1.9, 0.0, 3.0), 1, True),  # not clearly behind
        ((0.0, 2.1, 3.0), 0, False),
    ],
)
def test_the_choice_is_in_doubt_where_another_model_is_not_clearly_behind(behind, chosen, expected):
    names = ("flat", "normal", "neural")
    lines = [
        Candidate(name, 9.0, 0.05, 0.06, value, float(value > 0.0), chosen=i == chosen)
        for i, (name, value) in enumerate(zip(names, behind, strict=True))
    ]
    assert in_doubt(lines) == expected


def test_without_a_comparison_nothing_is_in_doubt():
    assert not in_doubt([])
