r"""Derivatives of many intensities by many parameters, from Chebyshev polynomials.

The thickness averages I_mk = sum_t p_mt |psi_m(k, t)|^2 of m beams at K steps depend on the vectors
x_n (see chebyshev.py) through

    dI_mk = 2 Re sum_n conj(s_nkm) (dx_n)_m,     s_nkm = sum_t conj(c_n(t) e^{i pi t c / K}) p_mt psi_m(k, t)

with c_n the coefficients of the series, i^n included: every thickness is contracted first.

Forward: each of P parameters has vectors of its own, d_n = dx_n, from

    d_{n+1} = 2 X d_n - d_{n-1} + 2 dX x_n,

where the 2 dX x_n of many degrees are one product of matrices for each parameter.

Adjoint: each of the m beams has vectors of its own at each step, from

    y_n = s_n e_m + 2 X^+ y_{n+1} - y_{n+2},      dI_m = 2 Re tr G_m^+ dA,   G_m = 2/R sum_nk y_n x_{n-1}^+

(the first product with half the weight), where steps outside the window of the beam cost nothing.
Either costs two products of matrices for each degree, the one of K P columns, the other of as many
as there are steps in all windows.

Several segments of equal size go together, with S as the first dimension of all that is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.bloch import chebyshev
from dials_hybrid.bloch.chebyshev import Operator
from dials_hybrid.bloch.matrix import MatrixDerivatives
from dials_hybrid.bloch.series import Series

_ROWS = 128  # vectors that make an efficient product and still fit into a cache


@dataclass(frozen=True)
class Expansion:
    """The series of the waves of K steps and the part of the m observed beams in their derivatives."""

    batch: torch.Size  # (S,), or nothing
    intensity: Tensor  # (S, K, T, m)
    sources: Tensor  # conj(s) (S, degree + 1, K, m), real where the vectors are
    beams: Tensor  # (S, m)
    operator: Operator
    series: Series
    factor: float  # 2 / R [A^2]
    kept: Tensor | None  # x (S, degree + 1, K, N), where it is small

    @classmethod
    def of_matrices(
        cls,
        coupling: Tensor,
        diagonal: Tensor,
        thickness: Tensor,
        p: Tensor,
        beams: Tensor,
        wave_number: float,
        *,
        hermitian: bool,
    ) -> Expansion:
        """For coupling (N, N), diagonal (K, N), thickness (T,), p (m, T) and beams (m,)."""
        batch, (k, n), m = coupling.shape[:-2], diagonal.shape[-2:], beams.shape[-1]
        coupling, diagonal = coupling.reshape(-1, n, n), diagonal.reshape(-1, k, n)
        beams = beams.reshape(-1, m)
        waves = chebyshev.propagate(
            coupling, diagonal, thickness, wave_number, beams, hermitian=hermitian, keep=True
        )
        weights = p.mT.reshape(len(beams), -1, 1, m)
        g = waves.series.phase.conj()[:, None, None] * waves.psi * weights
        parts = chebyshev.two_parts(g, not coupling.is_complex())
        sources = coupling.new_empty(len(beams), len(waves.series), k, m)
        chebyshev.sources(sources, waves.series.coefficients, parts)
        intensity = (waves.psi.real**2 + waves.psi.imag**2).transpose(1, 2)
        made = waves.operator, waves.series, 2.0 / waves.half_width, waves.kept
        return cls(batch, intensity, sources, beams, *made)

    @property
    def size(self) -> tuple[int, int, int]:
        """S, K and N."""
        s, k, n = self.operator.minus_diagonal.shape
        return s, k, n

    def sums(self, window: Tensor) -> Tensor:
        """Intensities (m, T), summed over the steps with the weights of `window` (m, K)."""
        window = window.reshape(len(self.beams), -1, window.shape[-1])
        sums = torch.einsum("smk,sktm->smt", window, self.intensity)
        return sums.view(*self.batch, *sums.shape[1:])

    def averages(self, p: Tensor) -> Tensor:
        """Intensities of each step (m, K), averaged over thickness with the weights p (m, T)."""
        p = p.reshape(len(self.beams), -1, p.shape[-1])
        averages = torch.einsum("smt,sktm->smk", p, self.intensity)
        return averages.view(*self.batch, *averages.shape[1:])

    def vectors(self) -> Iterator[tuple[int, Tensor]]:
        """x_n of all degrees: the first degree and a block (S, b, K, N) that starts with it."""
        degrees = self.sources.shape[1]
        if self.kept is not None:
            kept, blocks = self.kept, chebyshev.blocks_downwards(degrees)
            return ((block.start, kept[:, block.start : block.stop]) for block in reversed(list(blocks)))
        return self.operator.vectors(degrees, self.operator.buffer(min(degrees, chebyshev.RING)))


def forward(
    expansion: Expansion, d_coupling: Tensor | MatrixDerivatives, window: Tensor, workspace: int
) -> Tensor:
    """sum_k window_mk dI_mk, shape (m, P), by parameters with derivatives d_coupling (P, N, N).

    Of vectors and matrices about `workspace` elements are held at once.
    """
    s, k, n = expansion.size
    size = max(1, min(workspace // (s * n * (n + chebyshev.RING * k)), math.ceil(_ROWS / k)))
    size = math.ceil(len(d_coupling) / math.ceil(len(d_coupling) / size))  # parts of equal size
    window, parts = window.reshape(s, -1, k), []
    for part in (d_coupling[i : i + size] for i in range(0, len(d_coupling), size)):
        matrices = part.to(expansion.sources.dtype).reshape(s, -1, n).mT

        def ask(x, out, matrices=matrices):
            products = out.flatten(3, 4).flatten(1, 2)
            products.baddbmm_(x.flatten(1, 2), matrices, beta=0, alpha=-expansion.factor)

        tangents = _tangents(expansion, matrices.shape[-1] // n, ask)
        parts.append(torch.einsum("smk,skpm->smp", window, tangents))
    found = torch.cat(parts, dim=-1)
    return found.view(*expansion.batch, *found.shape[1:])


def forward_diagonal(expansion: Expansion, d_diagonal: Tensor) -> Tensor:
    """dI (K, x, m) by parameters that change the diagonal, d_diagonal (K, x, N)."""
    s, k, n = expansion.size
    scaled = (-expansion.factor * d_diagonal).to(expansion.sources.dtype).view(s, 1, k, -1, n)
    found = _tangents(expansion, scaled.shape[3], lambda x, out: torch.mul(x.unsqueeze(3), scaled, out=out))
    return found.view(*expansion.batch, *found.shape[1:])


def _tangents(expansion: Expansion, count: int, ask: Callable[[Tensor, Tensor], object]) -> Tensor:
    """2 Re sum_n conj(s_n) (d_n)_m, shape (S, K, count, m).

    ask(x, out) writes -2 dX x_n (S, b, K, count, N) of vectors x (S, b, K, N).
    """
    sources, operator = expansion.sources, expansion.operator
    s, k, n = expansion.size
    column = torch.arange(k, device=operator.matrix.device).repeat_interleave(count)
    operator = operator.of_steps(column)
    d = operator.buffer(chebyshev.RING)  # degrees first - 1 and on
    d[:, :2] = 0.0
    slots = operator.slots(d)
    total = operator.matrix.new_zeros(s, k, count, expansion.beams.shape[1])
    for first, x in expansion.vectors():
        weights = sources[:, first + 1 : first + 1 + x.shape[1], :, None]
        b = weights.shape[1]
        made = d[:, 2 : 2 + b]
        ask(x[:, :b], made.unflatten(2, (k, count)))
        if not first:
            slots[2] /= -2.0  # x_1 = X x_0 lacks the factor 2 of the other products
        operator.fill_onto(slots[0 if first else 1 : 2 + b])
        observed = chebyshev.of_beams(made, expansion.beams)
        total += (observed.unflatten(2, (k, count)) * weights).sum(1)
        for i in (0, 1):
            slots[i].copy_(slots[b + i])
    return 2.0 * total.real


def adjoint(expansion: Expansion, window: Tensor, workspace: int) -> tuple[Tensor, Tensor]:
    """G of the m beams, with the weights of `window` (m, K) and such that dI_m = 2 Re sum_gh G_mgh dA_gh.

    Returns:
        G summed over steps (m, N, N), and its diagonal at each step (K, m, N).
    """
    operator, degrees = expansion.operator, expansion.sources.shape[1]
    s, k, n = expansion.size
    window = window.reshape(s, -1, k)
    m = window.shape[1]
    g, diagonal = operator.matrix.new_zeros(s, m, n, n), operator.matrix.new_zeros(s, k, m, n)
    size = max(1, workspace // (s * degrees * n))
    for steps in (slice(i, min(i + size, k)) for i in range(0, k, size)):
        part = operator.of_steps(steps)
        if expansion.kept is not None:
            x = expansion.kept[:, :, steps]
        else:
            x = part.buffer(degrees)
            for _ in part.vectors(degrees, x):
                pass
        sources = expansion.sources[:, :, steps] * window.mT[:, None, steps].to(expansion.sources)
        if not expansion.batch:
            for group in _groups(window[0, :, steps], workspace // (chebyshev.RING * n)):
                _reverse(part.transposed, x, sources[0], expansion.beams[0], group, g[0], diagonal[0, steps])
            continue
        some = max(1, workspace // (s * chebyshev.RING * x.shape[2] * n))
        for of in (slice(i, i + some) for i in range(0, m, some)):
            of_some = sources[..., of], expansion.beams[:, of], g[:, of], diagonal[:, steps, of]
            _reverse_together(part.transposed, x, *of_some)
    g, diagonal = g.mul_(expansion.factor), diagonal.mul_(expansion.factor)
    return g.view(*expansion.batch, *g.shape[1:]), diagonal.view(*expansion.batch, *diagonal.shape[1:])


def _reverse_together(operator: Operator, x: Tensor, sources: Tensor, beams: Tensor, g, diagonal) -> None:
    """Add R/2 G of beams (S, m), for vectors x (S, degree + 1, K, N) and sources (S, degree + 1, K, m).

    As `_reverse`, but with vectors of each beam at each step, so that each product is one of all segments.
    """
    (s, count, k, n), m = x.shape, beams.shape[1]
    column = torch.arange(k, device=x.device).repeat_interleave(m)
    wide = operator.of_steps(column)
    entry = beams.repeat(1, k)[:, None, :, None].expand(s, chebyshev.RING, -1, 1)
    y = wide.buffer(chebyshev.RING)
    y[:, :2] = 0.0
    slots = wide.slots(y)
    by_matrix = g.view(s, m * n, n)
    for block in chebyshev.blocks_downwards(count):
        b = len(block)
        for i in (1, 0):
            slots[b + i].copy_(slots[i])
        y[:, :b] = 0.0
        asked = sources[:, block.start : block.stop].flatten(2).unsqueeze(-1)
        y[:, :b].scatter_(-1, entry[:, :b], -asked)
        low = 0 if block.start else 1
        wide.fill_onto(slots[low : b + 2][::-1])
        newer = y[:, low:b].unflatten(2, (k, m))
        older = x[:, block.start + low - 1 : block.start + b - 1]
        by_matrix.baddbmm_(newer.flatten(3).flatten(1, 2).mT, older.flatten(1, 2))
        diagonal += (newer * older.unsqueeze(3)).sum(1)
    # x_1 = X x_0 lacks the factor 2 of the other products
    half = y[:, 1].unflatten(1, (k, m)) / 2.0
    g[..., 0] -= half.sum(1)
    diagonal[..., 0] -= half[..., 0]


def _groups(window: Tensor, largest: int) -> list[list[tuple[int, int, int]]]:
    """Each beam's number, first and last + 1 step of non-zero weight, in groups of so many steps."""
    groups: list[list[tuple[int, int, int]]] = [[]]
    held = 0
    for i, row in enumerate(window):
        steps = row.nonzero()
        if not len(steps):
            continue
        first, last = int(steps[0]), int(steps[-1]) + 1
        if groups[-1] and held + last - first > largest:
            groups.append([])
            held = 0
        groups[-1].append((i, first, last))
        held += last - first
    return [group for group in groups if group]


