r"""What is minimised: weighted differences of intensities.

    r_m = (I_calc - I_obs) / sigma'_m,     sigma'^2 = sigma^2 + (2 a I_obs)^2

Negative intensities are data and stay negative. The instability a (1 % of F by default) stands for
errors that grow with the intensity; free reflections have weight zero. Reflections that fit much worse
than most (overlaps, detector faults, spots near the beam stop) are weighted down by Cauchy's factor

    1 / (1 + (r / (c s))^2),     s = 1.4826 median |r|,

from the fit at the start of a stage, and stay so until its end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.data import Observations


@dataclass(frozen=True)
class Target:
    """Observed intensities (M,) and the square roots of their weights (M,), 0 for the free set."""

    intensity: Tensor
    root_weight: Tensor

    @classmethod
    def of(cls, observations: Observations, instability: float) -> Target:
        i, sigma = observations.intensity, observations.sigma
        variance = sigma**2 + (2.0 * instability * i.clamp(min=0.0)) ** 2
        return cls(i, torch.where(observations.free, 0.0, variance.rsqrt()))

    def robust(self, calculated: Tensor, cutoff: float) -> Target:
        """The same with weights lowered for residuals beyond `cutoff` robust deviations."""
        residuals = self.residuals(calculated)
        deviation = 1.4826 * residuals[self.root_weight > 0.0].abs().median()
        factor = (1.0 + (residuals / (cutoff * deviation)) ** 2).rsqrt()
        return replace(self, root_weight=self.root_weight * factor)

    @property
    def n_work(self) -> int:
        return int((self.root_weight > 0.0).sum())

    def residuals(self, calculated: Tensor) -> Tensor:
        """r (M,)."""
        return (calculated - self.intensity) * self.root_weight

    def best_scale(self, calculated: Tensor) -> Tensor:
        """The one scale that minimises |r|^2, in closed form; calculated (..., M) -> (...)."""
        w = self.root_weight**2
        return (calculated * self.intensity * w).sum(-1) / (calculated**2 * w).sum(-1)

    def chi_squared(self, calculated: Tensor) -> Tensor:
        """Sum of squared residuals of calculated (..., M)."""
        return (self.residuals(calculated) ** 2).sum(-1)
