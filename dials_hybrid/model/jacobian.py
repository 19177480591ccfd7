"""The derivatives of all calculated intensities, of which a few rows at a time are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.model.held import Held


@dataclass(frozen=True)
class Jacobian:
    """A matrix J (M, P) whose columns come in blocks C_b, and are zero elsewhere.

    J_mp = f_m C_bmp: what a block holds may be in a file, and serve several J.
    """

    shape: tuple[int, int]
    blocks: tuple[tuple[slice, Tensor, Tensor | Held], ...]  # columns, f (M,) and C (M, columns)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(len(self))
        result = self.blocks[0][1].new_zeros(stop - start, self.shape[1])
        for columns, factor, values in self.blocks:
            torch.mul(factor[rows, None], values[rows], out=result[:, columns])
        return result

    def weighted(self, weight: Tensor) -> Jacobian:
        """The same with row m times weight (M,)."""
        blocks = ((columns, weight * factor, values) for columns, factor, values in self.blocks)
        return replace(self, blocks=tuple(blocks))
