"""Which beams interact: all within g_max, and of those the ones near the Ewald sphere.

Consecutive rocking steps are cut into segments. The steps of a segment share one set of beams,
every beam with |S_g| < sg_max at any of its steps, so that they share the off-diagonal part of the
structure matrix too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.bloch.geometry import excitation_errors, excitation_errors_of_lattice
from dials_hybrid.bloch.scattering import metric_tensor, squared_lengths

_LARGE, _MULTIPLE = 100, 4  # beams
_GROUP = 24  # segments whose beams are looked for among those that come near one of them
_ELEMENTS = 2**21  # excitation errors that are held at once


@dataclass(frozen=True)
class Segment:
    """Steps `first <= k < last` of one crystal and their N common beams."""

    first: int
    last: int
    crystal: int
    hkl: Tensor  # (N, 3), the incident beam 000 first
    weak: Tensor  # (W, 3), beams that act by perturbation only (`bethe`)

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def steps(self) -> slice:
        return slice(self.first, self.last)


@dataclass(frozen=True)
class Segments:
    """S segments of one crystal side by side, filled up to K steps and N beams."""

    steps: Tensor  # (S, K)
    crystal: int
    hkl: Tensor  # (S, N, 3)

    def __len__(self) -> int:
        return self.steps.shape[1]


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
    weak_sg_max: float = 0.0,
    frame: Tensor | None = None,
) -> list[Segment]:
    """Cut K rocking steps into segments of at most `length` steps and choose their beams.

    Args:
        basis: (K, 3, 3) reciprocal basis of each step, tilts included [1/A].
        beam: (K, 3) unit vectors along the incident beam.
        crystal: (K,) index of the crystal; a segment never spans two.
        hkl: (G, 3) candidates, without 000.
        wave_number: K [1/A].
        sg_max: largest excitation error [1/A]; of a few more beams it is larger where there are many.
        weak_sg_max: beams that come so near, but not within sg_max, are weak ones.
        frame: (K,) virtual frame of the crystal; a segment never spans two. None: there are none.
    """
    bounds = _segment_bounds(torch.stack([crystal, crystal if frame is None else frame]), length)
    hkl = torch.cat([hkl.new_zeros(1, 3), hkl])
    h, limit = hkl.to(basis.dtype), max(sg_max, weak_sg_max)
    strong, weak = torch.zeros(2, len(bounds), len(hkl), dtype=torch.bool, device=hkl.device)
    strong[:, 0] = True  # the incident beam
    for start in range(0, len(bounds), _GROUP):
        group = bounds[start : start + _GROUP]
        steps = slice(group[0][0], group[-1][1])
        chosen = _may_come_near(basis[steps], beam[steps], h, wave_number, limit).nonzero().flatten()
        size = max(1, _ELEMENTS // (length * len(chosen) + 1))
        for row in range(0, len(group), size):
            part = group[row : row + size]
            nearest = _nearest(basis, beam, h[chosen], wave_number, part)
            rows, is_strong = slice(start + row, start + row + len(part)), _strong(nearest, sg_max)
            strong[rows, chosen] = is_strong
            weak[rows, chosen] = (nearest < weak_sg_max) & ~is_strong
    crystals = crystal[[first for first, _ in bounds]].tolist()
    return [
        Segment(*steps, *each)
        for steps, *each in zip(bounds, crystals, _selected(hkl, strong), _selected(hkl, weak), strict=True)
    ]


def _selected(hkl: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
    """The rows of hkl (G, 3) in each of the masks (S, G).

    They are views of one tensor: many small ones would leave the heap in fragments of a gigabyte.
    """
    rows, columns = masks.nonzero().unbind(1)
    return hkl[columns].split(rows.bincount(minlength=len(masks)).tolist())


def _strong(nearest: Tensor, sg_max: float) -> Tensor:
    """Which beams with these least |S_g| (S, G) are strong.

    Of large sets these are also the next ones, up to a multiple: odd sizes slow products of matrices
    down by several per cent.
    """
    strong = nearest < sg_max
    n = strong.sum(1, keepdim=True)
    missing = torch.where(n >= _LARGE, -n % _MULTIPLE, 0)
    if missing.any():
        further, index = torch.where(strong, torch.inf, nearest).sort(dim=1, stable=True)
        further, index = further[:, : _MULTIPLE - 1], index[:, : _MULTIPLE - 1]
        added = (torch.arange(further.shape[1], device=n.device) < missing) & (further < torch.inf)
        strong.scatter_(1, index, strong.gather(1, index) | added)
    return strong


def _nearest(
    basis: Tensor, beam: Tensor, h: Tensor, wave_number: float, segments: list[tuple[int, int]]
) -> Tensor:
    """Least |S_g| (S, G) over the steps of each of consecutive segments."""
    first = segments[0][0]
    steps = slice(first, segments[-1][1])
    distance = excitation_errors_of_lattice(basis[steps], beam[steps], h, wave_number).abs_()
    return torch.stack([distance[low - first : high - first].amin(0) for low, high in segments])


def _may_come_near(basis: Tensor, beam: Tensor, h: Tensor, wave_number: float, limit: float) -> Tensor:
    """Whether |S_g| may be below `limit` (G,) at one of these steps.

    From the middle step, a turn of the crystal moves r by no more than |r| times the turn, and a turn of
    the beam is one of the crystal.
    """
    middle = len(basis) // 2
    r = h @ basis[middle].T
    length = torch.linalg.vector_norm(r, dim=1)
    moved = basis @ torch.linalg.inv(basis[middle]) - torch.eye(3, dtype=basis.dtype, device=basis.device)
    turn = torch.linalg.matrix_norm(moved) + torch.linalg.vector_norm(beam - beam[middle], dim=1)
    turn = turn.max()
    reach = turn * length * (1.0 + (1.1 + 0.5 * turn) * length / wave_number)
    return excitation_errors(r, beam[middle], wave_number).abs() < limit + reach


def _segment_bounds(whole: Tensor, length: int) -> list[tuple[int, int]]:
    """First and last step of each segment, within which no row of whole (n, K) changes."""
    changes = (torch.diff(whole).any(0).nonzero().flatten() + 1).tolist()
    starts, stops = [0, *changes], [*changes, whole.shape[1]]
    return [
        (first, min(first + length, stop))
        for start, stop in zip(starts, stops, strict=True)
        for first in range(start, stop, length)
    ]
