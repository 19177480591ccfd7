"""A refinement comes back from its numbers, and only to the data and structure that it belongs to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems import small_problem

from dials_hybrid.bloch.geometry import rotation_matrix
from dials_hybrid.refine.finished import Finished
from dials_hybrid.refine.protocol import Protocol


@pytest.fixture(scope="module")
def outcome():
    problem = small_problem()
    return Protocol(problem.inputs, problem.settings).run()


@pytest.fixture(scope="module")
def finished(outcome):
    settings = replace(small_problem().settings, device="cuda", nproc=8)  # as of the machine that refined
    return Finished.of(
        outcome,
        small_problem().inputs,
        settings=settings,
        seconds={"total": 2.0},
        versions={},
        figures={"r1_obs": 0.1},
    )


def test_it_leaves_the_waves_behind(finished, outcome):
    assert len(finished.fit.evaluation.sums.intensity) == 0 < len(outcome.fit.evaluation.sums.intensity)
    assert finished.fit.evaluation.jacobian is None
    assert finished.figures == {"r1_obs": 0.1} and finished.seconds == {"total": 2.0}


def test_the_model_comes_back(finished, outcome):
    back = finished.outcome(small_problem().inputs)
    assert torch.equal(back.hybrid.vector(), outcome.hybrid.vector())
    assert torch.equal(back.fit.evaluation.intensity, outcome.fit.evaluation.intensity)
    assert torch.equal(back.hybrid.crystal.atoms().parameters, outcome.hybrid.crystal.atoms().parameters)
    again = back.hybrid.evaluate().intensity  # waves and all, on the CPU in double precision
    assert again == pytest.approx(outcome.fit.evaluation.intensity, rel=1e-4)


def test_the_same_inputs_do_not_differ(finished):
    assert finished.differs_from(small_problem().inputs) is None


def test_another_structure(finished):
    inputs = small_problem().inputs
    names = ("C1.x", *inputs.names[1:])
    assert finished.differs_from(replace(inputs, names=names)) == "another structure"


def moved(inputs):
    parameters = inputs.atoms.parameters.clone()
    parameters[0, 0] += 1e-4
    return replace(inputs, atoms=inputs.atoms.with_parameters(parameters))


def otherwise_constrained(inputs):
    return replace(inputs, jacobian=inputs.jacobian.roll(1, 0))


def misoriented(inputs):
    run = inputs.measurement.runs[0]
    turn = rotation_matrix(torch.tensor([0.0, 1e-4, 0.0], dtype=torch.float64)).numpy()
    other = replace(run, rotations=turn @ run.rotations)
    return replace(inputs, measurement=replace(inputs.measurement, runs=(other,)))


@pytest.mark.parametrize("change", [moved, otherwise_constrained, misoriented])
def test_another_start(finished, change):
    """Refined parameters are shifts."""
    assert finished.differs_from(change(small_problem().inputs)) == "another start model or orientation"


@pytest.mark.parametrize("name", ["hkl", "row", "intensity", "sigma", "angle"])
def test_other_reflections(finished, name):
    inputs = small_problem().inputs
    reflections = inputs.measurement.reflections
    values = getattr(reflections, name).copy()
    values[3] += 1
    other = replace(inputs.measurement, reflections=replace(reflections, **{name: values}))
    assert finished.differs_from(replace(inputs, measurement=other)) == "other reflections"
