r"""Free distributions of thickness: any smooth shape, and a shape that depends on the direction.

Both tilt the distribution p_0(t) of one or two numbers that the stages before have found; the one that
depends on the direction stretches it too, as an inclined or a wedge-shaped crystal does:

    p(t | c) ~ p_0(t e^{-s(c)}) exp(sum_l f_l(c) b_l(t)),     b_l(t) = cos(l pi tau(t) / t_max) / l,
    tau(t) = sqrt(t^2 + t_0^2),                               l = 1 .. L,

so that the result is positive, normalised and bounded by the grid for every s and f. p_0 is a wedge, its
edge a little softened so that it can be tilted, or a normal distribution (`refine.thickness_choice`).
Gaussian priors on the numbers behind s and f hold the result near p_0 unless the data pay for the
difference, and the factor 1/l makes detail in t dearer than trends.

Why tau: below t_0 = xi / 2 pi (xi: the shortest extinction distance, at which the strongest reflection is
8 % from kinematical) all reflections grow as t^2, so that the data see the integral of p(t) t^2 alone.
Much of the thinnest crystal or little of a thicker one is then the same to them: a free distribution
puts nine tenths of the crystal into its first node to make a kinematical background. There the tilt levels
off: p(t) keeps the course of p_0, at the height that the crystal above t_0 continues to. The mean thickness
depends on that course, therefore on which p_0 it is, by some per cent. The logarithm of
the density is tilted, not the density, for the same reason: weight that costs nothing in intensity still
costs in the prior.

How wide these priors are is learned from the data too (`refine.prior_widths`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dials_hybrid.model.thickness import NARROWEST, Thickness
from dials_hybrid.model.thickness_grid import ThicknessGrid

_EDGE = 0.1  # of its thickness: how softly a wedge that is to be tilted ends
_STRETCH = 0.3  # s where the network's output is 1: about what f_1 = 1 does to the mean
_FLOOR = 1e-5  # of p_0, as a part of its maximum, so that the data may put something anywhere
_HIDDEN = 0.3  # standard deviation of the prior on the hidden layer, whose start has 1


class Tilted(Thickness):
    """p_0 and the functions b_l at the points of the grid."""

    basis: Tensor  # (Q, L)

    def __init__(self, grid: ThicknessGrid, *start: float, terms: int, strength: float, thin: float):
        super().__init__(grid)
        t = grid.points
        order = torch.arange(1, terms + 1, dtype=t.dtype)
        tau = torch.sqrt(t**2 + thin**2)
        self.strength = strength
        self.start = start
        self._floor = math.log(_FLOOR) + float(self._log_start(t).max())
        self.register_buffer("basis", torch.cos(math.pi / grid.maximum * tau[:, None] * order) / order)

    def _log_start(self, t: Tensor) -> Tensor:
        """ln p_0(t), but for a constant."""
        if len(self.start) == 1:
            return nn.functional.logsigmoid((1.0 - t / self.start[0]) / _EDGE)
        mean, width = self.start
        return -0.5 * ((t - mean) / max(width, NARROWEST * self.grid.spacing)) ** 2

    @property
    def n_held(self) -> int:
        """Number of parameters, the last ones, that `strength` holds near zero."""
        raise NotImplementedError

    def log_density(self, f: Tensor, s: Tensor | None = None) -> Tensor:
        """ln p (..., Q), but for a constant, for f (..., L) and s (..., 1); None for s = 0."""
        t = self.grid.points
        log_start = self._log_start(t if s is None else t * torch.exp(-s))
        floor = torch.full_like(log_start, self._floor)
        return torch.logaddexp(log_start, floor) + f @ self.basis.T


class Histogram(Tilted):
    """One distribution for all directions; f_l are its numbers.

    Args:
        start: mean and width of the normal distribution p_0, or largest thickness of the wedge [A].
        terms: L.
        strength: standard deviation of the prior on f_l.
        thin: t_0 [A].
    """

    def __init__(self, grid: ThicknessGrid, *start: float, **options):
        super().__init__(grid, *start, **options)
        self.f = nn.Parameter(torch.zeros(self.basis.shape[1], dtype=grid.nodes.dtype))

    def forward(self, conditions: Tensor) -> Tensor:
        weights = self.grid.density(self.log_density(self.f))
        return weights.expand(*conditions.shape[:-1], len(weights))

    @property
    def n_held(self) -> int:
        return self.f.numel()

    def prior(self) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros_like(self.f.detach())
        return zeros, torch.full_like(zeros, self.strength)


class Neural(Tilted):
    """s(c) and f(c) are a perceptron of one hidden layer, with a way around it for what is linear in c.

    Its last layer starts at zero: before training p(t | c) is p_0(t) for every c. The hidden layer starts at
    random, and a prior keeps it near; that on the last layer says how much p(t | c) may change with c.

    Args:
        start: mean and width of the normal distribution p_0, or largest thickness of the wedge [A].
        hidden: neurons.
        seed: of the hidden layer's start.
        terms: L.
        strength: standard deviation of the prior on the last layer.
        thin: t_0 [A].
    """

    _start: Tensor

    def __init__(self, grid: ThicknessGrid, *start: float, hidden: int, seed: int, **options):
        super().__init__(grid, *start, **options)
        dtype = grid.nodes.dtype
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.Linear(4, hidden, dtype=dtype)
        self.output = nn.Linear(4 + hidden, 1 + self.basis.shape[1], dtype=dtype)
        with torch.no_grad():
            for parameter in self.hidden.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
            for parameter in self.output.parameters():
                parameter.zero_()
        self.register_buffer("_start", nn.utils.parameters_to_vector(self.parameters()).detach())

    def forward(self, conditions: Tensor) -> Tensor:
        return self._weights(self.output(self._features(conditions)))

    def _features(self, conditions: Tensor) -> Tensor:
        return torch.cat([conditions, torch.tanh(self.hidden(conditions))], dim=-1)

    def _weights(self, out: Tensor) -> Tensor:
        return self.grid.density(self.log_density(out[..., 1:], _STRETCH * out[..., :1]))

    @torch.no_grad()
    def derivatives(self, conditions: Tensor, values: Tensor) -> Tensor:
        """See the base. Autograd has them as sums over observations only: back through the layers by hand."""
        features = self._features(conditions)
        with torch.enable_grad():
            out = self.output(features).detach().requires_grad_()
            (by_out,) = torch.autograd.grad((self._weights(out) * values).sum(), out)
        n = conditions.shape[1]
        by_hidden = (by_out @ self.output.weight[:, n:]) * (1.0 - features[:, n:] ** 2)
        parts = []
        for by_layer, seen in ((by_hidden, conditions), (by_out, features)):
            parts += [(by_layer[:, :, None] * seen[:, None, :]).flatten(1), by_layer]
        return torch.cat(parts, dim=1)

    @property
    def n_held(self) -> int:
        return sum(parameter.numel() for parameter in self.output.parameters())

    def prior(self) -> tuple[Tensor, Tensor]:
        sigma = torch.full_like(self._start, _HIDDEN)
        sigma[-self.n_held :] = self.strength
        return self._start, sigma
