"""Intensities of segments of rocking steps, summed into the observations they belong to.

Several segments may go together; S is then the first dimension of every shape that is given here but those of
the potential and the thicknesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.bloch import waves
from dials_hybrid.bloch.beams import Segment, Segments
from dials_hybrid.bloch.bethe import WeakBeams
from dials_hybrid.bloch.geometry import excitation_error_tilts, excitation_errors
from dials_hybrid.bloch.matrix import Pairs, coupling


@dataclass(frozen=True)
class SegmentTask:
    """A segment and the m observations that its steps contribute to, or several segments (batch.py)."""

    segment: Segment | Segments
    pairs: Pairs  # (N, N) of g - h
    rows: Tensor  # (m,) observations
    beams: Tensor  # (m,) their positions among the beams
    window: Tensor  # (m, K) quadrature weight of each step for each observation [degree]
    symmetrisation: Tensor  # (N,) M_g sqrt(path); it changes too little with refined tilts to follow them
    weak: WeakBeams | None = None
    path: float | Tensor = 1.0  # way through the crystal in units of its thickness, K / K_n

    @property
    def n_segments(self) -> int:
        return self.symmetrisation[..., 0].numel()

    def to(self, dtype: torch.dtype) -> SegmentTask:
        """The same in this floating-point precision."""
        path = self.path.to(dtype) if isinstance(self.path, Tensor) else self.path
        return replace(
            self,
            path=path,
            window=self.window.to(dtype),
            symmetrisation=self.symmetrisation.to(dtype),
            weak=self.weak and self.weak.to(dtype),
        )

    def positions(self) -> list[Tensor]:
        """All that it looks up in the difference table."""
        pairs = [self.pairs] if self.weak is None else [self.pairs, self.weak.there, self.weak.back]
        return [each.positions for each in pairs]

    def with_index(self, index: Tensor) -> SegmentTask:
        """The same for a part of the difference table."""
        weak = self.weak
        if weak is not None:
            there, back = (replace(pairs, index=index) for pairs in (weak.there, weak.back))
            weak = replace(weak, there=there, back=back)
        return replace(self, pairs=replace(self.pairs, index=index), weak=weak)


@dataclass(frozen=True)
class SegmentSums:
    """What a segment adds to its m observations."""

    intensity: Tensor  # (m, T)
    by_structure: Tensor | None = None  # (m, P), averaged over thickness
    by_tilt: Tensor | None = None  # (m, K, axes) [1/radian], averaged over thickness
    of_steps: Tensor | None = None  # (m, K) average over thickness in each step, whatever its weight


@dataclass(frozen=True)
class Potential:
    """U_g of the difference table and, where asked for, its derivatives by P parameters.

    With absorption U_g + i U'_g stands in the place of U_g; then U'_0 counts too.
    """

    u: Tensor  # (D,) [1/A^2], real where the potential is
    derivatives: Tensor | None = None  # (P, D)
    absorption: float = 0.0  # U'_0 [1/A^2]
    absorption_derivatives: Tensor | None = None  # (P,)

    def to(self, dtype: torch.dtype) -> Potential:
        """The same in this floating-point precision."""
        kind = dtype.to_complex() if self.u.is_complex() else dtype
        du, d_absorption = self.derivatives, self.absorption_derivatives
        return Potential(
            self.u.to(kind),
            None if du is None else du.to(kind),
            self.absorption,
            None if d_absorption is None else d_absorption.to(dtype),
        )


def structure_matrix(
    task: SegmentTask, basis: Tensor, beam: Tensor, potential: Potential, wave_number: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The part (N, N) that the steps share, their diagonals (K, N) of A [1/A^2], and r (K, N, 3) [1/A].

    Args:
        task: the segment.
        basis: (K, 3, 3) reciprocal basis of its steps, tilts included [1/A].
        beam: unit vector (3,).
        potential: U_g.
        wave_number: K [1/A].
    """
    r = torch.einsum("...kij,...nj->...kni", basis, task.segment.hkl.to(basis.dtype))
    m = task.symmetrisation
    diagonal = 2.0 * wave_number * excitation_errors(r, beam, wave_number) * m[..., None, :] ** 2
    if potential.absorption:
        diagonal = diagonal + 1j * potential.absorption * task.path
    a = coupling(potential.u, task.pairs.positions, m)
    return a if task.weak is None else a + task.weak.correction(potential.u), diagonal, r


