"""Matrices of sums that several processes add to: in memory, or in a file where memory is short."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

from dials_hybrid.model.ranks import add_over_ranks, n_ranks

_DOUBLE = 8  # bytes
_BLOCK = 2**20  # numbers that are read or sent at once
_GIB = 2**30


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of so many rows that a block of a matrix (rows, columns) takes little memory."""
    size = max(1, _BLOCK // max(1, columns))
    return (slice(i, min(i + size, rows)) for i in range(0, rows, size))


class Held:
    """A matrix (M, P) in double precision, at first of zeros, read by slices of rows.

    On a CPU, processes forked later add to the same numbers. What is in a file does not stay in memory.

    Args:
        shape: M and P.
        device: where the numbers are wanted.
        in_file: whether they are kept in a temporary file.

    Raises:
        ValueError: there is no room for that file.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device, in_file: bool = False):
        self.shape, self.device = shape, device
        self._file, self._used = None, 0
        size = shape[0] * shape[1]
        if not size or (device.type != "cpu" and not in_file):
            self.values = torch.zeros(shape, dtype=torch.float64, device=device)
        else:
            memory = _of_file(_DOUBLE * size) if in_file else mmap.mmap(-1, _DOUBLE * size)
            self._file = memory if in_file else None
            self.values = torch.frombuffer(memory, dtype=torch.float64).view(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        """Some rows, which are not to be changed."""
        part = self.values[rows]
        if self._file is None:
            return part
        part = part.to(self.device, copy=True)
        self._let_go(part.numel())
        return part

    def add(self, rows: Tensor, part: Tensor) -> None:
        """Add `part` (m, P) to these rows (m,), some of which may be named several times."""
        where = (rows.to(self.values.device),)
        self.values.index_put_(where, part.to(self.values), accumulate=True)  # on a GPU in a fixed order
        self._let_go(part.numel())

    def another(self) -> Held:
        """One more matrix of zeros of this kind."""
        return Held(self.shape, self.device, self._file is not None)

    def add_all(self, others: list[Held]) -> None:
        """Add other matrices, then those that other ranks have."""
        for rows in row_blocks(*self.shape):
            for other in others:
                self.values[rows] += other[rows].to(self.values)
            if n_ranks() > 1:
                self.values[rows] = add_over_ranks([self[rows].contiguous()])[0].to(self.values)
            self._let_go(_BLOCK)

    def _let_go(self, numbers: int) -> None:
        """Leave what has been used to the file: else it would count as memory of this process."""
        self._used += numbers
        if self._file is not None and self._used >= _BLOCK:
            self._file.madvise(mmap.MADV_DONTNEED)
            self._used = 0


def _of_file(size: int) -> mmap.mmap:
    """So many bytes of a file that is gone with the last process that uses it."""
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk would end the program later
            file.truncate(size)
        except OSError as error:
            raise ValueError(
                f"the derivatives take {size / _GIB:.2g} GiB, for which neither memory= nor "
                f"{tempfile.gettempdir()} has room: raise memory=, or let TMPDIR name a folder on a larger "
                "disk"
            ) from error
        return mmap.mmap(file.fileno(), size)
