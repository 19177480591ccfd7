r"""The structure matrix A of a segment.

    A_gg = 2 K S_g M_g^2,     A_gh = U_{g-h} M_g M_h,     M_g = 1 / sqrt(1 + g.n / K_n)

The factors M_g keep A Hermitian when g has a component along the surface normal n. They are taken at
the middle of the segment; with n along the beam they differ from 1 by |g|^2 / (4 K^2) < 1e-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dials_hybrid.bloch.padding import stacked


class MatrixDerivatives(Protocol):
    """Derivatives (..., P, N, N) of A that are made when they are asked for."""

    def __len__(self) -> int:
        """P."""

    def __getitem__(self, part: slice) -> Tensor:
        """Those by some of the parameters."""

    def contracted(self, g: Tensor) -> Tensor:
        """2 Re sum_gh G_mgh dA_gh (..., m, P) for G (..., m, N, N)."""


@dataclass(frozen=True)
class Pairs:
    """Where U of the differences of beams stands in a difference table: `index` at rows_i + columns_j.

    The positions are made when they are asked for: those of all segments of a scan would be gigabytes.
    """

    rows: Tensor  # (..., N)
    columns: Tensor  # (..., N')
    index: Tensor  # (box) of the table

    @classmethod
    def stacked(cls, parts: Sequence[Pairs]) -> Pairs:
        """Those of several sets of beams in one table, filled up with the incident beam."""
        index = parts[0].index
        rows = stacked([part.rows for part in parts], len(index) // 2)
        return cls(rows, stacked([part.columns for part in parts]), index)

    @property
    def opposite(self) -> Pairs:
        """Those of h - g."""
        return Pairs(len(self.index) // 2 * 2 - self.rows, -self.columns, self.index)

    @property
    def positions(self) -> Tensor:
        """(..., N, N')."""
        return looked_up(self.index, self.rows[..., None] + self.columns[..., None, :])


@dataclass(frozen=True)
class DifferenceTable:
    """Numbers the vectors g - h of all pairs of beams, so that U can be looked up.

    A vector stands in a box at a place that is linear in its indices, with 000 in the middle.
    """

    hkl: Tensor  # (D, 3)
    index: Tensor  # (box) position in `hkl`
    strides: Tensor  # (3,) in the box

    @classmethod
    def of_beams(cls, beam_sets: list[Tensor], weak_sets: Sequence[Tensor] = ()) -> DifferenceTable:
        """The table of all differences within each set of Miller indices (N, 3).

        Of `weak_sets` (W, 3), one for each of the others, it has those between the two, either way.
        """
        limit = 2 * torch.stack([hkl.abs().amax(0) for hkl in [*beam_sets, *weak_sets] if len(hkl)]).amax(0)
        shape = (2 * limit + 1).tolist()
        strides = limit.new_tensor([shape[1] * shape[2], shape[2], 1])
        box = cls(limit[:0], limit.new_zeros(shape).flatten(), strides)
        wanted = torch.zeros_like(box.index, dtype=torch.bool)
        weak_sets = weak_sets or [hkl[:0] for hkl in beam_sets]
        for hkl, weak in zip(beam_sets, weak_sets, strict=True):
            there = [box.pairs(weak, hkl)] if len(weak) else []
            for pairs in (box.pairs(hkl, hkl), *there, *(each.opposite for each in there)):
                wanted.index_fill_(0, (pairs.rows[:, None] + pairs.columns).flatten(), True)
        index = torch.full_like(box.index, -1)
        index[wanted] = torch.arange(int(wanted.sum()), device=limit.device)
        return cls(wanted.reshape(shape).nonzero() - limit, index, strides)

    def pairs(self, g: Tensor, h: Tensor) -> Pairs:
        """Of g - h, for Miller indices g (N, 3) of the rows and h (N', 3) of the columns."""
        columns = (h * self.strides).sum(-1)
        rows = columns if g is h else (g * self.strides).sum(-1)
        return Pairs(rows + len(self.index) // 2, -columns, self.index)


def symmetrisation(r: Tensor, normal: Tensor, k_n: float) -> Tensor:
    """M_g (N,) for reciprocal-lattice vectors r (N, 3), the unit vector n (3,) and K_n = K.n [1/A]."""
    return 1.0 / torch.sqrt(1.0 + (r @ normal) / k_n)


def looked_up(u: Tensor, positions: Tensor) -> Tensor:
    """u (D,) or (P, D) at positions (..., N, N'), shape (..., N, N') or (..., P, N, N').

    Several times as fast as indexing; of many u that are looked up together the last index runs slowest.
    """
    if u.dim() == 1:
        return u.index_select(0, positions.flatten()).view(positions.shape)
    found = u.mT.contiguous().index_select(0, positions.flatten())
    return found.view(*positions.shape, -1).movedim(-1, -3)


def coupling(u: Tensor, pairs: Tensor, m: Tensor) -> Tensor:
    """Off-diagonal part of A [1/A^2], of the shape of `looked_up`, zero on the diagonal.

    U_0 only shifts the phase of all beams alike and is part of the wave number.

    Args:
        u: U_g of the difference table (D,), or so many of them (P, D) [1/A^2].
        pairs: positions of g - h in that table (..., N, N).
        m: M_g (..., N).
    """
    both = m[..., :, None] * m[..., None, :]
    a = looked_up(u, pairs) * (both if u.dim() == 1 else both.unsqueeze(-3))
    torch.diagonal(a, dim1=-2, dim2=-1).zero_()
    return a
