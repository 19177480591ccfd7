"""Matrices in memory and in files."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from dials_hybrid.model import held
from dials_hybrid.model.held import Held, row_blocks
from dials_hybrid.model.parallel import in_processes

CPU = torch.device("cpu")
ROWS = torch.tensor([4, 0, 7])


@pytest.fixture(params=[False, True], ids=["memory", "file"])
def in_file(request):
    return request.param


@pytest.mark.parametrize("shape", [(1, 1), (1000, 7), (10, 3_000_000), (5, 0), (0, 5)])
def test_blocks_are_all_rows_and_small(shape):
    blocks = list(row_blocks(*shape))
    rows = [row for block in blocks for row in range(*block.indices(shape[0]))]
    assert rows == list(range(shape[0]))
    assert all(
        (block.stop - block.start) * shape[1] <= 2**20 or block.stop - block.start == 1 for block in blocks
    )


def test_what_is_added_is_found(in_file):
    matrix, expected = Held((9, 1000), CPU, in_file), torch.zeros(9, 1000, dtype=torch.float64)
    for seed in range(3):
        part = torch.randn(3, 1000, generator=torch.Generator().manual_seed(seed))
        matrix.add(ROWS, part)
        expected[ROWS] += part
    assert torch.equal(matrix[:], expected)
    assert torch.equal(matrix[2:5], expected[2:5])


def test_a_row_may_be_named_several_times(in_file):
    matrix = Held((9, 2), CPU, in_file)
    matrix.add(torch.tensor([4, 0, 4]), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert matrix[4:5].tolist() == [[6.0, 8.0]]
    assert matrix[:].sum() == 21.0


def test_what_left_memory_is_found_again(in_file, monkeypatch):
    monkeypatch.setattr(held, "_BLOCK", 1)
    matrix = Held((9, 1000), CPU, in_file)
    for _ in range(3):
        matrix.add(ROWS, torch.ones(3, 1000))
    assert matrix[:].sum() == 9000.0
    assert (matrix[4:5] == 3.0).all()


def test_processes_have_one_each_and_these_are_added_up(in_file):
    first = Held((9, 100), CPU, in_file)
    others = [first.another(), first.another()]

    def work(number):
        [first, *others][number].add(ROWS[:2] + number, torch.full((2, 100), 10.0**number))

    in_processes(work, 3)
    first.add_all(others)
    expected = torch.tensor([1.0, 10.0, 100.0, 0.0, 1.0, 10.0, 100.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(first[:], expected[:, None].expand(9, 100))


def test_a_disk_without_room_is_named(monkeypatch):
    """At once, not where the file is written to."""

    def full(file, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match="TMPDIR"):
        Held((1000, 1000), CPU, in_file=True)
    Held((1000, 1000), CPU)
