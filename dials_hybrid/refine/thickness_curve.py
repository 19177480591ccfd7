"""Mean and spread of the thickness distribution against scan angle, and how certain they are.

Uncertainties are those of the joint least squares (Laplace's approximation): with C the covariance of
the thickness model's numbers x, all other parameters free, s.u.(f)^2 = (df/dx)^T C (df/dx). They hold
for the model at hand; what another model would give is not in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.thickness import jacobian, moments
from dials_hybrid.refine.joint_fit import Fit


@dataclass(frozen=True)
class Moments:
    """Of p(t) at N observations [A], each (N,)."""

    mean: Tensor
    spread: Tensor
    mean_su: Tensor
    spread_su: Tensor


def thickness_moments(hybrid: Hybrid, fit: Fit, crystal: int, rows: Tensor) -> Moments:
    """Mean and standard deviation of p(t) at these observations of a crystal.

    Args:
        rows: (N,) numbers of observations.
    """
    model = hybrid.thickness[crystal]
    before = sum(p.numel() for earlier in hybrid.thickness[:crystal] for p in earlier.parameters())
    start = hybrid.slices()["thickness"].start + before
    n = sum(parameter.numel() for parameter in model.parameters())
    variance = fit.covariance[start : start + n, start : start + n]
    with torch.enable_grad():
        value = torch.cat(moments(model(hybrid.conditions[rows]), hybrid.grid.nodes))
    columns = jacobian(value, model)
    uncertainty = ((columns @ variance) * columns).sum(1).clamp(min=0.0).sqrt()
    return Moments(*value.detach().chunk(2), *uncertainty.chunk(2))


def thickness_in_uncertainties(hybrid: Hybrid, fit: Fit) -> float:
    """Largest factor by which not knowing the thickness raises the s.u. of a structure's parameter."""
    blocks = hybrid.slices()
    structure, thickness = blocks["crystal"], blocks["thickness"]
    c = fit.covariance
    across = c[structure, thickness]
    inverse = torch.linalg.pinv(c[thickness, thickness], hermitian=True)
    own = torch.diagonal(c[structure, structure])
    known = own - ((across @ inverse) * across).sum(1)
    kept = (own > 0.0) & (known > 0.0)
    return float((own[kept] / known[kept]).max().sqrt()) if kept.any() else float("nan")
