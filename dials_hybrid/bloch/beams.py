"""Which beams interact: all within g_max, and of those the ones near the Ewald sphere.

Consecutive rocking steps are cut into segments. The steps of a segment share one set of beams,
every beam with |S_g| < sg_max at any of its steps, so that they share the off-diagonal part of the
structure matrix too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.bloch.scattering import metric_tensor, squared_lengths


@dataclass(frozen=True)
class Segment:
    """Steps `first <= k < last` of one crystal and their N common beams."""

    first: int
    last: int
    crystal: int
    hkl: Tensor  # (N, 3), the incident beam 000 first

    def __len__(self) -> int:
        return self.last - self.first


def reflections_within(cell: Tensor, g_max: float) -> Tensor:
    """Miller indices (G, 3) with 0 < |g| < g_max [1/A]."""
    # |h_i| = |g . a_i| <= |g| |a_i|
    limit = (g_max * torch.sqrt(torch.diagonal(metric_tensor(cell)))).floor().long().tolist()
    hkl = torch.cartesian_prod(*(torch.arange(-n, n + 1, device=cell.device) for n in limit))
    g_squared = squared_lengths(cell, hkl)
    return hkl[(g_squared > 0) & (g_squared < g_max**2)]


def without_lattice_absences(hkl: Tensor, rotations: Tensor, translations: Tensor) -> Tensor:
    """The Miller indices (G, 3) that the lattice centring allows.

    Absences of screw axes and glide planes stay: multiple scattering excites them.
    """
    identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    centring = translations[(rotations == identity).all(-1).all(-1)]
    phase = hkl.to(centring.dtype) @ centring.T
    return hkl[((phase - phase.round()).abs() < 1e-6).all(-1)]


def cut_segments(
    basis: Tensor,
    beam: Tensor,
    crystal: Tensor,
    hkl: Tensor,
    *,
    wave_number: float,
    sg_max: float,
    length: int,
) -> list[Segment]:
    """Cut K rocking steps into segments of at most `length` steps and choose their beams.

    Args:
        basis: (K, 3, 3) reciprocal basis of each step, tilts included [1/A].
        beam: (K, 3) unit vectors along the incident beam.
        crystal: (K,) index of the crystal; a segment never spans two.
        hkl: (G, 3) candidates, without 000.
        wave_number: K [1/A].
        sg_max: largest excitation error [1/A].
    """
    bounds = _segment_bounds(crystal, length)
    h = hkl.to(basis.dtype)
    # All masks before the first segment: small tensors to keep, made between large temporary ones,
    # would leave the heap in fragments of a gigabyte.
    near = torch.empty(len(bounds), len(hkl), dtype=torch.bool, device=hkl.device)
    for row, (first, last) in zip(near, bounds, strict=True):
        r = torch.einsum("kij,gj->kgi", basis[first:last], h)
        s_g = excitation_errors(r, beam[first:last, None], wave_number)
        row.copy_((s_g.abs() < sg_max).any(0))
    origin = torch.zeros_like(hkl[:1])
    return [
        Segment(first, last, int(crystal[first]), torch.cat([origin, hkl[row]]))
        for row, (first, last) in zip(near, bounds, strict=True)
    ]


def _segment_bounds(crystal: Tensor, length: int) -> list[tuple[int, int]]:
    """First and last step of each segment; crystal (K,) is the same within one."""
    changes = (torch.diff(crystal).nonzero().flatten() + 1).tolist()
    starts, stops = [0, *changes], [*changes, len(crystal)]
    return [
        (first, min(first + length, stop))
        for start, stop in zip(starts, stops, strict=True)
        for first in range(start, stop, length)
    ]
