"""Levenberg-Marquardt against closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from synthetic import double

from dials_hybrid.refine.least_squares import Linearisation, Prior, covariance, minimise, no_smaller, sandwich

M, P = 40, 5


class Problem:
    """Residuals f(x) - y with exact derivatives, which counts its own calls.

    A stale Jacobian is that of the last fresh call, as in the refinement.
    """

    def __init__(self, function, y):
        self.function, self.y = function, y
        self.n_jacobians = self.n_values = 0
        self.jacobian = None

    def __call__(self, x, fresh):
        self.n_values += 1
        if fresh:
            self.n_jacobians += 1
            self.jacobian = torch.autograd.functional.jacobian(self.function, x)
        return Linearisation(self.function(x) - self.y, self.jacobian)


def no_prior(n=P, centre=0.0, sigma=torch.inf, directions=()):
    def prior(start):
        return Prior(
            torch.full((n,), float(centre), dtype=torch.float64),
            torch.full((n,), float(sigma), dtype=torch.float64),
            torch.tensor(directions, dtype=torch.float64).reshape(-1, n),
        )

    return prior


def run(problem, x, prior=None, *, active=None, **options):
    active = torch.ones(len(x), dtype=torch.bool) if active is None else torch.tensor(active)
    options = {"max_cycles": 50, "tolerance": 1e-12} | options
    return list(minimise(problem, x, prior or no_prior(len(x)), active=active, **options))


@pytest.fixture
def matrix():
    """(M, P), its columns of very different size, as sites and U* are."""
    generator = torch.Generator().manual_seed(0)
    columns = double([1.0, 1e4, 1e-5, 3.0, 30.0])
    return torch.randn(M, P, generator=generator, dtype=torch.float64) * columns


@pytest.fixture
def linear(matrix):
    y = torch.randn(M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Problem(lambda x: matrix @ x, y)


def decay(t):
    """Amplitude and rate of an exponential, scaled so that undamped steps from afar fail."""
    return lambda x: x[0] * torch.exp(-x[1] * t)


@pytest.fixture
def nonlinear():
    """Noisy values of an exponential, and the best fit by scipy."""
    t = torch.linspace(0, 4, M, dtype=torch.float64)
    f = decay(t)
    y = f(double([3.0, 1.3])) + 0.01 * torch.sin(7.0 * torch.arange(M))
    best = scipy.optimize.least_squares(
        lambda x: (f(double(x)) - y).numpy(), [3.0, 1.3], xtol=1e-12, gtol=1e-12
    )
    return Problem(f, y), double(best.x), 2.0 * best.cost


def test_one_undamped_step_solves_a_linear_problem(matrix, linear):
    expected = np.linalg.lstsq(matrix.numpy(), linear.y.numpy(), rcond=None)[0]
    steps = run(linear, torch.zeros(P, dtype=torch.float64), damping=0.0)
    np.testing.assert_allclose(steps[0].x, expected, rtol=1e-9)
    assert torch.equal(steps[0].shift, steps[0].x)
    assert steps[-1].converged and not steps[-1].shift.any()
    assert steps[-1].chi_squared == pytest.approx(np.sum((matrix.numpy() @ expected - linear.y.numpy()) ** 2))


def test_a_linear_problem_needs_one_jacobian(linear):
    steps = run(linear, torch.zeros(P, dtype=torch.float64))
    assert steps[-1].converged
    assert len(steps) > 2
    assert linear.n_jacobians == 1


@pytest.mark.parametrize(
    "start",
    [
        [2.0, 1.0],
        [0.5, 4.0],
        pytest.param([10.0, 0.1]),
    ],
)
def test_nonlinear_problem_against_scipy(nonlinear, start):
    problem, best, least = nonlinear
    steps = run(problem, double(start), tolerance=1e-9)
    assert steps[-1].converged
    torch.testing.assert_close(steps[-1].x, best, rtol=1e-4, atol=0)
    assert steps[-1].chi_squared == pytest.approx(least, rel=1e-6)
    objectives = [step.objective for step in steps]
    assert objectives == sorted(objectives, reverse=True)


def test_a_jacobian_is_renewed_only_when_its_steps_disappoint(nonlinear):
    """Far from the minimum: more than one Jacobian in all, fewer than one a trial."""
    problem, _, _ = nonlinear
    steps = run(problem, double([0.5, 4.0]), tolerance=1e-9)
    assert steps[-1].converged
    assert 1 < problem.n_jacobians < 0.7 * problem.n_values


def test_only_fresh_jacobians_are_said_to_be_fresh(nonlinear):
    problem, _, _ = nonlinear
    start = double([0.5, 4.0])
    steps = [*run(problem, start, max_cycles=0), *run(problem, start)]
    for step in steps:
        of_this_x = torch.autograd.functional.jacobian(problem.function, step.x)
        assert torch.equal(step.linearisation.jacobian, of_this_x) or not step.fresh
    assert steps[0].fresh and not all(step.fresh for step in steps)


def test_prior_against_additional_data(matrix, linear):
    """A prior is a measurement of the parameter itself."""
    centre, sigma = 0.3, 1e-4
    prior = no_prior(centre=centre, sigma=sigma)
    step = run(linear, torch.zeros(P, dtype=torch.float64), prior, damping=0.0)[0]
    rows = np.concatenate([matrix.numpy(), np.eye(P) / sigma])
    y = np.append(linear.y.numpy(), [centre / sigma] * P)
    expected = np.linalg.lstsq(rows, y, rcond=None)[0]
    np.testing.assert_allclose(step.x, expected, rtol=1e-9)
    normal = rows.T @ rows
    np.testing.assert_allclose(step.normal_matrix, normal, rtol=1e-9, atol=1e-12 * normal.max())
    assert step.objective == pytest.approx(np.sum((rows @ expected - y) ** 2))


def test_tight_prior_holds_a_parameter(nonlinear):
    problem, best, _ = nonlinear
    step = run(problem, double([2.0, 0.9]), no_prior(2, centre=0.9, sigma=1e-6))[-1]
    assert abs(step.x[1] - 0.9) < 1e-6 < abs(best[1] - 0.9)


def circle(x):
    """Nothing that a shift of all three changes, as with the origin of a polar group."""
    return torch.stack([x[0] - x[1], x[1] - x[2], 5.0 * (x[2] - x[0])])


def shifted(damping):
    """Sum of the three parameters after a step, whose direction is held."""
    problem = Problem(circle, double([0.5, 0.25, -1.5]))
    start = double([0.1, 0.7, 0.3])
    prior = no_prior(3, directions=[[3**-0.5] * 3])
    step = run(problem, start, prior, damping=damping, max_cycles=1)[-1]
    assert step.shift.abs().max() > 0.1
    return float((step.x - start).sum())


def test_directions_are_held():
    assert abs(shifted(damping=0.0)) < 1e-12


def test_directions_are_held_by_damped_steps():
    assert abs(shifted(damping=0.1)) < 1e-12


def test_inactive_parameters_do_not_move(linear, matrix):
    active = [True, False, True, False, True]
    start = torch.arange(P, dtype=torch.float64)
    step = run(linear, start, active=active)[-1]
    held = ~torch.tensor(active)
    assert torch.equal(step.x[held], start[held])
    rest = (linear.y - matrix[:, held] @ start[held]).numpy()
    expected = np.linalg.lstsq(matrix[:, active].numpy(), rest, rcond=None)[0]
    np.testing.assert_allclose(step.x[active], expected, rtol=1e-6)


def test_covariance_is_the_inverse_of_the_normal_matrix(matrix):
    normal = matrix.T @ matrix
    active = torch.tensor([True, True, False, True, True])
    found = covariance(normal, active)
    expected = np.linalg.inv(normal[active][:, active].numpy())
    inside = found[active][:, active].numpy()
    np.testing.assert_allclose(inside, expected, rtol=1e-7)
    assert (found[~active] == 0).all() and (found[:, ~active] == 0).all()


def test_covariance_against_repeated_noise(matrix):
    """Parameters refined against 4000 noisy data sets scatter as the covariance says."""
    noise = torch.randn(4000, M, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    refined = torch.linalg.lstsq(matrix, noise.T).solution
    expected = covariance(matrix.T @ matrix, torch.ones(P, dtype=torch.bool))
    scale = torch.diagonal(expected).sqrt()
    np.testing.assert_allclose(
        torch.cov(refined) / scale / scale[:, None], expected / scale / scale[:, None], atol=0.1
    )


@pytest.mark.parametrize("idle", ["zero", "copy"])
def test_singular_problems(matrix, idle):
    """A parameter without effect, and two that do the same."""
    singular = matrix.clone()
    singular[:, 3] = 0.0 if idle == "zero" else 2.0 * matrix[:, 0]
    y = matrix[:, :3].sum(1)
    steps = run(Problem(lambda x: singular @ x, y), torch.zeros(P, dtype=torch.float64))
    step = steps[-1]
    assert step.converged and torch.isfinite(step.x).all()
    assert step.chi_squared < 1e-9 * float((y**2).sum())
    found = covariance(step.normal_matrix, torch.ones(P, dtype=torch.bool))
    assert torch.isfinite(found).all() and (torch.diagonal(found) >= 0).all()
    regular = torch.tensor([1, 2, 4])
    # what the others do not share with the idle one is as uncertain as without it
    alone = covariance(matrix.T @ matrix, torch.tensor([True, True, True, False, True]))
    torch.testing.assert_close(found[regular][:, regular], alone[regular][:, regular], rtol=1e-4, atol=0)


def test_a_step_into_nowhere_is_taken_back():
    """The first step leads to the logarithm of a negative number."""
    problem = Problem(lambda x: torch.log(x).expand(2), double([-7.0, -6.0]))
    steps = run(problem, double([5.0]), tolerance=1e-9)
    assert problem.n_values > len(steps) + 1
    assert steps[-1].converged
    assert float(steps[-1].x) == pytest.approx(np.exp(-6.5), rel=1e-4)


def test_a_step_to_where_derivatives_are_infinite_is_taken_back():
    """Residual sqrt(x): the step from 1 leads beyond 0, where clamping leaves an infinite derivative."""

    def linearise(x, fresh):
        root = x.clamp(min=0.0).sqrt()
        return Linearisation(root, 0.5 / root[:, None])

    steps = run(linearise, double([1.0]), max_cycles=5)
    assert all(torch.isfinite(step.normal_matrix).all() and step.x > 0.0 for step in steps)
    assert steps[0].x < 1.0


def test_no_cycles_gives_the_start(linear):
    start = torch.ones(P, dtype=torch.float64)
    (step,) = run(linear, start, max_cycles=0)
    assert torch.equal(step.x, start) and step.fresh and not step.converged


def test_at_most_max_cycles(nonlinear):
    steps = run(nonlinear[0], double([10.0, 0.1]), max_cycles=3)
    assert len(steps) == 3 and not steps[-1].converged


def test_tolerance_ends_early(nonlinear):
    problem, _, least = nonlinear
    loose, tight = (run(problem, double([2.0, 1.0]), tolerance=t) for t in (0.03, 1e-9))
    assert loose[-1].converged and len(loose) < len(tight)
    assert loose[-1].objective < 1.03 * least


def test_damping_is_not_convergence(nonlinear):
    """The first undamped steps fail from here; the objective can still fall by a factor of 1e4."""
    problem, _, least = nonlinear
    steps = run(problem, double([0.5, 4.0]), tolerance=0.03)
    assert steps[-1].objective < 10.0 * least


@pytest.mark.parametrize("robust, uneven", [(False, False), (False, True), (True, False)])
def test_sandwich_against_repeated_noise(matrix, robust, uneven):
    """Also where weights are wrong, and where they follow the residuals (slope as in `Target`)."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(120, P, generator=generator, dtype=torch.float64)
    noise = 1.0 + 3.0 * (rows[:, 0].abs() > 1.0) if uneven else torch.ones(120).double()
    nothing, share = torch.zeros(P, P).double(), torch.ones(120).double()
    estimates, variances = [], []
    for _ in range(400):
        y = noise * torch.randn(120, generator=generator, dtype=torch.float64)
        w = torch.ones(120).double()
        for _ in range(20 if robust else 1):
            j = w.sqrt()[:, None] * rows
            x = torch.linalg.solve(j.T @ j, j.T @ (w.sqrt() * y))
            r = rows @ x - y
            w = 1.0 / (1.0 + (r / 3.0) ** 2) if robust else w
        slope = float((2.0 * w**2 - w).mean() / w.mean()) if robust else 1.0
        inverse = covariance(slope * j.T @ j, torch.ones(P, dtype=torch.bool))
        estimates.append(x)
        variances.append(torch.diagonal(sandwich(inverse, Linearisation(w.sqrt() * r, j), share, nothing)))
    scatter = torch.stack(estimates).std(0)
    promised = torch.stack(variances).mean(0).sqrt()
    torch.testing.assert_close(promised, scatter, rtol=0.12, atol=0.0)


