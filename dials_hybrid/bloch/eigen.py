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


@dataclass(frozen=True)
class BlochWaves:
    """Bloch waves of K structure matrices of N beams."""

    eigenvalues: Tensor  # (K, N) e = pi a / K [radian/A]
    vectors: Tensor  # (K, N, N)
    excitation: Tensor  # (K, N) c: amplitudes of the Bloch waves at the entrance surface

    def amplitudes(self, thickness: Tensor, beams: Tensor) -> Tensor:
        """psi (K, m, T) of the m beams with these positions at thicknesses (T,) [A]."""
        waves = self.phases(thickness) * self.excitation[..., None]
        return self.vectors[:, beams] @ waves

    def phases(self, thickness: Tensor) -> Tensor:
        """exp(i e t), shape (K, N, T)."""
        angle = self.eigenvalues[..., None] * thickness
        return torch.polar(torch.ones_like(angle), angle)


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
    v = waves.vectors
    right = (z.reshape(k, m * n, n) @ v.mT).reshape(k, m, n, n)
    diagonal = torch.einsum("kga,kmag->kmg", v.conj(), right)
    left = v.conj().permute(1, 0, 2).reshape(n, k * n)
    return left @ right.transpose(0, 1).reshape(m, k * n, n), diagonal


def _divided_differences(waves: BlochWaves, thickness: Tensor, p: Tensor, beams: Tensor) -> Tensor:
    """Z (K, m, N, N)."""
    phases = waves.phases(thickness)
    rows = waves.vectors[:, beams]
    psi = rows @ (phases * waves.excitation[..., None])
    weighted = p * psi.conj()
    q = weighted @ phases.mT
    dq = (1j * thickness * weighted) @ phases.mT
    e = waves.eigenvalues
    difference = e[:, :, None] - e[:, None, :]
    # Between cancellation (below) and the error of the mean derivative (above).
    tolerance = 1e-5 if e.dtype == torch.float64 else 1e-2
    degenerate = difference.abs() * thickness.max() < tolerance
    inverse = torch.where(degenerate, 0.0, 1.0 / torch.where(degenerate, 1.0, difference))
    quotient = (q[..., :, None] - q[..., None, :]) * inverse[:, None]
    step, i, j = degenerate.nonzero(as_tuple=True)
    quotient[step, :, i, j] = 0.5 * (dq[step, :, i] + dq[step, :, j])
    return rows[..., :, None] * quotient * waves.excitation[:, None, None, :]
