"""Widths of priors: against draws whose true width is known, and a linear problem integrated by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy.optimize import minimize_scalar
from simulated import SETTINGS, quartz_crystal, simulate

from dials_hybrid.model.jacobian import Jacobian
from dials_hybrid.model.simulation import silent
from dials_hybrid.model.thickness import Normal
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.joint_fit import JointFit
from dials_hybrid.refine.prior_widths import learn_widths, prior_widths
from dials_hybrid.refine.state import State
from dials_hybrid.refine.target import Weighting

GRID = (700.0, 20)


@pytest.fixture(scope="module")
def fitted():
    """Function of a change of the intensities over the scan: a model, and how to fit its thickness."""
    crystal = quartz_crystal()
    measured = simulate(crystal.scan, Normal(ThicknessGrid(700.0, 40), 250.0, 130.0), step=0.05)

    def prepare(change: float, model: str = "normal"):
        settings = replace(SETTINGS, scale_nodes=6, network_prior=None)
        build = Builder(crystal.inputs(measured, crystal.truth), settings, silent)
        hybrid = build.hybrid(build.dataset(GRID[0], 1), State("joint", None, GRID, model, [[250.0, 130.0]]))
        observations = hybrid.dataset.observations
        factor = torch.exp(change * torch.sin(observations.angle))
        hybrid.dataset = replace(
            hybrid.dataset,
            observations=replace(
                observations, intensity=observations.intensity * factor, sigma=observations.sigma * factor
            ),
        )
        fit = JointFit(
            hybrid, Weighting({"gain": 1.0, "instability": 0.0, "floor": 0.0}, None), crystal.origin_shifts
        )
        sums = fit.set_scale()
        return hybrid, lambda: fit.refine_thickness(sums, max_cycles=30, tolerance=1e-6)

    return prepare


def learnt(hybrid, refine, rounds=6):
    for _ in range(rounds):
        learn_widths(hybrid, refine(), network=True)
    return prior_widths(hybrid)


def test_a_scale_that_does_not_change_is_held_and_one_that_does_is_free(fitted):
    assert learnt(*fitted(0.0))["scale_prior"] < 0.03
    assert 0.1 < learnt(*fitted(0.3))["scale_prior"] < 0.6


def test_a_network_without_need_is_held(fitted):
    widths = learnt(*fitted(0.0, "neural"))
    assert 0.02 <= widths["network_prior"] < 0.2


def test_a_fixed_prior_of_the_network_stays(fitted):
    hybrid, refine = fitted(0.0, "neural")
    learn_widths(hybrid, refine(), network=False)
    assert hybrid.thickness[0].strength == 0.3 and hybrid.scale.restraint != 0.3


def test_the_fixed_point_is_the_most_likely_width():
    """y = A x + noise with x ~ N(0, s^2): the marginal likelihood of y, N(0, 1 + s^2 A A^T), as referee."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    y = a @ (0.2 * torch.randn(8, generator=generator, dtype=torch.float64))
    y = y + torch.randn(60, generator=generator, dtype=torch.float64)

    def minus_log_evidence(log_s):
        covariance = torch.eye(60, dtype=torch.float64) + math.exp(2.0 * log_s) * a @ a.T
        return float(0.5 * torch.logdet(covariance) + 0.5 * y @ torch.linalg.solve(covariance, y))

    expected = math.exp(minimize_scalar(minus_log_evidence, bounds=(-5.0, 1.0), method="bounded").x)
    model = _Linear(a, y)
    for _ in range(60):
        model.solve()
        learn_widths(model, model.fit, network=False)
    assert model.scale.restraint == pytest.approx(expected, rel=1e-3)


class _Linear:
    """A scale of eight numbers, of which the observations are a linear function with noise of variance 1."""

    def __init__(self, a, y):
        self.a, self.y = a, y
        self.scale = SimpleNamespace(restraint=0.3, constant=torch.zeros(0), log_scale=torch.zeros(8))
        self.thickness = [object()]
        self.x = torch.zeros(8, dtype=torch.float64)

    def slices(self):
        return {"thickness": slice(0, 0), "scale": slice(0, 8)}

    def vector(self):
        return self.x

    def prior(self):
        return torch.zeros(8, dtype=torch.float64), torch.full((8,), self.scale.restraint).double()

    def solve(self):
        matrix = self.a.T @ self.a + torch.eye(8, dtype=torch.float64) / self.scale.restraint**2
        self.x = torch.linalg.solve(matrix, self.a.T @ self.y)
        ones = torch.ones(len(self.y), dtype=torch.float64)
        target = SimpleNamespace(root_weight=ones, residuals=lambda intensity: ones, n_work=len(self.y))
        self.fit = SimpleNamespace(target=target, evaluation=SimpleNamespace(sums=None, intensity=None))

    def recombine(self, sums, derivatives):
        return SimpleNamespace(
            jacobian=Jacobian((len(self.y), 8), ((slice(0, 8), torch.ones(len(self.y)).double(), self.a),))
        )
