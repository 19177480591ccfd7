"""R values, as JANA2020 defines them, pooled over all observations.

    F = sqrt(I), zero where I < 0
    R1 = sum |F_o - F_c| / sum F_o,     wR = sqrt(sum w (F_o - F_c)^2 / sum w F_o^2)
    w = 1 / (sigma_F^2 + (0.01 F_o)^2),
    sigma_F = sigma / (2 F_o), or 5 sqrt(sigma) where I < 0.01 sigma

Observed reflections have I > 3 sigma, with the sigma of the source table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OBSERVED = 3.0  # I / sigma
_INSTABILITY = 0.01


@dataclass(frozen=True)
class RValues:
    """Fractions, not per cent; nan where there is nothing to sum."""

    r1_obs: float
    r1_all: float
    wr_all: float
    n_observed: int
    n_all: int


def observed(intensity: Tensor, sigma: Tensor) -> Tensor:
    """(M,) bool: I > 3 sigma."""
    return intensity > OBSERVED * sigma


def amplitude_weights(intensity: Tensor, sigma: Tensor) -> Tensor:
    """w (M,) of wR."""
    f = intensity.clamp(min=0.0).sqrt()
    strong = intensity > 0.01 * sigma
    sigma_f = torch.where(strong, sigma / (2.0 * f.clamp(min=1e-30)), 5.0 * sigma.sqrt())
    return 1.0 / (sigma_f**2 + (_INSTABILITY * f) ** 2)


def r_values(intensity: Tensor, sigma: Tensor, calculated: Tensor) -> RValues:
    """R values of observed (M,) and calculated (M,) intensities on one scale."""
    f_o, f_c = intensity.clamp(min=0.0).sqrt(), calculated.clamp(min=0.0).sqrt()
    difference = (f_o - f_c).abs()
    strong = observed(intensity, sigma)
    w = amplitude_weights(intensity, sigma)
    return RValues(
        r1_obs=_ratio(difference[strong].sum(), f_o[strong].sum()),
        r1_all=_ratio(difference.sum(), f_o.sum()),
        wr_all=_ratio((w * difference**2).sum(), (w * f_o**2).sum()) ** 0.5,
        n_observed=int(strong.sum()),
        n_all=len(intensity),
    )


def r1_with_best_scale(intensity: Tensor, sigma: Tensor, calculated: Tensor) -> float:
    """R1 of observed reflections at the scale of F_c that makes it smallest.

    sum |F_o - k F_c| is smallest at a weighted median of the F_o / F_c, the weights F_c.
    """
    own = observed(intensity, sigma) & (calculated > 0.0)
    f_o, f_c = intensity[own].sqrt(), calculated[own].sqrt()
    if not len(f_o):
        return float("nan")
    ratio, order = (f_o / f_c).sort()
    weight = f_c[order].cumsum(0)
    k = ratio[int(torch.searchsorted(weight, 0.5 * weight[-1]))]
    return _ratio((f_o - k * f_c).abs().sum(), f_o.sum())


def merged(group: Tensor, intensity: Tensor, sigma: Tensor, calculated: Tensor):
    """Means over symmetry equivalents: I_o, sigma = sqrt(sum sigma^2) / n, I_c (Klar et al. 2023).

    Args:
        group: (M,) number of the unique reflection each observation belongs to.
    """
    _, index, n = torch.unique(group, return_inverse=True, return_counts=True)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(n)).index_add(0, index, values)

    return total(intensity) / n, total(sigma**2).sqrt() / n, total(calculated) / n


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    return float(numerator / denominator) if float(denominator) > 0.0 else float("nan")
