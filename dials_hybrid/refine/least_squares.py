"""Levenberg-Marquardt least squares with Gaussian priors, restraints and fixed directions.

Minimises |r(x)|^2 + sum ((x - c) / s)^2 + |q(x)|^2. Damping follows Marquardt: the diagonal of the normal
matrix is enlarged by a factor 1 + lambda, so that parameters of any unit are treated alike.

Thickness and scale replace each other along a valley that is curved in their parameters: a long straight
step leaves it, and short ones creep. So a trial step may be relaxed before it is judged: what is cheap to
refine alone is taken to its best there, as in separable least squares (Golub & Pereyra, 1973). For all blocks
together that is thickness and scale, which need no propagation; for these two alone it is one scale for all,
in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dials_hybrid.model.held import row_blocks
from dials_hybrid.model.jacobian import Jacobian

_SMALLEST_DAMPING, _LARGEST_DAMPING = 1e-7, 1e4
_AS_PROMISED = (0.7, 1.4)  # gain of a step over the expected one; outside, its Jacobian is out of date


@dataclass(frozen=True)
class Linearisation:
    """A model at x: residuals r (M,) and their derivatives J (M, P), which are read by slices of rows."""

    residuals: Tensor
    jacobian: Tensor | Jacobian
    model: Any = None  # whatever the caller wants back with the accepted point

    def normal_equations(self) -> tuple[Tensor, Tensor]:
        """J^T J (P, P) and J^T r (P,)."""
        n = self.jacobian.shape[1]
        matrix, gradient = self.residuals.new_zeros(n, n), self.residuals.new_zeros(n)
        for rows in row_blocks(*self.jacobian.shape):
            j = self.jacobian[rows]
            matrix.addmm_(j.T, j)
            gradient.addmv_(j.T, self.residuals[rows])
        return matrix, gradient


@dataclass(frozen=True)
class Prior:
    """Gaussian priors on P parameters, and directions that nothing determines.

    Directions (D, P), such as a shift of a polar group's origin, are held where they are.
    """

    centre: Tensor
    sigma: Tensor
    directions: Tensor
    restraints: Callable[[Tensor], Linearisation] | None = None  # q(x) and dq/dx

    def restrained(self, x: Tensor) -> Linearisation:
        """q(x) (R,) and its derivatives (R, P)."""
        if self.restraints is None:
            return Linearisation(x.new_zeros(0), x.new_zeros(0, len(x)))
        return self.restraints(x)

    def chi_squared(self, x: Tensor) -> float:
        return float((((x - self.centre) / self.sigma) ** 2).sum())

    def normal_matrix(self, data: Tensor) -> Tensor:
        """What the prior adds to the normal matrix (P, P) of the data."""
        scale = torch.diagonal(data).max()
        held = self.directions.T @ self.directions
        return torch.diag(self.sigma**-2) + scale * held


@dataclass(frozen=True)
class Step:
    """State after a cycle."""

    x: Tensor
    linearisation: Linearisation
    fresh: bool  # the Jacobian belongs to this x, not to an earlier one
    chi_squared: float  # of the residuals
    objective: float  # with priors
    damping: float
    shift: Tensor  # (P,) of this cycle
    data_matrix: Tensor  # J^T J (P, P)
    normal_matrix: Tensor  # (P, P), priors and restraints included, undamped
    gradient: Tensor  # (P,), with priors and restraints
    remaining: Tensor | None = None  # (P,) shift that an undamped step would still make
    converged: bool = False


Relax = Callable[[Tensor, Linearisation, Prior], tuple[Tensor, Linearisation]]


def minimise(
    linearise: Callable[[Tensor, bool], Linearisation],
    x: Tensor,
    prior: Callable[[Linearisation], Prior],
    *,
    active: Tensor,
    max_cycles: int,
    small_cycles: float = math.inf,
    damping: float = 1e-3,
    tolerance: float = 1e-3,
    relax: Relax | None = None,
) -> Iterator[Step]:
    """Improve x cycle by cycle; yields the state after each (that of the start for no cycles).

    A Jacobian costs several times a calculation of intensities, and serves as long as its steps gain
    what they promise. The last state has `converged` set when a cycle is expected to lower the objective
    by less than `tolerance` of itself, or when no damping lowers it.

    Args:
        linearise: the model at x; its second argument says whether the Jacobian must be that of x or
            may be an earlier one.
        x: start (P,).
        prior: makes the prior from the model at the start.
        active: (P,) bool, parameters to refine.
        max_cycles: at most so many cycles.
        small_cycles: and so many that lower the objective by less than a hundredth of itself.
        damping: lambda of the first cycle.
        tolerance: relative decrease of the objective that counts as progress.
        relax: takes a point and the model there to a better one, where that is cheap; the valley that a
            step follows may be curved in the parameters that it moves.
    """
    search = _Search(linearise, x, prior, active, damping, tolerance, relax)
    if max_cycles == 0:
        yield search.result()
    for _ in range(max_cycles):
        before = search.state.objective
        search.cycle()
        yield search.result()
        small_cycles -= search.state.objective > 0.99 * before
        if search.state.converged or small_cycles <= 0:
            return


class _Search:
    """The state of a minimisation and how it moves."""

    def __init__(self, linearise, x, prior, active, damping, tolerance, relax):
        self.linearise = linearise
        self.relax = relax
        self.active = active
        self.tolerance = tolerance
        self.outdated = False  # the Jacobian does not predict what steps gain
        start = linearise(x, True)
        self.prior = prior(start)
        self.state = self._at(x, start, True, damping, torch.zeros_like(x))

    def cycle(self) -> None:
        """Move to a lower objective, or find that there is none."""
        if self.outdated:
            self.refresh()
        while self.state.damping <= _LARGEST_DAMPING:
            state = self.state
            if self._shift(_SMALLEST_DAMPING)[1] < self.tolerance * state.objective:
                break
            shift, expected = self._shift(state.damping)
            new = self._try(shift)
            gain = state.objective - new.objective
            if gain > 0.0:
                self.state = replace(new, damping=max(new.damping, _SMALLEST_DAMPING))
                self.outdated = not _AS_PROMISED[0] < gain / expected < _AS_PROMISED[1]
                return
            if state.fresh:
                self.state = replace(state, damping=10.0 * state.damping)
            else:
                self.refresh()
        self.state = replace(self.state, shift=torch.zeros_like(self.state.x), converged=True)

    def _try(self, shift: Tensor) -> Step:
        """The state after this shift."""
        x = self.state.x + shift
        at = self.linearise(x, False)
        if self.relax and bool(torch.isfinite(at.residuals).all()):
            x, at = self.relax(x, at, self.prior)
        return self._at(x, at, False, self.state.damping / 10.0, x - self.state.x)

    def result(self) -> Step:
        """The present state, with what remains to be shifted by the Jacobian at hand."""
        return replace(self.state, remaining=self._shift(_SMALLEST_DAMPING)[0])

    def refresh(self) -> None:
        """Make the Jacobian that of the present x."""
        state = self.state
        self.outdated = False
        if not state.fresh:
            at = self.linearise(state.x, True)
            self.state = self._at(state.x, at, True, state.damping, state.shift)

    def _shift(self, damping: float) -> tuple[Tensor, float]:
        """The damped Gauss-Newton step and the decrease of the objective to expect from it."""
        state, prior, gradient = self.state, self.prior, self.state.gradient
        shift = _solve(state.normal_matrix, gradient, damping, self.active)
        shift = shift - prior.directions.T @ (prior.directions @ shift)
        return shift, float(-shift @ (2.0 * gradient + state.normal_matrix @ shift))

    def _at(self, x: Tensor, at: Linearisation, fresh: bool, damping: float, shift: Tensor) -> Step:
        chi_squared = float((at.residuals**2).sum())
        prior, held = self.prior, self.prior.restrained(x)
        objective = chi_squared + prior.chi_squared(x) + float((held.residuals**2).sum())
        data, gradient = at.normal_equations()
        # A step may lower the residuals and end where nothing can be derived, such as a width of nothing.
        if not (objective < float("inf") and bool(torch.isfinite(data).all())):
            objective = float("inf")
        of_restraints, by_restraints = held.normal_equations()
        matrix = data + prior.normal_matrix(data) + of_restraints
        gradient = gradient + (x - prior.centre) * prior.sigma**-2 + by_restraints
        return Step(x, at, fresh, chi_squared, objective, damping, shift, data, matrix, gradient)


def _solve(matrix: Tensor, gradient: Tensor, damping: float, active: Tensor) -> Tensor:
    index = active.nonzero().flatten()
    a = matrix[index][:, index]
    # Scaled to a unit diagonal: sites [fractional], U* and degrees differ by many orders.
    scale = torch.diagonal(a).clamp(min=1e-300).rsqrt()
    a = a * scale[:, None] * scale[None, :]
    a = a + damping * torch.eye(len(a), dtype=a.dtype, device=a.device)
    shift = torch.zeros_like(gradient)
    shift[index] = -scale * torch.linalg.solve(a, scale * gradient[index])
    return shift


def covariance(matrix: Tensor, active: Tensor) -> Tensor:
    """Inverse of a normal matrix (P, P) over the active parameters, zero elsewhere.

    Directions without information (zero or negative eigenvalues of the scaled matrix) get no variance
    of their own.
    """
    index = active.nonzero().flatten()
    a = matrix[index][:, index]
    scale = torch.diagonal(a).clamp(min=1e-300).rsqrt()
    inverse = torch.linalg.pinv(a * scale[:, None] * scale[None, :], hermitian=True, rtol=1e-13)
    result = torch.zeros_like(matrix)
    result[index[:, None], index[None, :]] = inverse * scale[:, None] * scale[None, :]
    return result


def sandwich(inverse: Tensor, at: Linearisation, share: Tensor, prior: Tensor) -> Tensor:
    """Covariance (P, P) of the parameters from the residuals themselves, whatever their weights.

        C = N^-1 (sum_m r_m^2 / (s_m (1 - h_m)) j_m j_m^T + prior) N^-1

    with N^-1 = `inverse`, the leverage h_m = j_m^T N^-1 j_m / s_m and the normal matrix of the prior
    (MacKinnon & White, 1985, HC2). For residuals of variance 1 it is N^-1; where those of the observations
    that decide a parameter are larger, so is its variance.

    Args:
        share: s (M,); 1 / n of rows that list one measurement n times, which are no n measurements.
    """
    result, share = inverse @ prior @ inverse, share.clamp(min=1e-6)
    for rows in row_blocks(*at.jacobian.shape):
        j = at.jacobian[rows]
        spread = j @ inverse
        leverage = ((spread * j).sum(1) / share[rows]).clamp(max=0.9)
        scores = (at.residuals[rows] / (share[rows] * (1.0 - leverage)).sqrt())[:, None] * spread
        result.addmm_(scores.T, scores)
    return result


def no_smaller(covariance: Tensor, least: Tensor) -> Tensor:
    """`covariance` (P, P) with no variance below that of `least`; its correlations stay.

    Few residuals may happen to be small where they decide a parameter.
    """
    variance = torch.diagonal(covariance)
    ratio = torch.diagonal(least) / variance.clamp(min=1e-300)
    factor = torch.where(variance > 0.0, ratio, 1.0).clamp(min=1.0).sqrt()
    return covariance * factor[:, None] * factor[None, :]
