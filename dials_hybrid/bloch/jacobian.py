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

    intensity: Tensor  # (K, T, m)
    sources: Tensor  # s (degree + 1, K, m), real where the vectors are
    operator: Operator
    series: Series
    factor: float  # 2 / R [A^2]
    kept: Tensor | None  # x (1, degree + 1, K, N), where it is small

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
        waves = chebyshev.propagate(
            coupling[None], diagonal[None], thickness, wave_number, beams, hermitian=hermitian, keep=True
        )
        g = waves.series.phase.conj()[:, None, None] * waves.psi * p.T[:, None]
        parts = chebyshev.two_parts(g.resolve_conj(), not coupling.is_complex())
        k, m = len(diagonal), len(beams)
        sources = coupling.new_empty(1, len(waves.series), k, m)
        chebyshev.sources(sources, waves.series.coefficients, parts)
        intensity = waves.psi[0].real ** 2 + waves.psi[0].imag ** 2
        return cls(intensity, sources[0], waves.operator, waves.series, 2.0 / waves.half_width, waves.kept)

    def vectors(self) -> Iterator[tuple[int, Tensor]]:
        """x_n of all degrees: the first degree and a block (b, K, N) that starts with it."""
        degrees = len(self.sources)
        if self.kept is not None:
            blocks = chebyshev.blocks_downwards(degrees)
            return ((block.start, self.kept[0, block.start : block.stop]) for block in reversed(list(blocks)))
        buffer = self.operator.buffer(min(degrees, chebyshev.RING))
        return ((first, block[0]) for first, block in self.operator.vectors(degrees, buffer))


def forward(
    expansion: Expansion,
    beams: Tensor,
    d_coupling: Tensor | MatrixDerivatives,
    window: Tensor,
    workspace: int,
) -> Tensor:
    """sum_k window_mk dI_mk, shape (m, P), by parameters with derivatives d_coupling (P, N, N).

    Of vectors and matrices about `workspace` elements are held at once.
    """
    k, n = expansion.operator.minus_diagonal.shape[1:]
    size = max(1, min(workspace // (n * n + chebyshev.RING * k * n), math.ceil(_ROWS / k)))
    size = math.ceil(len(d_coupling) / math.ceil(len(d_coupling) / size))  # parts of equal size
    parts = []
    for part in (d_coupling[i : i + size] for i in range(0, len(d_coupling), size)):
        matrices = part.to(expansion.sources.dtype).mT.unbind(0)

        def ask(x, out, matrices=matrices):
            x = x.flatten(0, 1)
            for matrix, rows in zip(matrices, out.flatten(0, 1).unbind(1), strict=True):
                rows.addmm_(x, matrix, beta=0, alpha=-expansion.factor)

        tangents = _tangents(expansion, beams, len(part), ask)
        parts.append(torch.einsum("mk,kpm->mp", window, tangents))
    return torch.cat(parts, dim=1)


def forward_diagonal(expansion: Expansion, beams: Tensor, d_diagonal: Tensor) -> Tensor:
    """dI (K, x, m) by parameters that change the diagonal, d_diagonal (K, x, N)."""
    scaled = (-expansion.factor * d_diagonal).to(expansion.sources.dtype)
    return _tangents(
        expansion, beams, scaled.shape[1], lambda x, out: torch.mul(x[:, :, None], scaled, out=out)
    )


def _tangents(
    expansion: Expansion, beams: Tensor, count: int, ask: Callable[[Tensor, Tensor], object]
) -> Tensor:
    """2 Re sum_n conj(s_n) (d_n)_m, shape (K, count, m).

    ask(x, out) writes -2 dX x_n (b, K, count, N) of vectors x (b, K, N).
    """
    sources, operator = expansion.sources.conj().resolve_conj(), expansion.operator
    _, k, n = operator.minus_diagonal.shape
    column = torch.arange(k, device=operator.matrix.device).repeat_interleave(count)
    operator = operator.of_steps(column)
    d = operator.buffer(chebyshev.RING)  # degrees first - 1 and on
    d[:, :2] = 0.0
    slots, d = operator.slots(d), d[0].view(-1, k, count, n)
    total = operator.matrix.new_zeros(k, count, len(beams))
    for first, x in expansion.vectors():
        weights = sources[first + 1 : first + 1 + len(x)]
        made = slice(2, 2 + len(weights))
        ask(x[: len(weights)], d[made])
        for i in range(2, 2 + len(weights)):
            if first + i == 2:
                slots[2] /= -2.0  # x_1 = X x_0 lacks the factor 2 of the other products
            else:
                operator.next_onto(slots[i - 2], slots[i - 1], slots[i])
        total += (d[made].index_select(-1, beams) * weights[:, :, None]).sum(0)
        for i in (0, 1):
            slots[i].copy_(slots[len(weights) + i])
    return 2.0 * total.real


def adjoint(expansion: Expansion, beams: Tensor, window: Tensor, workspace: int) -> tuple[Tensor, Tensor]:
    """G of the m beams, with the weights of `window` (m, K) and such that dI_m = 2 Re sum_gh G_mgh dA_gh.

    Returns:
        G summed over steps (m, N, N), and its diagonal at each step (K, m, N).
    """
    operator, degrees = expansion.operator, len(expansion.sources)
    _, k, n = operator.minus_diagonal.shape
    g = operator.matrix.new_zeros(len(beams), n, n)
    diagonal = operator.matrix.new_zeros(k, len(beams), n)
    size = max(1, workspace // (degrees * n))
    for steps in (slice(i, min(i + size, k)) for i in range(0, k, size)):
        part = operator.of_steps(steps)
        if expansion.kept is not None:
            x = expansion.kept[:, :, steps]
        else:
            x = part.buffer(degrees)
            for _ in part.vectors(degrees, x):
                pass
        sources = expansion.sources[:, steps] * window.T[steps].to(expansion.sources)
        for group in _groups(window[:, steps], workspace // (chebyshev.RING * n)):
            _reverse(part.adjoint, x, sources, beams, group, g, diagonal[steps])
    return g * expansion.factor, diagonal * expansion.factor


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

    The operator is the adjoint of that of x.
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
        asked = sources[block.start : block.stop, step, number]
        low = 0 if block.start else 1
        for i in reversed(range(low, b)):
            wide.next(slots[i + 2], slots[i + 1], slots[i])
            slots[i].view(-1).index_add_(0, entry, asked[i])
        at = 0
        for i, first, last in group:
            newer = y[0, low:b, at : at + last - first].conj()
            older = x[block.start + low - 1 : block.start + b - 1, first:last]
            g[i].addmm_(newer.flatten(0, 1).mT, older.flatten(0, 1))
            diagonal[first:last, i] += (newer * older).sum(0)
            at += last - first
    at = 0
    for i, first, last in group:  # x_1 = X x_0 lacks the factor 2 of the other products
        newer = y[0, 1, at : at + last - first].conj() / 2.0
        g[i, :, 0] -= newer.sum(0)
        diagonal[first:last, i, 0] -= newer[:, 0]
        at += last - first
