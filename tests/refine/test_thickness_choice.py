"""Cross-validation of thickness models, on intensities that no wave equation is needed for.

`test_thickness_stage` and `test_protocol` have the choice within a refinement.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from dials_hybrid.refine.free_set import unique_reflections
from dials_hybrid.refine.thickness_choice import cross_validate, folds


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
