"""Smooth functions of the scan angle, as B-splines."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor


def spline_basis(angle: Tensor, lower: float, upper: float, n: int) -> Tensor:
    """Values (M, n) of n B-splines between `lower` and `upper` at `angle` (M,).

    Cubic from four functions on, of lower degree below (one: a constant). They add up to 1
    everywhere, so that equal coefficients make a constant.
    """
    degree = min(3, n - 1)
    if upper <= lower:
        lower, upper = lower - 0.5, lower + 0.5
    inner = np.linspace(lower, upper, n - degree + 1)
    knots = np.concatenate([[lower] * degree, inner, [upper] * degree])
    clamped = np.clip(angle.cpu().numpy().astype(float), lower, upper)
    values = BSpline.design_matrix(clamped, knots, degree).toarray()
    return torch.as_tensor(values, dtype=angle.dtype, device=angle.device)
