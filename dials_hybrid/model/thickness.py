r"""How thick the crystal is: a distribution p(t) over the illuminated area.

Columns of different thickness scatter independently, so intensities (not amplitudes) are averaged:

    I = sum_j w_j I(t_j),     w_j = integral of p(t) L_j(t) dt,

with I(t_j) from one propagation at the nodes of a fixed grid and L_j the cubic spline that is 1 at
node j, 0 at the others and at t = 0, where nothing has been diffracted yet and I ~ t^2. Every model
is a module that maps conditions (scan angle, beam direction in the crystal) to these weights, so that
the rest of the program does not know which one it holds. Here are the distributions of one or two
numbers; `thickness_network` has the free ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dials_hybrid.model.thickness_grid import ThicknessGrid

NARROWEST = 0.2  # of a normal distribution, in distances of two nodes


class Thickness(nn.Module):
    """Base of the thickness models: p(t) at the nodes of `grid`.

    A model is called with `conditions` (..., 4), see the function of this name, and gives weights
    (..., T).
    """

    def __init__(self, grid: ThicknessGrid):
        super().__init__()
        self.grid = grid

    def numbers(self) -> list[float]:
        """What a distribution of one or two numbers is built from, in the order of its arguments [A]."""
        raise NotImplementedError

    def derivatives(self, conditions: Tensor, values: Tensor) -> Tensor:
        """Derivatives (M, P) of sum_t p_t values_t by the refined numbers, for values (M, T).

        Here those of a distribution that is the same everywhere.
        """
        with torch.enable_grad():
            weights = self(conditions[:1])[0]
        return values @ jacobian(weights, self)

    def prior(self) -> tuple[Tensor, Tensor]:
        """Centre and standard deviation of a Gaussian prior on each refined number."""
        n = sum(parameter.numel() for parameter in self.parameters())
        return self.grid.nodes.new_zeros(n), self.grid.nodes.new_full((n,), math.inf)


def jacobian(values: Tensor, model: nn.Module) -> Tensor:
    """Derivatives (n, P) of values (n,) by the parameters of the model that they were made with."""
    each = torch.eye(len(values), dtype=values.dtype, device=values.device)
    parts = torch.autograd.grad(values, list(model.parameters()), each, is_grads_batched=True)
    return torch.cat([part.reshape(len(values), -1) for part in parts], dim=1)


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


def moments(weights: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (...,) [A] of distributions with weights (..., T)."""
    mean = weights @ nodes
    variance = weights @ nodes**2 - mean**2
    return mean, variance.clamp(min=1e-12).sqrt()


class Flat(Thickness):
    """One thickness everywhere: a plate."""

    def __init__(self, grid: ThicknessGrid, thickness: float):
        super().__init__(grid)
        self.thickness = nn.Parameter(torch.tensor(thickness, dtype=grid.nodes.dtype))

    def numbers(self) -> list[float]:
        return [self.thickness.item()]

    def forward(self, conditions: Tensor) -> Tensor:
        weights = self.grid.at(self.thickness)
        return weights.expand(*conditions.shape[:-1], len(weights))


class Wedge(Thickness):
    """All thicknesses from 0 to `maximum`, equally often."""

    def __init__(self, grid: ThicknessGrid, maximum: float):
        super().__init__(grid)
        self.maximum = nn.Parameter(torch.tensor(maximum, dtype=grid.nodes.dtype))

    def numbers(self) -> list[float]:
        return [self.maximum.item()]

    def forward(self, conditions: Tensor) -> Tensor:
        top = self.maximum.clamp(min=0.1 * self.grid.spacing, max=self.grid.maximum)
        weights = self.grid.up_to(top) / top
        return weights.expand(*conditions.shape[:-1], len(weights))


class _Density(Thickness):
    """A density of two numbers: `mean` and one under an exponential, see `prior`."""

    def __init__(self, grid: ThicknessGrid, mean: float, log_number: float):
        super().__init__(grid)
        dtype = grid.nodes.dtype
        self._start = log_number
        self.mean = nn.Parameter(torch.tensor(mean, dtype=dtype))
        self._log_number = nn.Parameter(torch.tensor(log_number, dtype=dtype))

    @property
    def width(self) -> Tensor:
        raise NotImplementedError

    def log_density(self) -> Tensor:
        """ln p (Q,) at the grid's points, but for a constant."""
        raise NotImplementedError

    def numbers(self) -> list[float]:
        return [self.mean.item(), self.width.item()]

    def forward(self, conditions: Tensor) -> Tensor:
        weights = self.grid.density(self.log_density())
        return weights.expand(*conditions.shape[:-1], len(weights))

    def prior(self) -> tuple[Tensor, Tensor]:
        """A weak one keeps the width from running off to infinity, where all widths are alike."""
        nodes = self.grid.nodes
        return nodes.new_tensor([0.0, self._start]), nodes.new_tensor([math.inf, 1.0])


class Normal(_Density):
    """p(t) ~ exp(-(t - mean)^2 / (2 width^2)), truncated to the grid.

    The width stays above a fifth of the distance of two nodes, where a narrower distribution would
    fall between the points of the grid.
    """

    def __init__(self, grid: ThicknessGrid, mean: float, width: float):
        self._narrowest = NARROWEST * grid.spacing
        excess = max(width - self._narrowest, 0.1 * self._narrowest)
        super().__init__(grid, mean, math.log(excess))

    @property
    def width(self) -> Tensor:
        return self._narrowest + self._log_number.exp()

    def log_density(self) -> Tensor:
        return -0.5 * ((self.grid.points - self.mean) / self.width) ** 2


class Gamma(_Density):
    """p(t) ~ t^(k - 1) exp(-k t / mean), truncated to the grid, with k = (mean / width)^2 > 1.

    Nil at t = 0 and with a long tail; the widest is an exponential distribution.
    """

    def __init__(self, grid: ThicknessGrid, mean: float, width: float):
        excess = (mean / max(width, NARROWEST * grid.spacing)) ** 2 - 1.0
        super().__init__(grid, mean, math.log(max(excess, 0.1)))

    @property
    def width(self) -> Tensor:
        return self.mean * (1.0 + self._log_number.exp()).rsqrt()

    def log_density(self) -> Tensor:
        excess = self._log_number.exp()  # k - 1
        ratio = self.grid.points / self.mean.clamp(min=self.grid.spacing)
        return excess * torch.log(ratio) - (1.0 + excess) * ratio


PARAMETRIC = {"flat": Flat, "wedge": Wedge, "normal": Normal, "gamma": Gamma}
