r"""How thick the crystal is: a distribution p(t) over the illuminated area.

Columns of different thickness scatter independently, so intensities (not amplitudes) are averaged:

    I = sum_j w_j I(t_j),     w_j = integral of p(t) L_j(t) dt,

with I(t_j) from one propagation at the nodes of a fixed grid and L_j the cubic spline that is 1 at
node j, 0 at the others and at t = 0, where nothing has been diffracted yet and I ~ t^2. Every model
is a module that maps conditions (scan angle, beam direction in the crystal) to these weights, so that
the rest of the program does not know which one it holds.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

_FLOOR = 1e-3  # of p_0 under a network, as a part of its maximum


class ThicknessGrid(nn.Module):
    """T nodes at equal distances up to `maximum` [A] and the splines between them."""

    def __init__(self, maximum: float, n_nodes: int, dtype=torch.float64):
        super().__init__()
        knots = np.linspace(0.0, maximum, n_nodes + 1)
        # Intensities start as t^2: value and slope are zero at t = 0.
        at_zero = (1, np.zeros(n_nodes + 1))
        splines = CubicSpline(knots, np.eye(n_nodes + 1), bc_type=(at_zero, "not-a-knot"))
        integrals = splines.antiderivative()
        self.spacing = maximum / n_nodes
        self.maximum = maximum
        self.register_buffer("nodes", torch.as_tensor(knots[1:], dtype=dtype))
        # coefficients (degree + 1, intervals, T) of falling powers
        self.register_buffer("_splines", torch.as_tensor(splines.c[..., 1:], dtype=dtype))
        self.register_buffer("_integrals", torch.as_tensor(integrals.c[..., 1:], dtype=dtype))
        whole = integrals(maximum)[1:]
        self.register_buffer("quadrature", torch.as_tensor(whole, dtype=dtype))

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

    def density(self, log_p: Tensor) -> Tensor:
        """Weights (..., T) of a smooth density given by its logarithm at the nodes, normalised."""
        return torch.softmax(log_p + torch.log(self.quadrature), dim=-1)


class Thickness(nn.Module):
    """Base of the thickness models: p(t) at the nodes of `grid`.

    A model is called with `conditions` (..., 4), see the function of this name, and gives weights
    (..., T).
    """

    def __init__(self, grid: ThicknessGrid):
        super().__init__()
        self.grid = grid

    def prior(self) -> tuple[Tensor, Tensor]:
        """Centre and standard deviation of a Gaussian prior on each refined number."""
        n = sum(parameter.numel() for parameter in self.parameters())
        return self.grid.nodes.new_zeros(n), self.grid.nodes.new_full((n,), math.inf)


def conditions(angle: Tensor, basis: Tensor, beam: Tensor, limits: tuple[float, float]) -> Tensor:
    """What p(t) may depend on (M, 4): scan angle as -1 .. 1 and beam direction in the crystal.

    Args:
        angle: (M,) [degree].
        basis: (M, 3, 3) reciprocal basis [1/A].
        beam: (M, 3) unit vectors.
        limits: smallest and largest scan angle [degree].
    """
    lower, upper = limits
    scaled = (2.0 * angle - lower - upper) / max(upper - lower, 1e-6)
    direction = torch.einsum("mij,mi->mj", basis, beam)
    direction = direction / torch.linalg.norm(direction, dim=-1, keepdim=True)
    return torch.cat([scaled[:, None], direction], dim=-1)


class Flat(Thickness):
    """One thickness everywhere: a plate."""

    def __init__(self, grid: ThicknessGrid, thickness: float):
        super().__init__(grid)
        self.thickness = nn.Parameter(torch.tensor(thickness, dtype=grid.nodes.dtype))

    def forward(self, conditions: Tensor) -> Tensor:
        weights = self.grid.at(self.thickness)
        return weights.expand(*conditions.shape[:-1], len(weights))


class Wedge(Thickness):
    """All thicknesses from 0 to `maximum`, equally often."""

    def __init__(self, grid: ThicknessGrid, maximum: float):
        super().__init__(grid)
        self.maximum = nn.Parameter(torch.tensor(maximum, dtype=grid.nodes.dtype))

    def forward(self, conditions: Tensor) -> Tensor:
        top = self.maximum.clamp(min=0.1 * self.grid.spacing, max=self.grid.maximum)
        weights = self.grid.up_to(top) / top
        return weights.expand(*conditions.shape[:-1], len(weights))


class Normal(Thickness):
    """Normal distribution of `mean` and `width` before truncation to the grid.

    The width stays above half the distance of two nodes, where a narrower distribution would fall
    between them, and a weak prior keeps it from running off to infinity, where all widths are alike.
    """

    def __init__(self, grid: ThicknessGrid, mean: float, width: float):
        super().__init__(grid)
        dtype = grid.nodes.dtype
        self._narrowest = 0.5 * grid.spacing
        self._start = math.log(max(width - self._narrowest, 0.1 * self._narrowest))
        self.mean = nn.Parameter(torch.tensor(mean, dtype=dtype))
        self._log_excess = nn.Parameter(torch.tensor(self._start, dtype=dtype))

    @property
    def width(self) -> Tensor:
        return self._narrowest + self._log_excess.exp()

    def forward(self, conditions: Tensor) -> Tensor:
        log_p = -0.5 * ((self.grid.nodes - self.mean) / self.width) ** 2
        return self.grid.density(log_p.expand(*conditions.shape[:-1], len(log_p)))

    def prior(self) -> tuple[Tensor, Tensor]:
        nodes = self.grid.nodes
        return nodes.new_tensor([0.0, self._start]), nodes.new_tensor([math.inf, 1.0])


class Neural(Thickness):
    r"""A distribution tilted by a small network,

        p(t | c) ~ p_0(t) exp(sum_l f_l(c) cos(l pi t / t_max)),   l = 1 .. L,

    with f(c) a perceptron of one hidden layer. Its last layer starts at zero: before training,
    p(t | c) is p_0(t), the best that the thickness scan found, for every c. A softmax over the
    nodes keeps it positive and normalised, the grid keeps it bounded, and the Gaussian prior on
    the weights holds it near p_0 and smooth in c unless the data pay for the difference.
    """

    def __init__(
        self, grid: ThicknessGrid, start: Tensor, *, hidden: int, terms: int, strength: float, seed: int
    ):
        super().__init__(grid)
        dtype = grid.nodes.dtype
        generator = torch.Generator().manual_seed(seed)
        order = torch.arange(1, terms + 1, dtype=dtype)
        self.strength = strength
        # Where p_0 is nil the network must still be able to put something.
        density = start / grid.quadrature
        self.register_buffer("log_start", torch.log(density.clamp(min=_FLOOR * float(density.max()))))
        self.register_buffer("basis", torch.cos(math.pi * grid.nodes[:, None] / grid.maximum * order))
        self.hidden = nn.Linear(4, hidden, dtype=dtype)
        self.output = nn.Linear(hidden, terms, dtype=dtype)
        with torch.no_grad():
            for parameter in self.hidden.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
            for parameter in self.output.parameters():
                parameter.zero_()
        self.register_buffer("_start", nn.utils.parameters_to_vector(self.parameters()).detach())

    def forward(self, conditions: Tensor) -> Tensor:
        f = self.output(torch.tanh(self.hidden(conditions)))
        return self.grid.density(self.log_start + f @ self.basis.T)

    def prior(self) -> tuple[Tensor, Tensor]:
        return self._start, torch.full_like(self._start, self.strength)


PARAMETRIC = {"flat": Flat, "wedge": Wedge, "normal": Normal}
