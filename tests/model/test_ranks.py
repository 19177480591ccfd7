"""Sums over ranks: alone there is nothing to do, and two processes end with the same bits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from dials_hybrid.model import ranks

SCRIPT = """
import torch
from dials_hybrid.model import ranks
ranks.join("cpu")
own = torch.full((3,), 0.1 + ranks.rank(), dtype=torch.float64)
(total,) = ranks.add_over_ranks([own.clone()])
print(ranks.rank(), ranks.n_ranks(), total.tolist(), ranks.of_first_rank(own).tolist(), own.tolist())
if FAIL and ranks.rank() == 1:
    ranks.end("a sentence of the second rank")
ranks.add_over_ranks([own])
ranks.leave()
"""


def two_ranks(fail: bool) -> list[tuple[int, str, str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        own = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        environment = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", f"FAIL = {fail}\n{SCRIPT}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    found = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=100)
        found.append((process.returncode, stdout, stderr))
    return found


def test_alone():
    x = torch.arange(3.0)
    assert (ranks.rank(), ranks.n_ranks()) == (0, 1)
    assert ranks.add_over_ranks([x])[0] is x
    assert ranks.of_first_rank(x) is x
    ranks.join("cpu")  # nothing to join
    ranks.leave()
    with pytest.raises(SystemExit, match="a sentence"):
        ranks.end("a sentence")


def test_two_add_up_and_share_what_the_first_has():
    first, second = two_ranks(fail=False)
    assert (first[0], second[0]) == (0, 0), (first, second)
    total, of_first = [0.1 + 1.1] * 3, [0.1] * 3
    assert first[1].strip() == f"0 2 {total} {of_first} {[0.1] * 3}"
    assert second[1].strip() == f"1 2 {total} {of_first} {[1.1] * 3}"


def test_two_end_together():
    for status, _, _ in two_ranks(fail=True):
        assert status == 1