@dataclass(frozen=True)
class StructureMatrixDerivatives:
    """Derivatives (P, N, N) of the part of A that the steps share, made slice by slice."""

    task: SegmentTask
    potential: Potential
    of_potential: Tensor  # those of U_g (P, D)

    def __len__(self) -> int:
        return len(self.of_potential)

    def __getitem__(self, part: slice) -> Tensor:
        task, u, du = self.task, self.potential.u, self.of_potential[part]
        da = coupling(du, task.pairs.positions, task.symmetrisation)
        if task.weak is not None:
            da = da + task.weak.correction_derivatives(u, du, hermitian=not self.potential.absorption)
        return da.contiguous()

    def contracted(self, g: Tensor) -> Tensor:
        """2 Re sum_gh G_mgh dA_gh of each parameter, shape (m, P), for G (m, N, N).

        What belongs to the same U_g is added up first.
        """
        task, u, du = self.task, self.potential.u, self.of_potential
        weights = g * (task.symmetrisation[..., :, None] * task.symmetrisation[..., None, :]).unsqueeze(-3)
        parts = [weights]
        if task.weak is not None:
            parts += task.weak.contracted(u, weights)
        torch.diagonal(weights, dim1=-2, dim2=-1).zero_()
        segments = math.prod(g.shape[:-3])
        positions = [x.reshape(segments, -1) for x in task.positions()]
        entries, place = _entries(torch.cat(positions, dim=1))
        total = g.new_zeros(g.shape[-3], entries.numel())
        for where, part in zip(place.split([x.shape[1] for x in positions], dim=1), parts, strict=True):
            values = part.flatten(-2).view(segments, len(total), -1).movedim(0, 1)
            total.index_add_(1, where.flatten(), values.flatten(1))
        of_entries = du.mT.index_select(0, entries.flatten()).view(*entries.shape, -1)
        total = total.view(len(total), *entries.shape).movedim(0, 1)
        return 2.0 * (total @ of_entries.to(g.dtype)).real.view(*g.shape[:-2], -1)


def _entries(positions: Tensor) -> tuple[Tensor, Tensor]:
    """The different numbers in each row (S, E), filled up, and where those of (S, L) stand among all."""
    row = torch.arange(len(positions), device=positions.device)[:, None]
    size = positions.max() + 1
    found, place = torch.unique(positions + size * row, return_inverse=True)
    place = place - torch.searchsorted(found, size * row)
    entries = positions.new_zeros(len(positions), int(place.max()) + 1).scatter_(1, place, positions)
    return entries, place + entries.shape[1] * row


def segment_intensities(
    task: SegmentTask,
    basis: Tensor,
    beam: Tensor,
    potential: Potential,
    thickness: Tensor,
    wave_number: float,
) -> SegmentSums:
    """Rocking sums of each observation at each thickness (T,) [A]; see `structure_matrix`."""
    a, diagonal, _ = structure_matrix(task, basis, beam, potential, wave_number)
    psi = waves.amplitudes(a, diagonal, thickness, wave_number, beams=task.beams)
    return SegmentSums(torch.einsum("...mk,...ktm->...mt", task.window, psi.abs() ** 2))


def segment_derivatives_seconds(
    task: SegmentTask,
    basis: Tensor,
    beam: Tensor,
    potential: Potential,
    thickness: Tensor,
    wave_number: float,
    count: int,
) -> float:
    """What `segment_derivatives` by `count` parameters may take on one thread of a CPU [s]."""
    a, diagonal, _ = structure_matrix(task, basis, beam, potential, wave_number)
    weak = 0 if task.weak is None else len(task.weak.inverse)
    return waves.derivatives_seconds(a, diagonal, thickness, wave_number, count, task.window, weak)


def segment_derivatives(
    task: SegmentTask,
    basis: Tensor,
    beam: Tensor,
    axes: Tensor,
    potential: Potential,
    thickness: Tensor,
    p: Tensor,
    wave_number: float,
    workspace: int,
) -> SegmentSums:
    """`segment_intensities` and the derivatives of its average over thickness.

    Those by the structure are left out when `potential` has no derivatives.

    Args:
        axes: (K, axes, 3) unit vectors of the tilts to differentiate by, in the laboratory.
        p: thickness weights of each observation (m, T), fixed here.
        workspace: complex numbers that one array may hold; at least those of a step are held.
    """
    a, diagonal, r = structure_matrix(task, basis, beam, potential, wave_number)
    du = potential.derivatives
    da = None if du is None else StructureMatrixDerivatives(task, potential, du)
    ds = excitation_error_tilts(r.unsqueeze(-3), beam, axes.unsqueeze(-2))
    d_diagonal = 2.0 * wave_number * ds * task.symmetrisation[..., None, None, :] ** 2
    size = max(1, workspace // a.numel())  # observations: each has derivatives by all of A
    parts = [
        waves.derivatives(
            a,
            diagonal,
            da,
            d_diagonal,
            thickness,
            p[..., part, :],
            task.beams[..., part],
            task.window[..., part, :],
            wave_number,
            workspace,
        )
        for part in (slice(i, i + size) for i in range(0, p.shape[-2], size))
    ]
    found = parts[0] if len(parts) == 1 else waves.joined(parts)
    by_structure = found.by_structure
    if by_structure is not None and potential.absorption_derivatives is not None:
        # dpsi = -(pi t / K_n) dU'_0 psi: all waves fade alike
        way = task.path * thickness
        fading = -2.0 * math.pi / wave_number * (p * way * found.intensity).sum(-1, keepdim=True)
        by_structure = by_structure + fading * potential.absorption_derivatives
    return SegmentSums(found.intensity, by_structure, found.by_diagonal, found.of_steps)
