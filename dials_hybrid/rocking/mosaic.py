"""Quantiles of a mosaic spread, shared out to the rocking steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mosaic_deviates(n: int, points: int) -> Tensor:
    """Standard normal deviates (n,) that run through the `points` quantiles 1/2p, 3/2p, ...

    Neighbours in the sequence are far apart in the distribution, so that every few steps sample all
    of it: with `points` times smaller steps, this is a lattice rule in scan angle and tilt.
    """
    stride = min(
        (k for k in range(1, points + 1) if math.gcd(k, points) == 1),
        key=lambda k: abs(k - 0.382 * points),
    )
    quantile = (stride * torch.arange(n) % points).double()
    return torch.special.ndtri((quantile + 0.5) / points)
