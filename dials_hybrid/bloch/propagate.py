"""Intensities of a segment of rocking steps, summed into the observations they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.bloch import eigen
from dials_hybrid.bloch.beams import Segment
from dials_hybrid.bloch.geometry import excitation_error_tilts, excitation_errors
from dials_hybrid.bloch.matrix import coupling

_WORKSPACE = 2**22  # complex numbers held at once by the derivatives of a segment


@dataclass(frozen=True)
class SegmentTask:
    """A segment and the m observations that its steps contribute to."""

    segment: Segment
    pairs: Tensor  # (N, N) positions of g - h in the difference table
    rows: Tensor  # (m,) observations
    beams: Tensor  # (m,) their positions among the beams
    window: Tensor  # (m, K) quadrature weight of each step for each observation [degree]
    symmetrisation: Tensor  # (N,) M_g; it changes too little with refined tilts to follow them


@dataclass(frozen=True)
class SegmentSums:
    """What a segment adds to its m observations."""

    intensity: Tensor  # (m, T)
    by_structure: Tensor | None = None  # (m, P), averaged over thickness
    by_tilt: Tensor | None = None  # (m, K, axes) [1/radian], averaged over thickness


@dataclass(frozen=True)
class Potential:
    """U_g of the difference table and, where asked for, its derivatives by P parameters."""

    u: Tensor  # (D,) [1/A^2]
    derivatives: Tensor | None = None  # (P, D)


def structure_matrices(
    task: SegmentTask, basis: Tensor, beam: Tensor, u: Tensor, wave_number: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A (K, N, N) [1/A^2], and r (K, N, 3) [1/A] and M_g (N,) it was made from.

    Args:
        task: the segment.
        basis: (K, 3, 3) reciprocal basis of its steps, tilts included [1/A].
        beam: unit vector (3,).
        u: U_g of the difference table (D,) [1/A^2].
        wave_number: K [1/A].
    """
    r = torch.einsum("kij,nj->kni", basis, task.segment.hkl.to(basis.dtype))
    m = task.symmetrisation
    s_g = excitation_errors(r, beam, wave_number)
    diagonal = torch.diag_embed((2.0 * wave_number * s_g * m**2).to(u.dtype))
    return coupling(u, task.pairs, m) + diagonal, r, m


def segment_intensities(
    task: SegmentTask,
    basis: Tensor,
    beam: Tensor,
    potential: Potential,
    thickness: Tensor,
    wave_number: float,
) -> SegmentSums:
    """Rocking sums of each observation at each thickness (T,) [A]; see `structure_matrices`."""
    a, _, _ = structure_matrices(task, basis, beam, potential.u, wave_number)
    psi = eigen.solve(a, wave_number).amplitudes(thickness, task.beams)
    return SegmentSums(torch.einsum("mk,kmt->mt", task.window, psi.abs() ** 2))


def segment_derivatives(
    task: SegmentTask,
    basis: Tensor,
    beam: Tensor,
    axes: Tensor,
    potential: Potential,
    thickness: Tensor,
    p: Tensor,
    wave_number: float,
) -> SegmentSums:
    """`segment_intensities` and the derivatives of its average over thickness.

    Those by the structure are left out when `potential` has no derivatives.

    Args:
        axes: (K, axes, 3) unit vectors of the tilts to differentiate by, in the laboratory.
        p: thickness weights of each observation (m, T), fixed here.
    """
    n = len(task.segment.hkl)
    a, r, m = structure_matrices(task, basis, beam, potential.u, wave_number)
    chunk = max(1, _WORKSPACE // (n * n * len(task.beams)))
    intensity, gradient, by_tilt = 0.0, 0.0, []
    for first in range(0, len(a), chunk):
        part = slice(first, first + chunk)
        window = task.window[:, part]
        waves = eigen.solve(a[part], wave_number)
        psi = waves.amplitudes(thickness, task.beams)
        intensity = intensity + torch.einsum("mk,kmt->mt", window, psi.abs() ** 2)
        summed, diagonal = eigen.gradients(waves, thickness, p, task.beams, window, wave_number)
        gradient = gradient + summed
        ds = excitation_error_tilts(r[part, None], beam, axes[part, :, None])
        da = 2.0 * wave_number * ds * m**2
        by_tilt.append(2.0 * torch.einsum("kmg,kxg->mkx", diagonal.real, da))
    by_structure = None
    if potential.derivatives is not None:
        da = coupling(potential.derivatives, task.pairs, m)
        by_structure = 2.0 * (gradient.flatten(1) @ da.flatten(1).T).real
    return SegmentSums(intensity, by_structure, torch.cat(by_tilt, dim=1))
