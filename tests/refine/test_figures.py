"""The figures of a refinement, recomputed from its outcome."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import small_problem

from dials_hybrid.refine.figures import figures, scale_curve, thickness_result
from dials_hybrid.refine.hints import hints
from dials_hybrid.refine.protocol import Protocol


@pytest.fixture(scope="module")
def outcome():
    problem = small_problem()
    return Protocol(problem.inputs, problem.settings).run()


@pytest.fixture(scope="module")
def summary(outcome):
    return figures(outcome, thickness_result(outcome))


def test_r1_by_hand(outcome, summary):
    observations = outcome.hybrid.dataset.observations
    i, sigma, c = (
        x.numpy() for x in (observations.intensity, observations.sigma, outcome.fit.evaluation.intensity)
    )
    strong, free = i > 3.0 * sigma, observations.free.numpy()
    f, g = np.sqrt(i.clip(0.0)), np.sqrt(c.clip(0.0))

    def r1(own):
        return abs(f - g)[own].sum() / f[own].sum()

    assert summary["r1_obs"] == pytest.approx(r1(strong))
    assert summary["r1_all"] == pytest.approx(r1(np.full(len(i), True)))
    assert summary["r1_free"] == pytest.approx(r1(strong & free))
    assert (summary["n_observed"], summary["n_used"], summary["n_free"]) == (strong.sum(), len(i), free.sum())
    hkl = observations.hkl.numpy()[strong & free]
    equivalents = np.einsum("mi,sij->msj", hkl, outcome.hybrid.crystal.start.rotations.numpy())
    first = {max(map(tuple, np.concatenate([e, -e]).round().tolist())) for e in equivalents}
    assert summary["n_free_unique"] == len(first)
    assert summary["rejected"] == {"too weak": 7} and summary["n_rows"] == 500


def test_the_scale_is_that_of_the_observations_in_the_order_of_the_scan(outcome):
    curve = scale_curve(outcome)
    angle, scale = outcome.hybrid.dataset.observations.angle, outcome.fit.evaluation.scale
    of_angle = dict(zip(angle.tolist(), scale.tolist(), strict=True))
    assert len(curve) == min(201, len(angle))
    angles = [point["angle"] for point in curve]
    assert angles == sorted(angles) and (angles[0], angles[-1]) == (angle.min(), angle.max())
    assert all(point["value"] == pytest.approx(of_angle[point["angle"]]) for point in curve)
    assert all(point["crystal"] == 0 for point in curve)


def test_uncertainty_of_the_scale_by_sampling(outcome):
    """log scale = D p with p normal of the refined covariance, so s.u. = scale * std(D p)."""
    hybrid, part = outcome.hybrid, outcome.hybrid.slices()["scale"]
    generator = np.random.default_rng(0)
    covariance = outcome.fit.covariance[part, part].numpy()
    samples = generator.multivariate_normal(np.zeros(len(covariance)), covariance, 4000)
    spread = (samples @ hybrid.scale.design_matrix.numpy().T).std(0) * outcome.fit.evaluation.scale.numpy()
    order = hybrid.dataset.observations.angle.argsort()
    curve = scale_curve(outcome)
    chosen = order[torch.linspace(0, len(order) - 1, len(curve)).long()].numpy()
    assert [point["su"] for point in curve] == pytest.approx(spread[chosen], rel=0.08)


def test_a_plate_has_no_spread(outcome, summary):
    result = thickness_result(outcome)
    assert (result.model, summary["thickness_model"]) == ("flat", "flat")
    assert all(point["mean"] == pytest.approx(result.mean) for point in result.curve)
    assert max(point["spread"] for point in result.curve) < 0.01 * result.mean
    assert result.mean == pytest.approx(250.0, rel=0.02)  # what was simulated


def test_hints_can_be_made_of_them(outcome, summary):
    """They have every figure that the checks ask for but the settings."""
    settings = {"tilt_restraint": small_problem().settings.tilt_restraint}
    runs = small_problem().inputs.measurement.runs
    found = hints({**summary, "settings": settings}, runs)
    assert "few_data" in {hint.code for hint in found}  # of 55 observations
    assert all(hint.text for hint in found)


def test_a_good_start_is_refined_without_a_complaint_about_r(summary):
    assert summary["r1_obs"] < 0.25
    assert summary["absorption"] is None and summary["mosaic_spread"] is None
