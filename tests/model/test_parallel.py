"""Sums of shares over processes."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from dials_hybrid.model.parallel import number_of_processors, processes, share_out, sum_of_shares

N = 1000


def share_of(n):
    """Squares of rank, rank + n, rank + 2 n ... below N, each at its place, and their sum."""

    def share(rank):
        values = torch.zeros(N, dtype=torch.float64)
        values[rank::n] = torch.arange(rank, N, n, dtype=torch.float64) ** 2
        return [values, values.sum()[None]]

    return share


@pytest.mark.parametrize("n", [1, 2, 3])
def test_shares_add_up(n):
    values, total = sum_of_shares(share_of(n), n)
    assert torch.equal(values, torch.arange(N, dtype=torch.float64) ** 2)
    assert total.item() == (N - 1) * N * (2 * N - 1) / 6


def test_shares_are_worked_on_in_other_processes():
    (pids,) = sum_of_shares(lambda rank: [torch.eye(3, dtype=torch.float64)[rank] * os.getpid()], 3)
    assert len(set(pids.tolist())) == 3


def test_a_failure_in_a_worker_is_told():
    def share(rank):
        if rank == 1:
            raise ValueError("no such beam")
        return [torch.zeros(1)]

    with pytest.raises(RuntimeError, match="no such beam"):
        sum_of_shares(share, 2)


def test_a_killed_worker_is_told():
    def share(rank):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return [torch.zeros(1)]

    with pytest.raises(ChildProcessError, match="killed"):
        sum_of_shares(share, 2)


def test_a_parent_with_several_threads_does_not_hang_its_workers():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        matrix = torch.randn(600, 600, dtype=torch.float64)
        product = matrix @ matrix  # starts the parent's threads
        (total,) = sum_of_shares(lambda rank: [matrix @ matrix], 2)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(total, 2.0 * product)


def test_one_process_on_a_gpu():
    assert processes(4, "cpu") == 4
    assert processes(4, "cuda:0") == 1
    assert 1 <= number_of_processors() <= os.cpu_count()


def test_tasks_are_shared_out_by_cost():
    generator = torch.Generator().manual_seed(0)
    costs = (torch.rand(200, generator=generator) ** 4 + 0.01).tolist()
    shares = share_out(costs, 7)
    assert sorted(task for share in shares for task in share) == list(range(200))
    loads = [sum(costs[task] for task in share) for share in shares]
    assert max(loads) < 1.01 * sum(costs) / 7
    by_stride = [sum(costs[rank::7]) for rank in range(7)]
    assert max(by_stride) > 1.1 * sum(costs) / 7


def test_more_workers_than_tasks():
    assert sorted(share_out([3.0, 1.0], 4)) == [[], [], [0], [1]]


def test_ranks_of_a_machine_share_its_processors(monkeypatch):
    n = number_of_processors()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert number_of_processors() == max(1, n // 2)
