r"""How far an intensity may be off: standard uncertainties that allow for more than counting.

    sigma'^2 = (k sigma)^2 + (2 a P)^2 + b^2,     P = (max(I_obs, 0) + 2 I_calc) / 3

The gain k stands for sigmas that are wrong as a whole (those of DIALS are too small for electrons),
the instability a, a part of F, for errors of data and model that grow with the intensity, the floor b
for what is left under the weakest. P is SHELXL's: its mean over repeated measurements hardly depends
on their noise, so that low measurements do not weigh more than high ones.

Residuals follow Student's distribution with nu = c^2 degrees of freedom, whose maximum of likelihood is
a least squares with Cauchy's weights of cutoff c (see `target`). The same likelihood gives k, a and b; a up
to 0.03 only, or it would take what the model lacks for noise of the strong reflections, which say most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

_LIMITS = {"gain": (0.3, 30.0), "instability": (0.0, 0.03), "floor": (0.0, 30.0)}  # floor: times median sigma


@dataclass(frozen=True)
class ErrorModel:
    """k, a and b [units of the intensities]."""

    gain: float = 1.0
    instability: float = 0.01
    floor: float = 0.0

    def sigma(self, intensity: Tensor, sigma: Tensor, calculated: Tensor | None = None) -> Tensor:
        """sigma' (M,) of observed intensities; without calculated ones, P is the observed one."""
        p = intensity.clamp(min=0.0)
        if calculated is not None:
            p = (p + 2.0 * calculated.clamp(min=0.0)) / 3.0
        return ((self.gain * sigma) ** 2 + (2.0 * self.instability * p) ** 2 + self.floor**2).sqrt()


def log_likelihood(deviation: Tensor, sigma: Tensor, cutoff: float | None) -> Tensor:
    """Logarithm (M,) of the density of deviations I_calc - I_obs with these sigma'.

    Args:
        cutoff: c, Student's distribution with c^2 degrees of freedom; None: normal distribution.
    """
    square = (deviation / sigma) ** 2
    if cutoff is None:
        return -0.5 * square - torch.log(sigma) - 0.5 * math.log(2.0 * math.pi)
    nu = cutoff**2
    constant = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu) - 0.5 * math.log(math.pi * nu)
    return constant - 0.5 * (nu + 1.0) * torch.log1p(square / nu) - torch.log(sigma)


def fit_error_model(
    intensity: Tensor,
    sigma: Tensor,
    calculated: Tensor,
    *,
    share: Tensor,
    cutoff: float | None,
    fixed: dict[str, float],
) -> ErrorModel:
    """The error model that makes these observations (M,) most likely.

    Args:
        share: (M,) of a measurement that each stands for.
        cutoff: see `log_likelihood`.
        fixed: values of gain, instability or floor that are not to be refined.
    """
    unit = {"gain": 1.0, "instability": 1.0, "floor": float(sigma.median())}
    refined = [name for name in unit if name not in fixed]
    if not refined:
        return ErrorModel(**fixed)
    deviation = calculated - intensity

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        numbers = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        values = {name: number * unit[name] for name, number in zip(refined, numbers, strict=True)}
        error = ErrorModel(**fixed, **values).sigma(intensity, sigma, calculated)
        value = -(share * log_likelihood(deviation, error, cutoff)).sum() / share.sum()
        (gradient,) = torch.autograd.grad(value, numbers)
        return value.item(), gradient.numpy()

    start = {"gain": 1.5, "instability": 0.015, "floor": 0.3}
    bounds = [_LIMITS[name] for name in refined]
    found = minimize(objective, [start[name] for name in refined], jac=True, method="L-BFGS-B", bounds=bounds)
    return ErrorModel(**fixed, **{n: float(v) * unit[n] for n, v in zip(refined, found.x, strict=True)})