def _reverse(operator: Operator, x: Tensor, sources: Tensor, beams: Tensor, group, g, diagonal) -> None:
    """Add R/2 G of the beams in `group`, for vectors x (1, degree + 1, K, N).

    The operator is the transposed one of x, and y the conjugate of y above.
    """
    device = x.device
    step = torch.cat([torch.arange(first, last, device=device) for _, first, last in group])
    number = torch.cat([torch.full((last - first,), i, device=device) for i, first, last in group])
    row = torch.arange(len(step), device=device)
    wide, x = operator.of_steps(step), x[0]
    entry = row * x.shape[-1] + beams[number]
    y = wide.buffer(chebyshev.RING)
    y[:, :2] = 0.0
    slots = wide.slots(y)
    for block in chebyshev.blocks_downwards(len(x)):
        b = len(block)
        for i in (1, 0):
            slots[b + i].copy_(slots[i])
        y[:, :b] = 0.0
        asked = sources[block.start : block.stop, step, number]
        y[0, :b].flatten(1).scatter_(-1, entry.expand(b, -1), -asked)
        low = 0 if block.start else 1
        wide.fill_onto(slots[low : b + 2][::-1])
        at = 0
        for i, first, last in group:
            newer = y[0, low:b, at : at + last - first]
            older = x[block.start + low - 1 : block.start + b - 1, first:last]
            g[i].addmm_(newer.flatten(0, 1).mT, older.flatten(0, 1))
            diagonal[first:last, i] += (newer * older).sum(0)
            at += last - first
    at = 0
    for i, first, last in group:  # x_1 = X x_0 lacks the factor 2 of the other products
        newer = y[0, 1, at : at + last - first] / 2.0
        g[i, :, 0] -= newer.sum(0)
        diagonal[first:last, i, 0] -= newer[:, 0]
        at += last - first
