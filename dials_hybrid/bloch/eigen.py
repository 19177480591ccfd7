r"""Waves behind a crystal by diagonalisation, and the derivatives of their intensities.

With A = V diag(a) V^+ and e = pi a / K,

    psi(t) = exp(i pi t A / K) e_0 = V exp(i e t) c,      c = V^+ e_0.

A perturbation dA changes psi by (Daleckii & Krein)

    dpsi(t) = V [Phi o D] c,   D = V^+ (pi/K dA) V,   Phi_ab = (e^{i e_a t} - e^{i e_b t})/(e_a - e_b)

so that the thickness average of the intensity of beam m, I_m = sum_t p_mt |psi_m(t)|^2, changes by

    dI_m = 2 Re sum_ab Z_mab D_ab,    Z_mab = V_ma c_b (Q_ma - Q_mb) / (e_a - e_b),
    Q_ma = sum_t p_mt conj(psi_m(t)) e^{i e_a t},

or, back in the basis of the beams,

    dI_m = 2 Re sum_gh G_mgh dA_gh,   G_m = pi/K conj(V) Z_m V^T.

Every thickness is contracted into Q first, and G does not know by what A will be differentiated:
derivatives cost the same for one thickness and for forty, for one parameter and for hundreds. Where
e_a = e_b (a zone axis has exact degeneracies) the quotient is the mean of the derivatives dQ/de;
nothing is divided by zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_WORKSPACE = 2**19  # elements of the matrices held at once


@dataclass(frozen=True)
class BlochWaves:
    """Bloch waves of K structure matrices of N beams."""

    eigenvalues: Tensor  # (K, N) e = pi a / K [radian/A]
    vectors: Tensor  # (K, N, N)
    excitation: Tensor  # (K, N) c: amplitudes of the Bloch waves at the entrance surface

    def amplitudes(self, thickness: Tensor, beams: Tensor) -> Tensor:
        """psi (K, m, T) of the m beams with these positions at thicknesses (T,) [A]."""
        waves = phases(self.eigenvalues, thickness) * self.excitation[..., None]
        return self.vectors[:, beams].to(waves.dtype) @ waves


def solve(a: Tensor, wave_number: float) -> BlochWaves:
    """Diagonalise Hermitian structure matrices A (K, N, N) [1/A^2]; K in 1/A.

    Beam 0 of each matrix is the incident one.
    """
    eigenvalues, vectors = torch.linalg.eigh(a)
    scale = math.pi / wave_number
    return BlochWaves(eigenvalues * scale, vectors, vectors[:, 0].conj())


def gradients(
    waves: BlochWaves,
    thickness: Tensor,
    p: Tensor,
    beams: Tensor,
    window: Tensor,
    wave_number: float,
) -> tuple[Tensor, Tensor]:
    """G of the averaged intensities of m beams.

    Args:
        waves: the solutions of K steps.
        thickness: quadrature nodes (T,) [A].
        p: their weights for each of the m beams (m, T).
        beams: positions of the m beams (m,).
        window: weight of each step for each of them (m, K).
        wave_number: K [1/A].

    Returns:
        G summed over steps (m, N, N), and its diagonal at each step (K, m, N), both with the weights
        of `window` and such that dI_m = 2 Re sum_gh G_mgh dA_gh.
    """
    z = _divided_differences(waves, thickness, p, beams)
    k, m, n, _ = z.shape
    z = z * (window.T * (math.pi / wave_number))[:, :, None, None]
    v = waves.vectors.to(z.dtype)
    right = (z.reshape(k, m * n, n) @ v.mT).reshape(k, m, n, n)
    diagonal = torch.einsum("kga,kmag->kmg", v.conj(), right)
    left = v.conj().permute(1, 0, 2).reshape(n, k * n)
    return left @ right.transpose(0, 1).reshape(m, k * n, n), diagonal


def segment_gradients(
    coupling: Tensor,
    diagonal: Tensor,
    thickness: Tensor,
    p: Tensor,
    beams: Tensor,
    window: Tensor,
    wave_number: float,
    workspace: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """sum_k window_mk |psi_m(k, t)|^2, shape (m, T), and `gradients`, a few steps at a time.

    The last one is sum_t p_mt |psi_m(k, t)|^2, shape (m, K).

    Args:
        coupling: off-diagonal part of A (N, N) [1/A^2].
        diagonal: (K, N) [1/A^2].
        workspace: elements that one array may hold; at least those of a step are held.
    """
    (k, n), m = diagonal.shape, len(beams)
    kind = torch.complex64 if diagonal.dtype == torch.float32 else torch.complex128
    size = max(1, workspace // (n * n * m))
    intensity, diagonals, averages = window.new_zeros(m, len(thickness)), [], []
    gradient = coupling.new_zeros(m, n, n, dtype=kind)
    for part in (slice(first, first + size) for first in range(0, k, size)):
        waves = solve((coupling + torch.diag_embed(diagonal[part])).to(kind), wave_number)
        of_steps = waves.amplitudes(thickness, beams).abs() ** 2
        intensity = intensity + torch.einsum("mk,kmt->mt", window[:, part], of_steps)
        averages.append(torch.einsum("mt,kmt->mk", p, of_steps))
        summed, by_step = gradients(waves, thickness, p, beams, window[:, part], wave_number)
        gradient = gradient + summed
        diagonals.append(by_step)
    return intensity, gradient, torch.cat(diagonals), torch.cat(averages, dim=1)


def _divided_differences(waves: BlochWaves, thickness: Tensor, p: Tensor, beams: Tensor) -> Tensor:
    """Z (K, m, N, N)."""
    f = phases(waves.eigenvalues, thickness)
    rows = waves.vectors[:, beams].to(f.dtype)
    psi = rows @ (f * waves.excitation[..., None])
    weighted = p * psi.conj()
    q = weighted @ f.mT
    dq = (1j * thickness * weighted) @ f.mT
    e = waves.eigenvalues
    difference = e[:, :, None] - e[:, None, :]
    degenerate = difference.abs() * thickness.max() < tolerance(e)
    inverse = torch.where(degenerate, 0.0, 1.0 / torch.where(degenerate, 1.0, difference))
    quotient = (q[..., :, None] - q[..., None, :]) * inverse[:, None]
    step, i, j = degenerate.nonzero(as_tuple=True)
    quotient[step, :, i, j] = 0.5 * (dq[step, :, i] + dq[step, :, j])
    return rows[..., :, None] * quotient * waves.excitation[:, None, None, :]


class _Amplitudes(torch.autograd.Function):
    r"""psi (S, K, T, m); the arguments are those of `amplitudes`.

    With g the gradient by psi, f_a(t) = e^{i e_a t} and h = V^+ g, the gradient by A is
    pi/K V Z V^+,  Z_ab = conj(c_b) (S_aa - S_ab) / (e_a - e_b),  S_ab = sum_t h_a(t) conj(f_b(t)).
    """

    @staticmethod
    def forward(ctx, coupling, diagonal, thickness, wave_number, beams):
        s, k, n = diagonal.shape
        ctx.scale = math.pi / wave_number
        solved, psi = [], []
        for row, steps in _chunks(s, k, n):
            a, v = torch.linalg.eigh(coupling[row] + torch.diag_embed(diagonal[row, steps]))
            f = phases(a * ctx.scale, thickness)
            rows = v if beams is None else v[:, beams]
            psi.append(_product(rows, f * v[:, 0, :, None].conj()).mT)
            solved += [a, v, f]
        ctx.save_for_backward(diagonal, thickness, beams, *solved)
        return torch.cat(psi).unflatten(0, (s, k))

    @staticmethod
    def backward(ctx, gradient):
        diagonal, thickness, beams, *solved = ctx.saved_tensors
        s, k, n = diagonal.shape
        by_coupling, by_diagonal = solved[1].new_zeros(s, n, n), []
        by_thickness = torch.zeros_like(thickness) if ctx.needs_input_grad[2] else None
        for i, (row, steps) in enumerate(_chunks(s, k, n)):
            a, v, f = solved[3 * i : 3 * i + 3]
            rows, g = v if beams is None else v[:, beams], gradient[row, steps]
            h = torch.bmm(g.conj(), rows).mH if v.is_complex() else _product(rows.mT, g.mT)
            if by_thickness is not None:
                x = f * v[:, 0, :, None].conj()
                by_thickness -= ctx.scale * torch.einsum("ka,kat->t", a, (x * h.conj()).imag)
            left = torch.bmm(v, _quotients(a, h, f, thickness, v, ctx.scale))
            by_diagonal.append(torch.linalg.vecdot(v, left).real)
            by_coupling[row].addbmm_(left, v.mH)
        return by_coupling, torch.cat(by_diagonal).view(s, k, n), by_thickness, None, None


def _chunks(s: int, k: int, n: int):
    """Index of a segment and a slice of its steps, so that a few (steps, N, N) can be held."""
    size = max(1, _WORKSPACE // (n * n))
    return ((row, slice(i, i + size)) for row in range(s) for i in range(0, k, size))


def phases(e: Tensor, thickness: Tensor) -> Tensor:
    """exp(i e t), shape (K, N, T)."""
    angle = e[..., None] * thickness
    return torch.polar(torch.ones_like(angle), angle)


def _product(a: Tensor, x: Tensor) -> Tensor:
    """a @ x for complex x and real or complex a."""
    if a.is_complex():
        return torch.bmm(a, x)
    words = torch.bmm(a, torch.view_as_real(x.contiguous()).flatten(-2))
    return torch.view_as_complex(words.unflatten(-1, (-1, 2)))


def _quotients(a: Tensor, h: Tensor, f: Tensor, thickness: Tensor, v: Tensor, scale: float) -> Tensor:
    """pi/K Z (K, N, N) for eigenvalues a (K, N) [1/A^2] in ascending order; its real part for real v."""
    s = torch.bmm(h, f.mH)
    rates = (-1j * scale) * thickness * f.conj()
    mean = (h * rates).sum(-1)
    difference = a[:, :, None] - a[:, None, :]
    difference.diagonal(dim1=1, dim2=2).fill_(1.0)
    quotient = torch.diagonal(s, dim1=1, dim2=2)[..., None] - s
    if not v.is_complex():
        quotient = quotient.real
    limit = tolerance(a) / max(scale * float(thickness.abs().max()), 1e-30)
    equal = None
    if a.shape[1] > 1 and float((a[:, 1:] - a[:, :-1]).min()) < limit:
        equal = (difference.abs() < limit).nonzero(as_tuple=True)
        difference[equal] = 1.0
    quotient = quotient / difference
    if equal is not None:
        step, i, j = equal
        exact = 0.5 * (h[step, i] * (rates[step, i] + rates[step, j])).sum(-1)
        quotient[step, i, j] = exact if v.is_complex() else exact.real
    torch.diagonal(quotient, dim1=1, dim2=2).copy_(mean if v.is_complex() else mean.real)
    return quotient * v[:, :1]


def tolerance(e: Tensor) -> float:
    """Phase below which waves count as equal: between the errors of cancellation (below) and of
    the mean derivative (above)."""
    return 1e-5 if e.dtype == torch.float64 else 1e-2


def amplitudes(
    coupling: Tensor, diagonal: Tensor, thickness: Tensor, wave_number: float, beams: Tensor | None = None
) -> Tensor:
    """psi (S, K, T, m) of Hermitian matrices; see `waves.amplitudes`.

    Args:
        coupling: off-diagonal part of A (S, N, N), Hermitian or real symmetric [1/A^2].
        diagonal: real (S, K, N) [1/A^2].
        thickness: (T,) [A].
        wave_number: K_n [1/A].
        beams: positions of the m beams wanted (m,); all if None.
    """
    return _Amplitudes.apply(coupling, diagonal, thickness, wave_number, beams)
