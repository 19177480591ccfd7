r"""What is minimised: weighted differences of intensities.

    sum_m w_m r_m^2,     r_m = (I_calc - I_obs) / sigma'_m

with sigma' of the error model, of which each crystal has one: its sigmas may come from another program.
Negative intensities are data and stay negative; free reflections have weight zero, and rows that list one
measurement n times have 1 / n each, their share of it, so that sums and numbers are those of measurements.
The user may give crystals other weights; their mean over all work reflections is 1. Reflections that fit
much worse than most (overlaps, detector faults, spots near the beam stop) are weighted down by Cauchy's
factor

    w = 1 / (1 + (r / (c s))^2),     s = 1.4826 median |r|,

from the fit at the start of a stage, and stay so until its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.data import Observations
from dials_hybrid.refine.error_model import ErrorModel, fit_error_model, log_likelihood


@dataclass(frozen=True)
class Target:
    """Observed intensities, their sigma', their shares (0 for the free set), factors on these; all (M,)."""

    intensity: Tensor
    sigma: Tensor
    share: Tensor
    emphasis: Tensor  # the user's weight of the crystal
    robust_weight: Tensor  # w above
    errors: tuple[ErrorModel, ...] = (ErrorModel(),)  # of each crystal
    cutoff: float | None = None  # c of the weights; None: all work reflections have weight 1

    @classmethod
    def of(
        cls,
        observations: Observations,
        errors: ErrorModel | tuple[ErrorModel, ...],
        calculated: Tensor | None = None,
        emphasis: Sequence[float] = (),
    ) -> Target:
        """Without robust weights.

        Args:
            errors: of each crystal, or one for all.
            emphasis: weights of the crystals, any multiple of them; none: all alike.
        """
        n = observations.n_crystals
        errors = (errors,) * n if isinstance(errors, ErrorModel) else errors
        intensity, crystal = observations.intensity, observations.crystal
        each = torch.stack([model.sigma(intensity, observations.sigma, calculated) for model in errors])
        share = torch.where(observations.free, 0.0, observations.share)
        factor = intensity.new_tensor(emphasis or [1.0] * n)[crystal]
        factor = factor * (share.sum() / (share * factor).sum())
        return cls(intensity, each.gather(0, crystal[None])[0], share, factor, torch.ones_like(share), errors)

    def robust(self, calculated: Tensor, cutoff: float) -> Target:
        """The same with weights lowered for residuals beyond `cutoff` robust deviations."""
        r = (calculated - self.intensity) / self.sigma
        deviation = 1.4826 * r[self.work].abs().median()
        weight = 1.0 / (1.0 + (r / (cutoff * deviation)) ** 2)
        return replace(self, robust_weight=weight, cutoff=cutoff)

    @property
    def weight(self) -> Tensor:
        """All factors on 1 / sigma'^2 (M,), 0 for the free set."""
        return self.share * self.emphasis * self.robust_weight

    def without(self, held_out: Tensor) -> Target:
        """The same with weight zero for `held_out` (M,) bool."""
        return replace(self, share=torch.where(held_out, 0.0, self.share))

    @property
    def work(self) -> Tensor:
        """(M,) bool."""
        return self.share > 0.0

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
        return self._normal_mean(1)

    def score_variance(self) -> float:
        """Mean of (w r)^2 over that of w r^2 for normally distributed residuals: 1 without robust weights.

        Estimates with psi = w r have covariance <psi^2> / <psi'>^2 (J^T J)^-1 (Huber), and <psi'> = <r psi>.
        """
        return self._normal_mean(2) / self._normal_mean(1)

    def _normal_mean(self, power: int) -> float:
        """Mean of w^power r^2 / s^2 for normally distributed residuals."""
        if self.cutoff is None:
            return 1.0
        r = torch.linspace(-10.0, 10.0, 4001, dtype=torch.float64)
        density = torch.softmax(-0.5 * r**2, 0)
        return float((density * r**2 / (1.0 + (r / self.cutoff) ** 2) ** power).sum())

    def slope(self) -> float:
        """Mean of d(w r)/dr over that of w: 1 without robust weights.

        Weights that are made from the residuals follow them, so that J^T W J promises more than it holds.
        """
        if self.cutoff is None:
            return 1.0
        share, w = self.share[self.work], self.robust_weight[self.work]
        return float((share * (2.0 * w**2 - w)).sum() / (share * w).sum())


@dataclass(frozen=True)
class Weighting:
    """What decides the weights of a stage.

    Args:
        fixed: numbers of the error model that are not refined.
        cutoff: c of robust weights; None for none.
        emphasis: see `Target.of`.
    """

    fixed: dict[str, float]
    cutoff: float | None
    emphasis: tuple[float, ...] = ()

    def target(self, observations: Observations, calculated: Tensor) -> Target:
        """The target at these calculated intensities; free reflections have no influence on it."""
        errors = tuple(
            self._errors(observations, calculated, crystal) for crystal in range(observations.n_crystals)
        )
        plain = Target.of(observations, errors, calculated, self.emphasis)
        return plain if self.cutoff is None else plain.robust(calculated, self.cutoff)

    def _errors(self, observations: Observations, calculated: Tensor, crystal: int) -> ErrorModel:
        """That of a crystal; of all where each of its reflections is free."""
        work = ~observations.free
        own = work & (observations.crystal == crystal)
        own = own if own.any() else work
        return fit_error_model(
            observations.intensity[own].cpu(),
            observations.sigma[own].cpu(),
            calculated[own].cpu(),
            share=observations.share[own].cpu(),
            cutoff=self.cutoff,
            fixed=self.fixed,
        )
