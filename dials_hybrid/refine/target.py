r"""What is minimised: weighted differences of intensities.

    sum_m w_m r_m^2,     r_m = (I_calc - I_obs) / sigma'_m

with sigma' of the error model. Negative intensities are data and stay negative; free reflections have
weight zero, and rows that list one measurement n times have 1 / n each, their share of it, so that
sums and numbers are those of measurements. Reflections that fit much worse than most (overlaps,
detector faults, spots near the beam stop) are weighted down by Cauchy's factor

    w = 1 / (1 + (r / (c s))^2),     s = 1.4826 median |r|,

from the fit at the start of a stage, and stay so until its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dials_hybrid.data import Observations
from dials_hybrid.refine.error_model import ErrorModel, fit_error_model, log_likelihood


@dataclass(frozen=True)
class Target:
    """Observed intensities, their sigma', their shares (0 for the free set) and these times w; all (M,)."""

    intensity: Tensor
    sigma: Tensor
    share: Tensor
    weight: Tensor
    errors: ErrorModel = field(default_factory=ErrorModel)
    cutoff: float | None = None  # c of the weights; None: all work reflections have weight 1

    @classmethod
    def of(cls, observations: Observations, errors: ErrorModel, calculated: Tensor | None = None) -> Target:
        """Without robust weights."""
        sigma = errors.sigma(observations.intensity, observations.sigma, calculated)
        share = torch.where(observations.free, 0.0, observations.share)
        return cls(observations.intensity, sigma, share, share, errors)

    def robust(self, calculated: Tensor, cutoff: float) -> Target:
        """The same with weights lowered for residuals beyond `cutoff` robust deviations."""
        r = (calculated - self.intensity) / self.sigma
        deviation = 1.4826 * r[self.work].abs().median()
        weight = self.share / (1.0 + (r / (cutoff * deviation)) ** 2)
        return replace(self, weight=weight, cutoff=cutoff)

    def without(self, held_out: Tensor) -> Target:
        """The same with weight zero for `held_out` (M,) bool."""
        share, weight = (torch.where(held_out, 0.0, each) for each in (self.share, self.weight))
        return replace(self, share=share, weight=weight)

    @property
    def work(self) -> Tensor:
        """(M,) bool."""
        return self.weight > 0.0

    @property
    def n_work(self) -> float:
        """Measurements."""
        return float(self.share.sum())

    @property
    def root_weight(self) -> Tensor:
        """sqrt(w) / sigma' (M,)."""
        return self.weight.sqrt() / self.sigma

    def residuals(self, calculated: Tensor) -> Tensor:
        """sqrt(w) r (M,)."""
        return (calculated - self.intensity) * self.root_weight

    def best_scale(self, calculated: Tensor) -> Tensor:
        """The one scale that minimises the sum, in closed form; calculated (..., M) -> (...)."""
        w = self.root_weight**2
        return (calculated * self.intensity * w).sum(-1) / (calculated**2 * w).sum(-1)

    def chi_squared(self, calculated: Tensor) -> Tensor:
        """Sum of squared residuals of calculated (..., M)."""
        return (self.residuals(calculated) ** 2).sum(-1)

    def log_likelihood(self, calculated: Tensor) -> float:
        """Of all work reflections."""
        deviation = (calculated - self.intensity)[self.work]
        each = log_likelihood(deviation, self.sigma[self.work], self.cutoff)
        return float((self.share[self.work] * each).sum())

    def expected(self) -> float:
        """Mean of w r^2 / s^2 for normally distributed residuals: 1 without robust weights."""
        if self.cutoff is None:
            return 1.0
        r = torch.linspace(-10.0, 10.0, 4001, dtype=torch.float64)
        density = torch.softmax(-0.5 * r**2, 0)
        return float((density * r**2 / (1.0 + (r / self.cutoff) ** 2)).sum())

    def slope(self) -> float:
        """Mean of d(w r)/dr over that of w: 1 without robust weights.

        Weights that are made from the residuals follow them, so that J^T W J promises more than it holds.
        """
        if self.cutoff is None:
            return 1.0
        share = self.share[self.work]
        w = self.weight[self.work] / share
        return float((share * (2.0 * w**2 - w)).sum() / (share * w).sum())


@dataclass(frozen=True)
class Weighting:
    """What decides the weights of a stage.

    Args:
        fixed: numbers of the error model that are not refined.
        cutoff: c of robust weights; None for none.
    """

    fixed: dict[str, float]
    cutoff: float | None

    def target(self, observations: Observations, calculated: Tensor) -> Target:
        """The target at these calculated intensities; free reflections have no influence on it."""
        work = ~observations.free
        errors = fit_error_model(
            observations.intensity[work].cpu(),
            observations.sigma[work].cpu(),
            calculated[work].cpu(),
            share=observations.share[work].cpu(),
            cutoff=self.cutoff,
            fixed=self.fixed,
        )
        plain = Target.of(observations, errors, calculated)
        return plain if self.cutoff is None else plain.robust(calculated, self.cutoff)
