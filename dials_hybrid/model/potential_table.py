"""Derivatives of U_g by the structure, for as many segments at once as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from dials_hybrid.bloch.propagate import Potential, SegmentTask

PotentialAt = Callable[[Tensor], Potential]  # of Miller indices (G, 3)

_CHUNK = 2**20  # derivatives that are made at once, in double precision


def tabulated(potential_at: PotentialAt, hkl: Tensor, dtype: torch.dtype) -> tuple[Potential, Potential]:
    """U_g at Miller indices (G, 3) as it is, and with its derivatives in this floating-point precision."""
    first = potential_at(hkl[:1])
    if first.derivatives is None:
        bare = potential_at(hkl)
        return bare, bare.to(dtype)
    kind = dtype.to_complex() if first.derivatives.is_complex() else dtype
    u = first.u.new_empty(len(hkl))
    # those of one U_g side by side: they are looked up together
    derivatives = torch.empty(len(hkl), len(first.derivatives), dtype=kind, device=hkl.device).mT
    size = max(1, _CHUNK // max(1, len(derivatives)))
    for part in (slice(i, i + size) for i in range(0, len(hkl), size)):
        found = potential_at(hkl[part])
        assert found.derivatives is not None
        u[part], derivatives[:, part] = found.u, found.derivatives
    bare = Potential(u, absorption=first.absorption)
    of_absorption = replace(first, u=u, derivatives=None).to(dtype)
    return bare, replace(of_absorption, derivatives=derivatives)


def tabulation_seconds(n_entries: int, n_parameters: int, n_atoms: int, n_operations: int) -> float:
    """What `tabulated` may take for so many Miller indices on one thread of a CPU [s]."""
    terms, product = n_atoms * n_operations, n_parameters * 11 * n_atoms
    return 1e-6 * n_entries * (0.17 * terms + 2.2e-4 * product)


def groups(tasks: list[SegmentTask], size: int, most: int) -> Iterator[tuple[Tensor, list[SegmentTask]]]:
    """Consecutive tasks that together need `most` entries of the table of `size`, or single ones.

    Gives the entries they need, and the tasks with positions among these.
    """
    start = 0
    while start < len(tasks):
        needed, stop = _needed(tasks[start], size), start + 1
        while stop < len(tasks):
            more = needed | _needed(tasks[stop], size)
            if int(more.sum()) > most:
                break
            needed, stop = more, stop + 1
        entries = needed.nonzero().flatten()
        place = torch.full((size + 1,), -1, device=entries.device)  # the last is for what no table has
        place[entries] = torch.arange(len(entries), device=entries.device)
        index = place[tasks[start].pairs.index]
        yield entries, [task.with_index(index) for task in tasks[start:stop]]
        start = stop


def n_needed(task: SegmentTask, size: int) -> int:
    """Entries of the table that a task needs."""
    return int(_needed(task, size).sum())


def _needed(task: SegmentTask, size: int) -> Tensor:
    """(size,) bool."""
    needed = torch.zeros(size, dtype=torch.bool, device=task.rows.device)
    for positions in task.positions():
        needed[positions.flatten()] = True
    return needed
