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


class MatrixDerivatives(Protocol):
    """Derivatives (P, N, N) of A that are made when they are asked for."""

    def __len__(self) -> int:
        """P."""

    def __getitem__(self, part: slice) -> Tensor:
        """Those by some of the parameters."""

    def contracted(self, g: Tensor) -> Tensor:
        """2 Re sum_gh G_mgh dA_gh (m, P) for G (m, N, N)."""


@dataclass(frozen=True)
class DifferenceTable:
    """Numbers the vectors g - h of all pairs of beams, so that U can be looked up."""

    hkl: Tensor  # (D, 3)
    index: Tensor  # (box) position in `hkl`
    limit: Tensor  # (3,) half widths of the box

    @classmethod
    def of_beams(cls, beam_sets: list[Tensor], weak_sets: Sequence[Tensor] = ()) -> DifferenceTable:
        """The table of all differences within each set of Miller indices (N, 3).

        Of `weak_sets` (W, 3), one for each of the others, it has those between the two, either way.
        """
        limit = 2 * torch.stack([hkl.abs().amax(0) for hkl in [*beam_sets, *weak_sets] if len(hkl)]).amax(0)
        shape = (2 * limit + 1).tolist()
        wanted = torch.zeros(shape, dtype=torch.bool, device=limit.device).flatten()
        for hkl in beam_sets:
            wanted[_flat_index(hkl[:, None] - hkl[None, :], limit).flatten()] = True
        for hkl, weak in zip(beam_sets, weak_sets, strict=False):
            between = hkl[:, None] - weak[None, :]
            for difference in (between, -between):
                wanted[_flat_index(difference, limit).flatten()] = True
        index = torch.full_like(wanted, -1, dtype=torch.long)
        index[wanted] = torch.arange(int(wanted.sum()), device=limit.device)
        hkl = wanted.reshape(shape).nonzero() - limit
        return cls(hkl=hkl, index=index, limit=limit)

    def of_pairs(self, g: Tensor, h: Tensor | None = None) -> Tensor:
        """Positions (N, N') of g - h: beams g (N, 3) of the rows, h (N', 3) or g again of the columns."""
        h = g if h is None else h
        return self.index[_flat_index(g[:, None] - h[None, :], self.limit)]


def _flat_index(hkl: Tensor, limit: Tensor) -> Tensor:
    i, j, k = (hkl + limit).unbind(-1)
    width = 2 * limit + 1
    return (i * width[1] + j) * width[2] + k


def symmetrisation(r: Tensor, normal: Tensor, k_n: float) -> Tensor:
    """M_g (N,) for reciprocal-lattice vectors r (N, 3), the unit vector n (3,) and K_n = K.n [1/A]."""
    return 1.0 / torch.sqrt(1.0 + (r @ normal) / k_n)


def coupling(u: Tensor, pairs: Tensor, m: Tensor) -> Tensor:
    """Off-diagonal part of A (..., N, N) [1/A^2], zero on the diagonal.

    U_0 only shifts the phase of all beams alike and is part of the wave number.

    Args:
        u: U_g of the difference table (..., D) [1/A^2].
        pairs: positions of g - h in that table (N, N).
        m: M_g (N,).
    """
    a = u[..., pairs] * (m[:, None] * m[None, :])
    return a - torch.diag_embed(torch.diagonal(a, dim1=-2, dim2=-1))
