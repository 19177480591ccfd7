"""Data and models from which nothing good can come: finite numbers, or one sentence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import small_problem

from dials_hybrid.refine.figures import check_free, figures, thickness_result
from dials_hybrid.refine.least_squares import Linearisation, Prior, minimise
from dials_hybrid.refine.protocol import Protocol
from dials_hybrid.running import run_protocol


def measured(**changes):
    problem = small_problem()
    measurement = problem.inputs.measurement
    values = {name: value(getattr(measurement.reflections, name)) for name, value in changes.items()}
    measurement = replace(measurement, reflections=replace(measurement.reflections, **values))
    return replace(problem, inputs=replace(problem.inputs, measurement=measurement))


def only(rows):
    problem = small_problem()
    measurement = problem.inputs.measurement
    measurement = replace(measurement, reflections=measurement.reflections.select(np.array(rows)))
    return replace(problem, inputs=replace(problem.inputs, measurement=measurement))


def settings(**changes):
    problem = small_problem()
    return replace(problem, settings=replace(problem.settings, **changes))


def parameters(change):
    problem = small_problem()
    table = problem.inputs.atoms.parameters.clone()
    change(table)
    return replace(problem, inputs=replace(problem.inputs, atoms=problem.inputs.atoms.with_parameters(table)))


def more_parameters(rows):
    """The same with further independent parameters."""
    problem = small_problem()
    inputs = problem.inputs
    jacobian = torch.cat([inputs.jacobian, rows(inputs.jacobian)])
    names = tuple(f"p{i}" for i in range(len(jacobian)))
    shifts = torch.zeros(0, len(names), dtype=torch.float64)
    return replace(problem, inputs=replace(inputs, jacobian=jacobian, names=names, origin_shifts=shifts))


def all_finite(outcome) -> bool:
    fit = outcome.fit
    values = (outcome.hybrid.vector(), fit.covariance, fit.evaluation.intensity, fit.evaluation.scale)
    return all(bool(torch.isfinite(each).all()) for each in values)


FINITE = {
    "one reflection": lambda: only([5]),
    "fewer reflections than parameters": lambda: only([1, 5, 9]),
    "two names for each parameter": lambda: more_parameters(lambda jacobian: jacobian),
    "a parameter without effect": lambda: more_parameters(lambda jacobian: 0.0 * jacobian[:1]),
    "tiny sigmas": lambda: measured(sigma=lambda sigma: 1e-150 * sigma),
    "huge sigmas": lambda: measured(sigma=lambda sigma: 1e150 * sigma),
    "thickness at its bound": lambda: settings(thickness_maximum=100.0),
    "a free set of none": lambda: settings(free_fraction=0.0),
    "runaway start": lambda: parameters(lambda table: table[1, 0].add_(0.35)),
}


@pytest.mark.parametrize("case", FINITE)
def test_all_that_leaves_a_refinement_is_finite(case):
    problem = FINITE[case]()
    outcome, _ = run_protocol(problem.inputs, replace(problem.settings, max_cycles=1))
    assert all_finite(outcome)
    assert 0.0 < figures(outcome, thickness_result(outcome))["thickness_mean"] <= 600.0


REFUSED = {
    "nothing observed": (lambda: measured(intensity=lambda values: 0.0 * values), "do not correlate"),
    "all negative": (lambda: measured(intensity=lambda values: -abs(values)), "do not correlate"),
    "overflow": (lambda: measured(intensity=lambda values: 1e300 * values), "cannot be compared"),
    "all in the free set": (lambda: settings(free_fraction=1.0), "cannot be compared"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_refined_is_refused_in_a_sentence(case):
    make, sentence = REFUSED[case]
    problem = make()
    with pytest.raises(ValueError, match=sentence) as refusal:
        run_protocol(problem.inputs, problem.settings)
    assert "\n" not in str(refusal.value)


def test_one_atom():
    problem = small_problem()
    atoms, inputs = problem.inputs.atoms, problem.inputs
    one = replace(
        atoms,
        labels=atoms.labels[:1],
        elements=atoms.elements[:1],
        **{
            name: getattr(atoms, name)[:1]
            for name in ("parameters", "anisotropic", "multiplicity", "form_factor_type")
        },
    )
    n = 11
    rows = inputs.jacobian[:, :n].abs().sum(1) > 0.0
    names = tuple(name for name, kept in zip(inputs.names, rows.tolist(), strict=True) if kept)
    shifts = torch.zeros(0, len(names), dtype=torch.float64)
    changed = replace(
        inputs, atoms=one, jacobian=inputs.jacobian[rows, :n], names=names, origin_shifts=shifts
    )
    outcome, _ = run_protocol(changed, replace(problem.settings, max_cycles=1))
    assert all_finite(outcome) and len(names) == 2


def test_steps_that_give_no_numbers_are_not_taken():
    """Residuals 10 (x - 1), which are no numbers beyond 0.5, and a parameter that changes nothing."""
    zero = torch.zeros(2, dtype=torch.float64)
    jacobian = torch.diag(torch.tensor([10.0, 0.0], dtype=torch.float64))

    def linearise(x, fresh):
        residual = 10.0 * (x[0] - 1.0) if x[0] <= 0.5 else math.nan * x[0]
        return Linearisation(torch.stack([residual, zero[1]]), jacobian)

    prior = Prior(zero, zero + 1e6, torch.zeros(0, 2, dtype=torch.float64))
    active = torch.ones(2, dtype=torch.bool)
    *_, last = minimise(linearise, zero, lambda at: prior, active=active, max_cycles=20)
    assert 0.0 < float(last.x[0]) <= 0.5 and float(last.x[1]) == 0.0
    assert last.objective < 100.0


def test_a_structure_that_only_got_worse_is_put_back():
    problem = FINITE["runaway start"]()
    outcome, seconds = run_protocol(problem.inputs, problem.settings)
    assert list(seconds)[-1] == "given"
    before, after = outcome.rose
    assert after > 1.2 * before
    torch.testing.assert_close(
        outcome.hybrid.crystal.atoms().parameters, problem.inputs.atoms.parameters, rtol=0, atol=1e-12
    )
    assert float(torch.diagonal(outcome.fit.covariance)[: len(problem.inputs.names)].min()) > 0.0
    summary = figures(outcome, thickness_result(outcome))
    with pytest.raises(ValueError, match=r"R1_free rose from .*% to .*%.*the model before"):
        check_free(summary)


def test_a_structure_that_got_better_is_kept():
    problem = small_problem()
    outcome, _ = run_protocol(problem.inputs, problem.settings)
    assert outcome.rose is None
    check_free(figures(outcome, thickness_result(outcome)))


def test_an_interrupt_keeps_the_last_cycle():
    problem, states, vectors = small_problem(), [], []

    def on_cycle(cycle):
        if cycle.stage == "joint":
            vectors.append(protocol.reached)
            if cycle.number == 2:
                raise KeyboardInterrupt

    protocol = Protocol(problem.inputs, problem.settings, on_cycle=on_cycle, on_checkpoint=states.append)
    with pytest.raises(KeyboardInterrupt):
        protocol.run()
    assert [state.stage for state in states] == ["scan", "orientation", "orientation"]
    assert states[-1].vector == vectors[-1] != states[-2].vector
    assert Protocol(problem.inputs, problem.settings).run(states[-1]).fit.evaluation is not None
