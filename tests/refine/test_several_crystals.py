"""Two crystals of one structure, all stages: each has an error model, and the figures say what it gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import small_problem

from dials_hybrid.refine.figures import crystals, figures, thickness_result
from dials_hybrid.refine.parameters import all_parameters
from dials_hybrid.refine.physics import effects
from dials_hybrid.refine.protocol import Protocol
from dials_hybrid.rocking.measurement import Measurement, joined


def noisy(measurement: Measurement, stated: float, seed: int) -> Measurement:
    """Noise of the sigmas of `measurement`, which then are said to be `stated` times as large."""
    reflections = measurement.reflections
    noise = np.random.default_rng(seed).normal(size=len(reflections)) * reflections.sigma
    changed = replace(reflections, intensity=reflections.intensity + noise, sigma=stated * reflections.sigma)
    return replace(measurement, reflections=changed)


@pytest.fixture(scope="module")
def outcome():
    """The sigmas of the second crystal are a third of the noise."""
    problem = small_problem()
    measurement = problem.inputs.measurement
    both = joined([noisy(measurement, 1.0, 5), noisy(measurement, 1.0 / 3.0, 6)])
    settings = replace(problem.settings, gain=None, instability=0.0, crystal_weights=(1.0, 0.5))
    return Protocol(replace(problem.inputs, measurement=both), settings).run()


def test_each_crystal_has_its_gain(outcome):
    gains = [each["error_model"]["gain"] for each in crystals(outcome)]
    assert gains == pytest.approx([1.0, 3.0], rel=0.4)  # of 51 reflections each
    assert [each["goodness_of_fit"] for each in crystals(outcome)] == pytest.approx([1.0, 1.0], abs=0.35)


def test_contributions_are_parts_of_the_whole(outcome):
    summary = figures(outcome, thickness_result(outcome))
    found = summary["crystals"]
    assert summary["error_model"] is None  # there are two
    for name, total in (("n_used", "n_used"), ("n_observed", "n_observed"), ("n_free", "n_free")):
        assert sum(each[name] for each in found) == summary[total]
    assert sum(each["chi_squared"] for each in found) == pytest.approx(1.0)
    assert sum(each["information"] for each in found) == pytest.approx(1.0)
    n_parameters = sum(each["n_parameters"] for each in found)
    assert n_parameters == pytest.approx(summary["n_parameters_effective"])
    assert found[0]["information"] > found[1]["information"]  # twice the weight
    assert found[0]["weight"] == pytest.approx(2.0 * found[1]["weight"])
    own = outcome.hybrid.dataset.observations.crystal == 1
    nodes = outcome.hybrid.grid.nodes
    mean = (outcome.fit.evaluation.thickness_weights[own] @ nodes).mean()
    assert found[1]["thickness_mean"] == pytest.approx(float(mean))


def test_overall_displacements_are_listed_with_their_names():
    problem = small_problem()
    measurement = problem.inputs.measurement
    settings = replace(problem.settings, n_displacements=1, max_cycles=1)
    both = replace(problem.inputs, measurement=joined([measurement, measurement]))
    result = Protocol(both, settings).run()
    first, second = crystals(result)
    assert first["overall_u"] is None
    (listed,) = [each for each in all_parameters(result) if each.name == "crystal overall u 2"]
    assert second["overall_u"] == {"value": listed.value, "su": listed.su} and listed.su > 0.0
    as_refined, without = effects(both, settings, result)
    assert without.without == "overall displacements" and without.seconds > 0.0
