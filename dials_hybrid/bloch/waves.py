r"""Waves behind a crystal for the steps of a segment: one interface to two algorithms.

    psi(t) = exp(i pi t A_k / K_n) e_0,     A_k = A_0 + diag(d_k)

Diagonalisation costs a few N^3 for each step, whatever the thicknesses; Chebyshev polynomials a few
N^2 for each step and degree, with a degree of a little more than pi t R / K_n for eigenvalues within
+- R. Few beams and thick crystals ask for the former.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.bloch import chebyshev, eigen, jacobian
from dials_hybrid.bloch.matrix import MatrixDerivatives
from dials_hybrid.bloch.series import degree, tolerance
from dials_hybrid.bloch.tangents import segment_tangents

AMPLITUDES = ("eigen", "chebyshev")
DERIVATIVES = ("eigen adjoint", "eigen forward", "chebyshev adjoint", "chebyshev forward")
_WORKSPACE = 2**20  # with more, nothing is faster


@dataclass(frozen=True)
class Derivatives:
    """Sums over the steps of a segment for m beams; averages over thickness but for `intensity`."""

    intensity: Tensor  # (..., m, T)
    by_structure: Tensor | None  # (..., m, P)
    by_diagonal: Tensor  # (..., m, K, x): by x parameters of each step
    of_steps: Tensor  # (..., m, K) intensity of each step, without the weights of windows


def derivatives_seconds(
    coupling: Tensor,
    diagonal: Tensor,
    thickness: Tensor,
    wave_number: float,
    count: int,
    window: Tensor,
    weak: int = 0,
) -> float:
    """What `derivatives` by `count` parameters may take on one thread of a CPU [s]; see there.

    Args:
        weak: number of weak beams (bethe.py).
    """
    coupling, hermitian = _kind(coupling, diagonal)
    cost = _Cost(coupling, diagonal, thickness, wave_number)
    costs = cost.derivatives(count, window)
    chosen = cost.least(costs, hermitian)
    if chosen.endswith("forward") or count * cost.n**2 <= _WORKSPACE:
        matrices = cost.matrices(count, weak)
    else:
        matrices = cost.contraction(count, len(window), weak)
    return 1e-6 * (cost.rates.eigen[0] + costs[chosen] + matrices)


def joined(parts: list[Derivatives]) -> Derivatives:
    """Those of one segment for several groups of its beams."""
    of_structure = [part.by_structure for part in parts if part.by_structure is not None]
    return Derivatives(
        torch.cat([part.intensity for part in parts], dim=-2),
        torch.cat(of_structure, dim=-2) if of_structure else None,
        torch.cat([part.by_diagonal for part in parts], dim=-3),
        torch.cat([part.of_steps for part in parts], dim=-2),
    )


def amplitudes(
    coupling: Tensor,
    diagonal: Tensor,
    thickness: Tensor,
    wave_number: float,
    *,
    beams: Tensor | None = None,
    algorithm: str | None = None,
) -> Tensor:
    """psi (..., K, T, m) of K steps at T thicknesses, differentiable in the first three arguments.

    Several segments with as many steps can go together, padded to as many beams with rows, columns
    and diagonals of zeros.

    Args:
        coupling: off-diagonal part of A (..., N, N) [1/A^2]. Hermitian, or with absorption not; real
            if it is real and symmetric, which saves up to three quarters of the work. Beam 0 is the
            incident one.
        diagonal: (..., K, N) [1/A^2], complex with absorption.
        thickness: (T,) [A].
        wave_number: K_n [1/A].
        beams: positions of the m beams wanted (m,), or of each segment (..., m), for which there are
            only Chebyshev polynomials; all if None.
        algorithm: "eigen" or "chebyshev" instead of the faster one.
    """
    coupling, hermitian = _kind(coupling, diagonal)
    batch, (k, n) = diagonal.shape[:-2], diagonal.shape[-2:]
    a, d = coupling.reshape(-1, n, n), diagonal.reshape(-1, k, n)
    if beams is not None and beams.dim() > 1:
        algorithm, beams = "chebyshev", beams.reshape(len(a), -1)
    algorithm = algorithm or fastest(a, d, thickness, wave_number, hermitian)
    _check(algorithm, AMPLITUDES, hermitian)
    if algorithm == "eigen":
        psi = eigen.amplitudes(a, d, thickness, wave_number, beams)
    else:
        psi = chebyshev.amplitudes(a, d, thickness, wave_number, beams, hermitian=hermitian)
    return psi.reshape(*batch, *psi.shape[1:])


def fastest(
    coupling: Tensor, diagonal: Tensor, thickness: Tensor, wave_number: float, hermitian: bool = True
) -> str:
    """What `amplitudes` chooses."""
    cost = _Cost(coupling, diagonal, thickness, wave_number)
    return cost.least({"eigen": cost.eigen(), "chebyshev": cost.chebyshev()}, hermitian)


def derivatives(
    coupling: Tensor,
    diagonal: Tensor,
    d_coupling: Tensor | MatrixDerivatives | None,
    d_diagonal: Tensor,
    thickness: Tensor,
    p: Tensor,
    beams: Tensor,
    window: Tensor,
    wave_number: float,
    workspace: int = _WORKSPACE,
    *,
    algorithm: str | None = None,
) -> Derivatives:
    """sum_k window_mk |psi_m(k, t)|^2 of m beams and the derivatives of their averages over thickness.

    Several segments padded to equal size can go together by Chebyshev polynomials, with S as the first
    dimension of all but the thicknesses; d_coupling then makes slices (S, P', N, N).

    Args:
        coupling: (N, N), see `amplitudes`.
        diagonal: (K, N).
        d_coupling: derivatives (P, N, N) by the structure, real or complex as `coupling` is: a tensor
            or what makes slices of it on demand, and sums over its products with G (m, N, N).
        d_diagonal: derivatives (K, x, N) of the diagonals by x parameters of each step.
        thickness: quadrature nodes (T,) [A].
        p: their weights for each beam (m, T), fixed here.
        beams: positions of the m beams (m,).
        window: weight of each step for each of them (m, K).
        wave_number: K_n [1/A].
        workspace: elements that one array may hold; at least those of a step are held.
        algorithm: one of `DERIVATIVES` instead of the fastest; forward for few parameters (tangents.py,
            jacobian.py), adjoint for few observations.
    """
    coupling, hermitian = _kind(coupling, diagonal)
    single = coupling.dim() == 2
    directions = coupling.new_zeros(0, *coupling.shape) if d_coupling is None else d_coupling
    if algorithm is None:
        cost = _Cost(coupling, diagonal, thickness, wave_number)
        count = len(directions) + d_diagonal.shape[-2]
        algorithm = cost.least(cost.derivatives(count, window), hermitian and single)
    _check(algorithm, DERIVATIVES, hermitian and single)
    workspace = min(workspace, _WORKSPACE * math.prod(coupling.shape[:-2]))
    arguments = thickness, p, beams, window, wave_number
    if algorithm == "eigen forward":
        sums = segment_tangents(coupling, diagonal, directions, d_diagonal, *arguments, workspace)
    elif algorithm == "eigen adjoint":
        intensity, g, by_step, of_steps = eigen.segment_gradients(coupling, diagonal, *arguments, workspace)
        sums = *_from_gradients(intensity, g, by_step, directions, d_diagonal, workspace), of_steps
    else:
        expansion = jacobian.Expansion.of_matrices(
            coupling, diagonal, thickness, p, beams, wave_number, hermitian=hermitian
        )
        intensity, of_steps = expansion.sums(window), expansion.averages(p)
        if algorithm == "chebyshev adjoint":
            g, by_step = jacobian.adjoint(expansion, window, workspace)
            sums = *_from_gradients(intensity, g, by_step, directions, d_diagonal, workspace), of_steps
        else:
            by_diagonal = jacobian.forward_diagonal(expansion, d_diagonal)
            by_structure = intensity[..., :0]
            if len(directions):
                by_structure = jacobian.forward(expansion, directions, window, workspace)
            by_diagonal = torch.einsum("...mk,...kxm->...mkx", window, by_diagonal)
            sums = intensity, by_structure, by_diagonal, of_steps
    return Derivatives(sums[0], None if d_coupling is None else sums[1], *sums[2:])


def _from_gradients(
    intensity: Tensor,
    g: Tensor,
    by_step: Tensor,
    directions: Tensor | MatrixDerivatives,
    d_diagonal: Tensor,
    workspace: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Intensity and derivatives (m, P) and (m, K, x) for G (m, N, N) and its diagonals (K, m, N)."""
    if isinstance(directions, Tensor) or len(directions) * g[..., 0, :, :].numel() <= workspace:
        da = directions[:].to(g.dtype).flatten(-2)
        by_structure = 2.0 * (g.flatten(-2) @ da.mT).real
    else:
        by_structure = directions.contracted(g)
    by_diagonal = 2.0 * torch.einsum("...kmg,...kxg->...mkx", by_step, d_diagonal.to(by_step.dtype)).real
    return intensity, by_structure, by_diagonal


def _kind(coupling: Tensor, diagonal: Tensor) -> tuple[Tensor, bool]:
    """The coupling, complex if it must be, and whether A is Hermitian."""
    if diagonal.is_complex():
        return coupling.to(diagonal.dtype), False
    if not coupling.is_complex():
        return coupling, True
    a = coupling.detach()
    return coupling, bool(_length(a - a.mH) <= 1e-5 * _length(a))


def _length(a: Tensor) -> Tensor:
    """The norm of all elements; sums of real numbers are done much faster than those of complex ones."""
    return torch.linalg.vector_norm(torch.view_as_real(a.resolve_conj()))


@dataclass(frozen=True)
class _Rates:
    """Microseconds of one thread, forward and backward: fits to benchmarks/propagation.py."""

    eigen: tuple[float, float, float, float]  # each call; each step and N^2, N^3, N T
    chebyshev: tuple[float, ...]  # each call; each degree and 1, N^2, N K, N K T, N^2 K


_RATES = {
    False: _Rates((780.0, 0.055, 8.8e-5, 0.052), (1150.0, 14.0, 2.5e-4, 2.0e-3, 1.8e-4, 6.7e-5)),
    True: _Rates((470.0, 0.086, 3.7e-4, 0.050), (1200.0, 16.0, 4.6e-4, 4.9e-3, 2.7e-4, 2.6e-4)),
}  # complex coupling or not, in single precision; double precision costs each twice as much


class _Cost:
    """What the algorithms cost for coupling (..., N, N) and diagonals (..., K, N) [microseconds].

    Elsewhere than on a CPU only Chebyshev polynomials are fast: eigh solves one matrix at a time.
    """

    def __init__(self, coupling: Tensor, diagonal: Tensor, thickness: Tensor, wave_number: float):
        self.rates = _RATES[coupling.is_complex()]
        self.on_cpu = coupling.device.type == "cpu"
        self.n, self.t = coupling.shape[-1], len(thickness)
        self.k = diagonal[..., 0].numel()
        self.segments = coupling[..., 0, 0].numel()
        low, high = (float(x) for x in torch.aminmax(diagonal.detach().real))
        rows = torch.linalg.vector_norm(coupling.detach(), dim=-1)
        half_width = (high - low) / 2.0 + float(rows.max())
        z = half_width * math.pi * float(thickness.detach().abs().max()) / wave_number
        self.degree = degree(float(f"{z:.3g}"), 0.0, tolerance(diagonal.dtype.to_real()))

    def eigen(self) -> float:
        each, square, cube, thickness = self.rates.eigen
        return each + self.k * self.n * (square * self.n + cube * self.n**2 + thickness * self.t)

    def chebyshev(self) -> float:
        each, one, matrix, vector, thickness, product = self.rates.chebyshev
        steps = self.k * self.n * (vector + thickness * self.t + product * self.n)
        return each + self.degree * (one + self.segments * matrix * self.n**2 + steps)

    def derivatives(self, count: int, window: Tensor) -> dict[str, float]:
        """By `count` parameters for observations with these windows (m, K).

        Of several segments together no step is left out.
        """
        steps = int((window != 0).sum()) if window.dim() == 2 else window.numel()
        return {
            "eigen adjoint": self.eigen_adjoint(len(window)),
            "eigen forward": self.eigen_forward(count, len(window)),
            "chebyshev adjoint": self.columns(steps, 4.4e-3),
            "chebyshev forward": self.columns(self.k * count),
        }

    def matrices(self, count: int, weak: int) -> float:
        """Derivatives of the coupling by `count` parameters: see bethe.py for `weak` beams."""
        product = 1e-4 if self.rates is _RATES[True] else 2.5e-5
        pairs = self.n * (1.5e-2 * self.n + weak * (1e-2 + product * self.n))
        return 800.0 + count * pairs

    def contraction(self, count: int, m: int, weak: int) -> float:
        """Products of G of m beams with these derivatives, without making them.

        A beam has a dozen differences from others that no beam before it had.
        """
        g = m * self.n * (5e-3 * self.n + weak * (3e-3 + 1.6e-4 * self.n))
        parts = math.ceil(m * self.n**2 / 2**24)
        return 800.0 + g + 12.0 * (self.n + weak) * count * (1.5e-2 * parts + 1e-4 * m)

    def eigen_adjoint(self, m: int) -> float:
        """G of m beams: see eigen.gradients, which is complex throughout."""
        _, square, cube, _ = _RATES[True].eigen
        return self.k * self.n**2 * (square + cube * self.n + m * (0.03 + 1.8e-4 * self.n))

    def eigen_forward(self, count: int, m: int) -> float:
        """See tangents.py: two products of N x N matrices for each parameter, one of m x N."""
        _, square, cube, _ = self.rates.eigen
        fixed, product = (0.02, 1.6e-4) if self.rates is _RATES[True] else (0.01, 4e-5)
        each = fixed + product * (self.n + m / 2.0)
        return self.k * self.n**2 * (square + cube * self.n + count * each)

    def columns(self, count: int, more: float = 0.0) -> float:
        """So many vectors with derivatives: two of the three products of `chebyshev` for each.

        Gradients by the matrix, one for each beam, take `more` for each degree and number of a vector.
        Large matrices leave no room for them in the cache.
        """
        _, one, _, vector, _, product = self.rates.chebyshev
        product *= (1.0 + (self.n / 1100.0) ** 2) / 1.5
        steps = count * self.n * (vector + more + product * self.n)
        return self.chebyshev() + self.degree * (2.0 * one + steps)

    def least(self, costs: dict[str, float], hermitian: bool) -> str:
        if not (hermitian and self.on_cpu):
            costs = {name: cost for name, cost in costs.items() if not name.startswith("eigen")}
        return min(costs, key=costs.__getitem__)


def _check(algorithm: str, known: tuple[str, ...], hermitian: bool) -> None:
    if algorithm not in known:
        raise ValueError(f"The algorithm is one of {', '.join(known)}, not {algorithm}.")
    if algorithm.startswith("eigen") and not hermitian:
        raise ValueError("Diagonalisation is for crystals without absorption.")
