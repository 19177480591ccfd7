"""Nodes of thickness, the splines between them, and densities averaged over these."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

_POINTS = 4  # of Gauss-Legendre quadrature between two nodes


class ThicknessGrid(nn.Module):
    """T nodes at equal distances up to `maximum` [A] and the splines L_j between them.

    L_j is 1 at node j and 0 at the others and at t = 0. A density p(t), known at the Q `points` of a
    Gauss-Legendre rule in each interval, has the weights

        w_j = integral of p(t) L_j(t) dt / integral of p(t) dt

    whether it is wider or (down to a fifth of it) narrower than the distance of two nodes.
    """

    nodes: Tensor  # (T,) [A]
    points: Tensor  # (Q,) [A]
    _log_area: Tensor
    _at_points: Tensor
    _splines: Tensor
    _integrals: Tensor

    def __init__(self, maximum: float, n_nodes: int, dtype=torch.float64):
        super().__init__()
        knots = np.linspace(0.0, maximum, n_nodes + 1)
        # Intensities start as t^2: value and slope are zero at t = 0.
        at_zero = (1, np.zeros(n_nodes + 1))
        splines = CubicSpline(knots, np.eye(n_nodes + 1), bc_type=(at_zero, "not-a-knot"))
        integrals = splines.antiderivative()
        self.spacing = maximum / n_nodes
        self.maximum = maximum
        x, weight = np.polynomial.legendre.leggauss(_POINTS)
        points = (knots[:-1, None] + 0.5 * self.spacing * (1.0 + x)).ravel()
        area = np.tile(0.5 * self.spacing * weight, n_nodes)
        self.register_buffer("nodes", torch.as_tensor(knots[1:], dtype=dtype))
        self.register_buffer("points", torch.as_tensor(points, dtype=dtype))
        self.register_buffer("_log_area", torch.as_tensor(np.log(area), dtype=dtype))
        self.register_buffer("_at_points", torch.as_tensor(splines(points)[:, 1:], dtype=dtype))
        # coefficients (degree + 1, intervals, T) of falling powers
        self.register_buffer("_splines", torch.as_tensor(splines.c[..., 1:], dtype=dtype))
        self.register_buffer("_integrals", torch.as_tensor(integrals.c[..., 1:], dtype=dtype))

    def __len__(self) -> int:
        return len(self.nodes)

    def at(self, t: Tensor) -> Tensor:
        """Weights (T,) that give a smooth function of thickness at `t` [A]."""
        return self._evaluate(self._splines, t)

    def up_to(self, t: Tensor) -> Tensor:
        """Weights (T,) that integrate such a function from 0 to `t` [A]."""
        return self._evaluate(self._integrals, t)

    def _evaluate(self, coefficients: Tensor, t: Tensor) -> Tensor:
        t = t.clamp(0.0, self.maximum)
        interval = (t.detach() / self.spacing).floor().long().clamp(max=len(self) - 1)
        offset = t - interval * self.spacing
        value = torch.zeros_like(self.nodes)
        for coefficient in coefficients:
            value = value * offset + coefficient[interval]
        return value

    def share(self, log_p: Tensor) -> Tensor:
        """Part of a density, given by its logarithm (..., Q) at `points`, that belongs to each point."""
        return torch.softmax(log_p + self._log_area, dim=-1)

    def density(self, log_p: Tensor) -> Tensor:
        """Weights (..., T) of a density given by its logarithm (..., Q) at `points`.

        They fall short of 1 by what belongs to t = 0, where nothing is diffracted.
        """
        return self.share(log_p) @ self._at_points
