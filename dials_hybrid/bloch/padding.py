"""Tensors of unequal sizes side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stacked(parts: Sequence[Tensor], fill: float = 0) -> Tensor:
    """Tensors of the same number of dimensions as one (S, ...), filled up at the end of each dimension."""
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    out = parts[0].new_full((len(parts), *shape), fill)
    for row, part in zip(out, parts, strict=True):
        row[tuple(map(slice, part.shape))] = part
    return out


def stacked_with_last(parts: Sequence[Tensor]) -> Tensor:
    """Vectors as one matrix (S, n), filled up with the last number of each."""
    n = max(map(len, parts))
    return torch.stack([torch.cat([part, part[-1:].expand(n - len(part))]) for part in parts])
