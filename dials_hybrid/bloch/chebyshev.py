r"""Waves behind a crystal from Chebyshev polynomials of the structure matrix, and their derivatives.

With the spectrum of every A_k = A_0 + diag(d_k) of a segment inside c +- R, X = (A - c) / R,

    psi(t) = exp(i pi t A / K) e_0 = exp(i pi t c / K) sum_n (2 - delta_n0) i^n J_n(R pi t / K) x_n,
    x_0 = e_0,   x_1 = X e_0,   x_{n+1} = 2 X x_n - x_{n-1}

(the Jacobi-Anger expansion). The steps of a segment share A_0, so that each degree is one product of
an N x N matrix with N x K vectors, and all thicknesses are made from the same vectors. Where A is
real (a centrosymmetric structure with the origin on a centre) so are the vectors. With absorption
c is complex: its imaginary part, the mean absorption, only scales the result.

The derivative of a sum over psi runs the recurrence backwards. If s_n collects what the sum asks
of x_n (its gradient by x_n), then

    y_n = s_n + 2 X^+ y_{n+1} - y_{n+2},      gradient by X = sum_{n >= 1} (2 - delta_n1) y_n x_{n-1}^+,

which is exact for the truncated series and costs two more products for each degree. Vectors are
kept from the forward pass where they are small, and otherwise made again, a few steps at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dials_hybrid.bloch.series import Series, Spectrum, as_real

_BLOCK = 32  # degrees contracted at once; even
RING = _BLOCK + 2  # vectors held where they are not to be kept
_KEPT = 2**24  # bytes of Chebyshev vectors of a segment kept or held at once
_OUTSIDE = 1.5  # a vector longer than this shows an eigenvalue outside the bounds


@dataclass(frozen=True)
class Operator:
    """2 X on row vectors (S, K, N)."""

    matrix: Tensor  # (S, N, N)
    minus_diagonal: Tensor  # (S, K, N)
    hermitian: bool

    @classmethod
    def of_matrices(
        cls, coupling: Tensor, diagonal: Tensor, spectrum: Spectrum, *, hermitian: bool
    ) -> Operator:
        factor, centre = 2.0 / spectrum.half_width, complex(spectrum.centre, spectrum.absorption)
        minus = factor * ((centre.real if hermitian else centre) - diagonal)
        return cls((factor * coupling).mT.contiguous(), minus.to(coupling.dtype), hermitian)

    @property
    def transposed(self) -> Operator:
        matrix = self.matrix.mT.contiguous() if self.matrix.is_complex() else self.matrix
        return Operator(matrix, self.minus_diagonal, self.hermitian)

    def of_steps(self, steps: slice | Tensor) -> Operator:
        return Operator(self.matrix, self.minus_diagonal[:, steps], self.hermitian)

    def start(self, out: Tensor) -> None:
        """x_0 and x_1 into the first two rows of out (S, n, K, N)."""
        out[:, 0] = 0.0
        out[:, 0, :, 0] = 1.0
        out[:, 1] = self.matrix[:, None, 0] / 2.0
        out[:, 1, :, 0] -= self.minus_diagonal[..., 0] / 2.0

    def slots(self, buffer: Tensor) -> list[Tensor]:
        """The vectors (S, R, N) of each degree in a buffer (S, n, ..., N); without S if it is 1."""
        rows = buffer.flatten(2, -2)
        return list(rows[0].unbind(0) if len(rows) == 1 else rows.unbind(1))

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """The matrix and what to subtract from its diagonal for slots, which lack S if it is 1."""
        both = self.matrix, self.minus_diagonal
        return both if len(self.matrix) > 1 else (both[0][0], both[1][0])

    @torch.inference_mode()  # in which operations start faster: 5 % of the time for 148 beams, 15 % for 36
    def fill(self, slots: Sequence[Tensor]) -> None:
        """Fill the slots from the third on: 2 X newer - older of the two before."""
        matrix, minus_diagonal = self._factors
        add_products = Tensor.addmm_ if matrix.dim() == 2 else Tensor.baddbmm_
        older, newer = slots[:2]
        for out in slots[2:]:
            torch.addcmul(older, minus_diagonal, newer, out=out)
            add_products(out, newer, matrix, beta=-1)
            older, newer = newer, out

    @torch.inference_mode()
    def fill_onto(self, slots: Sequence[Tensor]) -> None:
        """As `fill`, with minus what a slot holds added."""
        matrix, minus_diagonal = self._factors
        add_products = Tensor.addmm_ if matrix.dim() == 2 else Tensor.baddbmm_
        older, newer = slots[:2]
        for out in slots[2:]:
            out.add_(older).addcmul_(minus_diagonal, newer)
            add_products(out, newer, matrix, beta=-1)
            older, newer = newer, out

    def vectors(self, count: int, buffer: Tensor) -> Iterator[tuple[int, Tensor]]:
        """x_n of degrees n < count: the first degree and a block (S, b, K, N) that starts with it.

        There is one block if `buffer`, (S, n, K, N), can take all of them; one for RING degrees is
        written again and again.
        """
        slots, size = self.slots(buffer), _BLOCK if buffer.shape[1] < count else count
        self.start(buffer)
        made, offset = 2, 0  # the slot of degree n is n - offset
        for first in range(0, count, size):
            last = min(first + size, count)
            if first:
                for i in (0, 1):
                    slots[i].copy_(slots[first - 2 + i - offset])
                offset = first - 2
            self.fill(slots[made - offset - 2 : last - offset])
            made = max(made, last)
            yield first, buffer[:, first - offset : last - offset]

    def buffer(self, degrees: int) -> Tensor:
        s, k, n = self.minus_diagonal.shape
        return self.matrix.new_empty(s, max(degrees, 2), k, n)


def add_product(out: Tensor, a: Tensor, b: Tensor, *, beta: float = 1.0) -> None:
    """out = beta out + a b, all with S first; a product by itself is faster than a batch of one."""
    if len(out) == 1:
        out[0].addmm_(a[0], b[0], beta=beta)
    else:
        out.baddbmm_(a, b, beta=beta)


def _words(x: Tensor) -> Tensor:
    """(S, n, K, m) as real numbers (S, n, K m) or, of complex ones, (S, n, 2 K m)."""
    return as_real(x).flatten(2)


def two_parts(g: Tensor, real: bool) -> tuple[Tensor, Tensor]:
    """Words of conj(g) and i conj(g), or of their real parts."""
    if real:
        return g.real.flatten(2), g.imag.flatten(2)
    conjugate = g.conj().resolve_conj()
    return _words(conjugate), _words(1j * conjugate)


class _Amplitudes(torch.autograd.Function):
    """psi (S, K, T, m); the arguments are those of `amplitudes` with one batch dimension."""

    @staticmethod
    def forward(ctx, coupling, diagonal, thickness, wave_number, beams, hermitian):
        keep = any(ctx.needs_input_grad)
        waves = propagate(coupling, diagonal, thickness, wave_number, beams, hermitian=hermitian, keep=keep)
        ctx.save_for_backward(waves.psi, beams)
        ctx.operator, ctx.series, ctx.half_width = waves.operator, waves.series, waves.half_width
        ctx.kept, ctx.complex_diagonal = waves.kept, diagonal.is_complex()
        return waves.psi.transpose(1, 2).contiguous()  # whoever goes on with it is faster then

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        psi, beams = ctx.saved_tensors
        operator, series, wanted = ctx.operator, ctx.series, ctx.needs_input_grad
        s, k, n = operator.minus_diagonal.shape
        g = gradient.transpose(1, 2).contiguous()
        by_thickness = (g.conj() * psi * series.rate).real.sum((0, 2, 3)) if wanted[2] else None
        g = series.phase.conj()[:, None, None] * g
        if beams is not None:
            g = g.new_zeros(*g.shape[:-1], n).scatter_add_(-1, _of_all(beams, g), g)
        by_matrix = operator.matrix.new_zeros(s, n, n)
        by_diagonal = torch.zeros_like(operator.minus_diagonal)
        size = k if ctx.kept is not None else max(1, k * s * _KEPT // _bytes(operator, len(series)))
        for steps in [slice(i, min(i + size, k)) for i in range(0, k, size)]:
            part, x = operator.of_steps(steps), ctx.kept
            if x is None:
                x = part.buffer(len(series))
                for _ in part.vectors(len(series), x):
                    pass
            if by_thickness is not None:
                by_thickness += _overlaps(x, g[:, :, steps], series.by_thickness)
            parts = two_parts(g[:, :, steps], not x.is_complex())
            _reverse(part.transposed, x, parts, series, by_matrix, by_diagonal[:, steps])
        factor = 2.0 / ctx.half_width
        by_diagonal = by_diagonal.conj() if ctx.complex_diagonal else by_diagonal.real
        return by_matrix.mul_(factor).conj_physical_(), by_diagonal * factor, by_thickness, None, None, None


def _bytes(operator: Operator, count: int) -> int:
    return operator.minus_diagonal.nbytes * count


def _of_all(beams: Tensor, x: Tensor) -> Tensor:
    """Beams (m,) or (S, m) as indices (S, a, b, m) into the last dimension of x (S, a, b, ...)."""
    beams = beams.expand(len(x), -1)[:, None, None]
    return beams.expand(*x.shape[:3], -1)


def of_beams(x: Tensor, beams: Tensor) -> Tensor:
    """x (S, a, b, N) at beams (m,) or (S, m), shape (S, a, b, m)."""
    if len(x) == 1 or beams.dim() == 1:
        return x.index_select(-1, beams.flatten())
    return x.gather(-1, _of_all(beams, x))


@dataclass(frozen=True)
class Waves:
    """Waves and the series that they were made with."""

    psi: Tensor  # (S, T, K, m)
    operator: Operator
    series: Series
    half_width: float  # R [1/A^2]
    kept: Tensor | None  # x_n (S, degree + 1, K, N)


def propagate(
    coupling: Tensor,
    diagonal: Tensor,
    thickness: Tensor,
    wave_number: float,
    beams: Tensor | None,
    *,
    hermitian: bool,
    keep: bool = False,
) -> Waves:
    """The waves of `amplitudes`; their vectors are kept on demand, if they are small."""
    spectrum = Spectrum.of_matrices(coupling, diagonal, hermitian=hermitian)
    for _ in range(4):
        series = Series.of_spectrum(spectrum, thickness, wave_number)
        operator = Operator.of_matrices(coupling, diagonal, spectrum, hermitian=hermitian)
        psi, kept, inside = _sum_series(operator, series, beams, keep)
        if inside:
            return Waves(psi, operator, series, spectrum.half_width, kept)
        spectrum = spectrum.widened(1.1)
    raise ValueError("The eigenvalues of the structure matrix could not be bounded: is it finite?")


def _sum_series(
    operator: Operator, series: Series, beams: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor | None, bool]:
    """psi (S, T, K, m), the vectors if they are to be kept, and whether they stayed bounded."""
    s, k, n = operator.minus_diagonal.shape
    count = len(series)
    keep = keep and _bytes(operator, count) <= s * _KEPT
    buffer = operator.buffer(count if keep else min(count, RING))
    m = n if beams is None else beams.shape[-1]
    words = k * m * (2 if buffer.is_complex() else 1)
    sums = series.coefficients.new_empty(2, s, series.coefficients.shape[1], words)
    for first, block in operator.vectors(count, buffer):
        rows = _words(block if beams is None else of_beams(block, beams))
        coefficients = series.coefficients[first : first + block.shape[1]]
        for parity in (0, 1):
            c = coefficients[parity::2].T.contiguous().expand(s, -1, -1)
            add_product(sums[parity], c, rows[:, parity::2], beta=1.0 if first else 0.0)
    limit = _OUTSIDE * series.largest
    inside = bool(torch.linalg.vector_norm(as_real(block[:, -1]), dim=-1).max() < limit)
    shape = (s, -1, k, m)
    if buffer.is_complex():
        even, odd = (torch.view_as_complex(x.view(s, -1, k, m, 2)) for x in sums)
        psi = torch.add(even, odd, alpha=1j)
    else:
        psi = torch.complex(sums[0].view(shape), sums[1].view(shape))
    return psi.mul_(series.phase[:, None, None]), buffer if keep else None, inside


def _overlaps(x: Tensor, g: Tensor, c: Tensor) -> Tensor:
    """sum_n c_n(t) Re<g(t), i^n x_n> (T,)."""
    total, parts = torch.zeros_like(c[0]), two_parts(g.conj(), not x.is_complex())
    for first in range(0, x.shape[1], _BLOCK):
        rows = _words(x[:, first : first + _BLOCK])
        for parity, sign in ((0, 1.0), (1, -1.0)):
            overlap = (rows[:, parity::2] @ parts[parity].mT).sum(0)
            total = total + sign * (c[first : first + _BLOCK][parity::2] * overlap).sum(0)
    return total


@torch.inference_mode()
def _reverse(
    operator: Operator,
    x: Tensor,
    parts: tuple[Tensor, Tensor],
    series: Series,
    by_matrix: Tensor,
    by_diagonal: Tensor,
) -> None:
    """Add the conjugate gradients by 2 X, for the vectors x (S, degree + 1, K, N).

    The operator is the transposed one of x, and y the conjugate of y above: then no product takes a
    conjugate.
    """
    count, minus_coefficients = x.shape[1], -series.coefficients
    y = operator.buffer(RING)
    y[:, :2] = 0.0
    slots = operator.slots(y)
    words = operator.hermitian and x.is_complex()  # the diagonal is real: so are the products
    y_words, x_words = (as_real(y), as_real(x)) if words else (y, x)
    overlaps = torch.zeros_like(y_words[:, :_BLOCK])
    for block in blocks_downwards(count):
        first, b = block.start, len(block)
        for i in (1, 0):
            slots[b + i].copy_(slots[i])
        sources(y[:, :b], minus_coefficients[first : first + b], parts)
        low = 0 if first else 1  # y_0 meets no vector, y_{n+1} meets x_n
        operator.fill_onto(slots[low : b + 2][::-1])
        meets = slice(first + low - 1, first + b - 1)
        add_product(by_matrix, y[:, low:b].flatten(1, 2).mT, x[:, meets].flatten(1, 2))
        overlaps[:, low:b].addcmul_(y_words[:, low:b], x_words[:, meets])
    overlaps = overlaps.sum(1)
    if words:
        real, imaginary = overlaps.unflatten(-1, (-1, 2)).unbind(-1)
        overlaps = real - imaginary
    by_diagonal += overlaps
    # x_1 = X x_0 lacks the factor 2 of the other products.
    half = y[:, 1] / 2.0
    by_matrix[:, :, 0] -= half.sum(1)
    by_diagonal[:, :, 0] -= half[..., 0]


def blocks_downwards(count: int) -> Iterator[range]:
    """Degrees n < count in blocks, the highest first; a block begins with an even degree."""
    return (range(i, min(i + _BLOCK, count)) for i in reversed(range(0, count, _BLOCK)))


def sources(y: Tensor, c: Tensor, parts: tuple[Tensor, Tensor]) -> None:
    """y_n = sum_t c_n(t) i^n conj(g(t)), for y (S, b, K, m) and an even first degree; see two_parts."""
    words = _words(y)
    for parity in (0, 1):
        add_product(words[:, parity::2], c[parity::2].expand(len(y), -1, -1), parts[parity], beta=0.0)


def amplitudes(
    coupling: Tensor,
    diagonal: Tensor,
    thickness: Tensor,
    wave_number: float,
    beams: Tensor | None = None,
    *,
    hermitian: bool = True,
) -> Tensor:
    """psi (S, K, T, m); see `waves.amplitudes`.

    Args:
        coupling: off-diagonal part of A (S, N, N) [1/A^2]; real only if Hermitian.
        diagonal: (S, K, N) [1/A^2].
        thickness: (T,) [A].
        wave_number: K_n [1/A].
        beams: positions of the m beams wanted (m,), or (S, m) for each matrix; all if None.
        hermitian: whether A is.
    """
    return _Amplitudes.apply(coupling, diagonal, thickness, wave_number, beams, hermitian)