def test_sandwich_of_repeated_rows_and_of_a_prior(matrix):
    """A measurement listed three times says as much as once; a prior alone gives its own variance."""
    r = torch.linspace(-1.0, 2.0, len(matrix), dtype=torch.float64)
    one, nothing = torch.ones(len(matrix)).double(), torch.zeros(P, P).double()
    inverse = torch.linalg.inv(matrix.T @ matrix)
    expected = sandwich(inverse, Linearisation(r, matrix), one, nothing)
    third = 3.0**-0.5
    thrice = Linearisation(third * r.repeat(3), third * matrix.repeat(3, 1))
    found = sandwich(inverse, thrice, one.repeat(3) / 3.0, nothing)
    torch.testing.assert_close(found, expected)
    prior = torch.diag(torch.arange(1.0, P + 1.0).double())
    alone = sandwich(torch.linalg.inv(prior), Linearisation(0.0 * r, 0.0 * matrix), one, prior)
    torch.testing.assert_close(alone, torch.linalg.inv(prior))


def test_variances_are_raised_to_a_least_one_and_correlations_kept():
    covariance = torch.tensor([[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    least = torch.diag(torch.tensor([1.0, 9.0, 0.0], dtype=torch.float64))
    expected = torch.tensor([[4.0, 3.0, 0.0], [3.0, 9.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(no_smaller(covariance, least), expected)


def test_cycles_that_gain_little_are_counted():
    """Rosenbrock's valley on a plateau: large gains, then small ones."""
    problem = Problem(
        lambda x: torch.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0], 0.0 * x[0]]), double([0.5, 0.5, 5.0])
    )
    objectives = [25.0 + 17.25, *(step.objective for step in run(problem, double([-1.2, 1.0])))]
    small = [after > 0.99 * before for before, after in itertools.pairwise(objectives)]
    assert 2 < sum(small) < len(small)
    second = [i for i, flag in enumerate(small) if flag][1]
    assert len(run(problem, double([-1.2, 1.0]), small_cycles=2)) == second + 1


def test_steps_along_a_curved_valley_with_what_is_cheap_at_its_best():
    """An exponential, whose amplitude has a closed form."""
    t = torch.linspace(0.0, 4.0, M, dtype=torch.float64)
    f = decay(t)
    truth, start = double([3.0, 1.3]), double([0.01, 6.0])
    plain, problem = Problem(f, f(truth)), Problem(f, f(truth))
    seen = []

    def relax(x, at, prior):
        curve = f(torch.stack([torch.ones_like(x[1]), x[1]]))
        relaxed = torch.stack([curve @ problem.y / (curve @ curve), x[1]])
        seen.append(relaxed)
        return relaxed, Linearisation(f(relaxed) - problem.y, at.jacobian)

    steps = run(problem, start, relax=relax)
    torch.testing.assert_close(steps[-1].x, truth, rtol=1e-6, atol=1e-6)
    assert all(any(torch.equal(step.x, relaxed) for relaxed in seen) for step in steps)
    torch.testing.assert_close(steps[0].shift, steps[0].x - start)
    run(plain, start)
    assert problem.n_jacobians < 0.7 * plain.n_jacobians


def test_nothing_is_relaxed_where_the_model_is_not_finite():
    problem = Problem(lambda x: torch.log(x), torch.zeros(1, dtype=torch.float64))

    def relax(x, at, prior):
        assert float(x) > 0.0
        return x, at

    assert float(run(problem, double([3.0]), relax=relax)[-1].x) == pytest.approx(1.0)
