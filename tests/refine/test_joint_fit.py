"""Least squares over the blocks of the joint model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from simulated import SETTINGS, quartz_crystal, simulate

from dials_hybrid.model.simulation import silent
from dials_hybrid.model.thickness import Wedge
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.joint_fit import JointFit
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.state import State
from dials_hybrid.refine.target import Weighting

GRID = (600.0, 20)
EXACT = {"gain": 1.0, "instability": 0.0, "floor": 0.0}
STATE = State("scan", None, GRID, "wedge", [[360.0]])
CRYSTAL = quartz_crystal()
CYCLES = {"stage": "joint", "max_cycles": 8, "tolerance": 1e-4}


@pytest.fixture(scope="module")
def measured():
    return simulate(CRYSTAL.scan, Wedge(ThicknessGrid(600.0, 24), 400.0))


@pytest.fixture
def joint_fit(measured):
    """Function of the intensities that gives a fit, its scale set, 0.05 A from the truth."""

    def build(intensity=None, cutoff=None, fixed=EXACT, factor=1.0) -> JointFit:
        i, sigma = measured
        data = (i if intensity is None else intensity, factor * sigma)
        inputs = CRYSTAL.inputs(data, CRYSTAL.displaced(0.05, seed=0))
        build = Builder(inputs, SETTINGS, silent)
        hybrid = build.hybrid(build.dataset(GRID[0], 1), STATE)
        fit = JointFit(hybrid, Weighting(fixed, cutoff), inputs.origin_shifts)
        fit.set_scale()
        return fit

    return build


def test_scale_starts_at_its_best(joint_fit):
    fit = joint_fit()
    intensity = fit.hybrid.evaluate().intensity
    assert float(fit.target.best_scale(intensity)) == pytest.approx(1.0, rel=1e-6)


def test_intensities_that_do_not_correlate_are_refused(joint_fit, measured):
    with pytest.raises(ValueError, match="right structure"):
        joint_fit(-measured[0])


def test_all_blocks_reach_the_noise(joint_fit):
    fit = joint_fit()
    cycles = []
    result = fit.refine(**CYCLES, on_cycle=cycles.append)
    assert result.goodness_of_fit == pytest.approx(1.0, abs=0.2)
    assert [cycle.number for cycle in cycles] == list(range(1, len(cycles) + 1))
    assert cycles[-1].goodness_of_fit == result.goodness_of_fit < cycles[0].goodness_of_fit
    torch.testing.assert_close(
        fit.hybrid.evaluate().intensity, result.evaluation.intensity, rtol=1e-4, atol=1e-3
    )


def test_figures_of_a_cycle(joint_fit):
    fit = joint_fit()
    cycles = []
    result = fit.refine(**CYCLES, on_cycle=cycles.append)
    data, cycle = fit.hybrid.dataset.observations, cycles[-1]
    values = r_values(data.intensity, data.sigma, result.evaluation.intensity)
    assert (cycle.r1_obs, cycle.r1_all, cycle.wr_all) == (values.r1_obs, values.r1_all, values.wr_all)
    free = data.free
    assert 2 < free.sum() < 20
    held_out = r_values(data.intensity[free], data.sigma[free], result.evaluation.intensity[free])
    assert cycle.r1_free == held_out.r1_obs
    assert cycle.thickness_mean == pytest.approx(fit.hybrid.thickness[0].maximum.item() / 2.0, rel=2e-3)
    residuals = ((data.intensity - result.evaluation.intensity) / data.sigma)[~free]
    freedom = float((~free).sum()) - result.n_parameters
    assert result.goodness_of_fit == pytest.approx(float((residuals**2).sum() / freedom) ** 0.5)


@pytest.mark.parametrize(
    "blocks", [("orientation", "thickness", "scale"), ("crystal",), ("scale", "crystal")]
)
def test_other_blocks_stay(joint_fit, blocks):
    fit = joint_fit()
    before = fit.hybrid.vector()
    result = fit.refine(blocks, **(CYCLES | {"max_cycles": 2}), on_cycle=lambda cycle: None)
    after, uncertainty = fit.hybrid.vector(), torch.diagonal(result.covariance)
    for name, part in fit.hybrid.slices().items():
        assert bool((after[part] != before[part]).all()) == (name in blocks)
        assert bool((uncertainty[part] > 0.0).all()) == (name in blocks)


def test_parameters_held_by_their_prior_count_less_than_one(joint_fit):
    """Two tilts with a prior of 0.05 degree; the rest is free."""
    fit = joint_fit()
    result = fit.refine(**CYCLES, on_cycle=lambda cycle: None)
    n = len(fit.hybrid.vector())
    assert n - 2 < result.n_parameters < n
    uncertainty = torch.diagonal(result.covariance).sqrt()[fit.hybrid.slices()["orientation"]]
    assert (uncertainty < SETTINGS.tilt_restraint).all()


def test_refinement_without_propagation_is_the_same(joint_fit):
    """As `refine` of the same two blocks, which propagates waves each time."""
    blocks = ("thickness", "scale")
    one, other = joint_fit(), joint_fit()
    one.refine(blocks, **CYCLES, on_cycle=lambda cycle: None)
    other.refine_thickness(other.hybrid.evaluate().sums, max_cycles=8, tolerance=1e-4)
    torch.testing.assert_close(other.hybrid.vector(), one.hybrid.vector(), rtol=1e-4, atol=0)


def test_a_given_target_decides(joint_fit):
    """Observations held out of it have no influence."""
    results = []
    for factor in (1.0, 50.0):
        fit = joint_fit()
        observations = fit.hybrid.dataset.observations
        held_out = torch.arange(len(observations)) % 4 == 0
        sums = fit.hybrid.evaluate().sums
        target = fit.weighting.target(observations, fit.hybrid.evaluate().intensity).without(held_out)
        target = replace(target, intensity=torch.where(held_out, factor, 1.0) * target.intensity)
        fit.refine_thickness(sums, target, max_cycles=8, tolerance=1e-4)
        results.append(fit.hybrid.vector())
    assert torch.equal(*results)


def test_convergence_is_a_small_shift_to_come(joint_fit):
    """Not only a tolerance that was reached."""
    fit = joint_fit()
    options = {"stage": "joint", "tolerance": 0.0, "on_cycle": lambda cycle: None}
    assert not fit.refine(max_cycles=1, **options).converged
    assert fit.refine(max_cycles=6, **options).converged


def test_too_small_sigmas_are_found_out(joint_fit):
    """Goodness of fit and uncertainties do not depend on them once the error model is refined."""
    right, wrong = joint_fit(), joint_fit(fixed={"instability": 0.0, "floor": 0.0}, factor=1.0 / 3.0)
    first = [fit.refine(**CYCLES, on_cycle=lambda cycle: None) for fit in (right, wrong)]
    # error model and priors are those of the start of a stage, which is good only now
    expected, found = (fit.refine(**CYCLES, on_cycle=lambda cycle: None) for fit in (right, wrong))
    assert found.target.errors[0].gain == pytest.approx(3.0, rel=0.15)
    assert found.goodness_of_fit == pytest.approx(1.0, abs=0.1)
    assert first[1].target.errors[0].gain > 4.0 and first[1].goodness_of_fit < 0.8
    ratio = torch.diagonal(found.covariance) / torch.diagonal(expected.covariance)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0.1, atol=0.0)


def test_outliers_do_little_harm_to_robust_weights(joint_fit, measured):
    """Every twentieth intensity is ten times too large."""
    intensity = measured[0].clone()
    intensity[::20] *= 10.0
    errors = {}
    for cutoff in (None, 3.0):
        fit = joint_fit(intensity, cutoff)
        for _ in range(2):  # robust weights are those of the start
            fit.refine(**CYCLES, on_cycle=lambda cycle: None)
        errors[cutoff] = CRYSTAL.errors(fit.hybrid.crystal.atoms())[CRYSTAL.sites].abs().max()
    assert errors[3.0] < 2e-3 < 5e-3 < errors[None]


def test_the_free_set_has_no_influence(joint_fit, measured):
    results = []
    for factor in (1.0, 50.0):
        free = joint_fit().hybrid.dataset.observations.free
        intensity = torch.where(free, factor * measured[0], measured[0])
        fit = joint_fit(intensity)
        fit.refine(**CYCLES, on_cycle=lambda cycle: None)
        results.append(fit.hybrid.vector())
    assert torch.equal(*results)


def test_a_trial_step_takes_thickness_and_scale_to_their_best(joint_fit):
    """With the structure and orientation that are tried."""
    fit = joint_fit()
    hybrid = fit.hybrid
    off = hybrid.vector()
    off[hybrid.slices()["thickness"]] *= 0.8
    hybrid.load_vector(off)
    evaluation = hybrid.evaluate(derivatives=True)
    fit.target = fit.weighting.target(hybrid.dataset.observations, evaluation.intensity)
    start = fit._weighted(evaluation)
    prior, x = fit._prior(start), hybrid.vector()
    moved, at = fit._relaxed(x, start, prior)
    cheap = torch.cat([torch.arange(len(x))[hybrid.slices()[name]] for name in ("thickness", "scale")])
    others = torch.ones(len(x), dtype=torch.bool)
    others[cheap] = False
    assert torch.equal(moved[others], x[others])
    assert torch.equal(hybrid.vector(), moved)
    assert len(at.jacobian.weighted(torch.ones_like(at.residuals))[0:1][0]) == len(x)

    def objective(v):
        hybrid.load_vector(v)
        at = fit._weighted(hybrid.recombine(evaluation.sums, derivatives=True))
        return float((at.residuals**2).sum()) + prior.chi_squared(v)

    best = objective(moved)
    assert best < 0.9 * objective(x)
    uncertainty = torch.diagonal(torch.linalg.pinv(at.normal_equations()[0])).clamp(min=0.0).sqrt()
    for i in cheap:
        for sign in (-1.0, 1.0):
            other = moved.clone()
            other[i] += sign * 0.1 * uncertainty[i]
            assert objective(other) > best - 1e-3 * best


def test_a_stage_ends_where_the_next_cycle_would_shift_nothing(joint_fit):
    """Not after as many small cycles as it may have."""
    options = CYCLES | {"max_cycles": 30, "tolerance": 1e-14}
    fit, cycles = joint_fit(), []
    result = fit.refine(**options, on_cycle=cycles.append)
    assert result.converged and 2 <= len(cycles) < 12
    assert cycles[-1].largest_shift < 0.5
    before = fit.hybrid.vector()
    again = fit.refine(**options | {"max_cycles": 2}, on_cycle=cycles.append)
    shift = (fit.hybrid.vector() - before)[fit.hybrid.structure].abs()
    uncertainty = torch.diagonal(again.covariance)[fit.hybrid.structure].clamp(min=0.0).sqrt()
    assert (shift <= 0.2 * uncertainty + 1e-12).all()
