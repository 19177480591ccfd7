"""The free set: reflections held out of every fit, all symmetry equivalents together."""

from __future__ import annotations

import torch
from torch import Tensor


def unique_reflections(hkl: Tensor, rotations: Tensor) -> Tensor:
    """Number of the unique reflection (M,) that each of hkl (M, 3) belongs to, Friedel mates merged.

    Args:
        rotations: of the space group, acting on fractional coordinates (S, 3, 3).
    """
    h = hkl.to(rotations.dtype)
    equivalents = torch.einsum("mi,sij->msj", h, rotations).round().long()
    equivalents = torch.cat([equivalents, -equivalents], dim=1)
    span = 2 * int(equivalents.abs().max()) + 1
    key = (equivalents[..., 0] * span + equivalents[..., 1]) * span + equivalents[..., 2]
    _, group = torch.unique(key.amax(1), return_inverse=True)
    return group


def choose_free(hkl: Tensor, rotations: Tensor, fraction: float, seed: int) -> Tensor:
    """(M,) bool: `fraction` of the unique reflections of hkl (M, 3), drawn with `seed`.

    Which reflections are drawn depends on the Miller indices alone, not on their order in the table.
    """
    group = unique_reflections(hkl, rotations)
    n_groups = int(group.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(n_groups, generator=generator)[: round(fraction * n_groups)]
    free = torch.zeros(n_groups, dtype=torch.bool)
    free[drawn] = True
    return free.to(group.device)[group]
