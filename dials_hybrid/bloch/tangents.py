r"""Derivatives of rocking sums by a few parameters, from Bloch waves (forward mode).

With D = V^+ dA V (`eigen`) and L_ab = 1 / (e_a - e_b), the derivative of the thickness average
I_m = sum_t p_mt |psi_m(t)|^2 is

    dI_m = 2 pi/K Re [ sum_a V_ma Q_ma sum_b L_ab D_ab c_b - sum_b Q_mb c_b sum_a V_ma L_ab D_ab ],
    Q_ma = sum_t p_mt conj(psi_m(t)) e^{i e_a t}.

Where e_a = e_b, the diagonal included, (Q_ma - Q_mb) L_ab is the mean of the derivatives dQ/de. The
cost grows with the number of parameters, not with that of the observations: `eigen.gradients` is the
other way about.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dials_hybrid.bloch.eigen import BlochWaves, phases, solve, tolerance
from dials_hybrid.bloch.matrix import MatrixDerivatives


def segment_tangents(
    coupling: Tensor,
    diagonal: Tensor,
    d_coupling: Tensor | MatrixDerivatives,
    d_diagonal: Tensor,
    thickness: Tensor,
    p: Tensor,
    beams: Tensor,
    window: Tensor,
    wave_number: float,
    workspace: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rocking sums (m, T) and the derivatives (m, P) and (m, K, x) of their averages over thickness.

    The last one is the average of each step (m, K), without the weights of `window`.

    Args:
        coupling: off-diagonal part of A (N, N) [1/A^2].
        diagonal: (K, N) [1/A^2].
        window: weight of each step for each of the m beams (m, K).
        workspace: numbers that one array may hold; at least those of a step are held.

    The others are those of `tangents`.
    """
    n, count = len(coupling), len(d_coupling)
    size = max(1, workspace // (n * n * (count + d_diagonal.shape[1])))
    m = len(beams)
    intensity, by_structure = window.new_zeros(m, len(thickness)), window.new_zeros(m, count)
    by_diagonal, averages = [], []
    for part in (slice(first, first + size) for first in range(0, len(diagonal), size)):
        waves = solve(coupling + torch.diag_embed(diagonal[part].to(coupling.dtype)), wave_number)
        of_steps, weight = waves.amplitudes(thickness, beams).abs() ** 2, window[:, part]
        intensity = intensity + torch.einsum("mk,kmt->mt", weight, of_steps)
        averages.append(torch.einsum("mt,kmt->mk", p, of_steps))
        found = tangents(waves, thickness, p, beams, d_coupling, d_diagonal[part], wave_number)
        weighted = weight.T[..., None] * found
        by_structure = by_structure + weighted[..., :count].sum(0)
        by_diagonal.append(weighted[..., count:].transpose(0, 1))
    return intensity, by_structure, torch.cat(by_diagonal, dim=1), torch.cat(averages, dim=1)


def tangents(
    waves: BlochWaves,
    thickness: Tensor,
    p: Tensor,
    beams: Tensor,
    d_coupling: Tensor | MatrixDerivatives,
    d_diagonal: Tensor,
    wave_number: float,
) -> Tensor:
    """Derivatives (K, m, P + x) of the averaged intensities of m beams at K steps.

    Args:
        waves: the solutions of K steps, N beams; real vectors where A is real.
        thickness: quadrature nodes (T,) [A].
        p: their weights for each of the m beams (m, T).
        beams: positions of the m beams (m,).
        d_coupling: dA by P parameters that all steps share (P, N, N).
        d_diagonal: dA by x parameters that change the diagonal of each step (K, x, N), real.
        wave_number: K [1/A].
    """
    e, v, c = waves.eigenvalues, waves.vectors, waves.excitation
    d = _in_bloch_waves(v, d_coupling[:], d_diagonal)
    k, n, x, _ = d.shape
    rows, f = v[:, beams], phases(e, thickness)
    psi = rows.to(f.dtype) @ (f * c[..., None])
    weighted = (2.0 * math.pi / wave_number) * p * psi.conj()
    q, dq = weighted @ f.mT, (1j * thickness * weighted) @ f.mT
    difference = e[:, :, None] - e[:, None, :]
    equal = difference.abs() * thickness.max() < tolerance(e)
    inverse = torch.where(equal, 0.0, 1.0 / torch.where(equal, 1.0, difference))
    quotient = d * inverse[:, :, None]
    first = (quotient * c[:, None, None]).sum(-1).to(q.dtype)
    second = (rows @ quotient.reshape(k, n, x * n)).view(k, -1, x, n)
    result = (rows * q) @ first - (second * (q * c[:, None])[:, :, None]).sum(-1)
    diagonal = torch.diagonal(d, dim1=1, dim2=3).mT.to(q.dtype)
    result += (rows * dq * c[:, None]) @ diagonal
    equal.diagonal(dim1=1, dim2=2).fill_(False)
    step, a, b = equal.nonzero(as_tuple=True)
    left = 0.5 * rows[step, :, a] * (dq[step, :, a] + dq[step, :, b])
    right = (d[step, a, :, b] * c[step, b, None]).to(q.dtype)
    return result.index_add(0, step, left[:, :, None] * right[:, None]).real


def _in_bloch_waves(v: Tensor, d_coupling: Tensor, d_diagonal: Tensor) -> Tensor:
    """D_ab = V^+ dA V of each step and parameter, (K, N, P + x, N) in the order k, a, parameter, b."""
    k, n, _ = v.shape
    shared = (d_coupling.reshape(-1, n) @ v).view(k, -1, n, n)
    moved = torch.cat([shared, d_diagonal[..., None] * v[:, None]], dim=1)
    return (v.mH @ moved.transpose(1, 2).reshape(k, n, -1)).view(k, n, -1, n)
