"""Work that is shared out to processes."""

from __future__ import annotations

import os
import select
import signal
import time

import pytest
import torch

from dials_hybrid.model.held import Held
from dials_hybrid.model.parallel import in_processes, number_of_processors, processes, share_out

N = 1000


def in_common(*shape):
    """Zeros that processes forked later see too."""
    return Held(shape, torch.device("cpu")).values


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_does_its_part(n):
    values = in_common(n, N)

    def work(number):
        values[number, number::n] = torch.arange(number, N, n, dtype=torch.float64) ** 2

    in_processes(work, n)
    assert torch.equal(values.sum(0), torch.arange(N, dtype=torch.float64) ** 2)


def test_other_processes_do_the_work():
    pids = in_common(3, 1)

    def work(number):
        pids[number] = os.getpid()

    in_processes(work, 3)
    assert pids[0] == os.getpid()
    assert len(set(pids.flatten().tolist())) == 3


def test_a_failure_in_a_worker_is_told():
    def work(number):
        if number == 1:
            raise ValueError("no such beam")

    with pytest.raises(RuntimeError, match="no such beam"):
        in_processes(work, 2)


def test_a_killed_worker_is_told():
    def work(number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="killed"):
        in_processes(work, 2)


def test_workers_do_not_do_what_a_parent_does_when_it_is_stopped():
    before = signal.signal(signal.SIGTERM, lambda *_: None)

    def work(number):
        assert number == 0 or signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    try:
        in_processes(work, 2)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_workers_end_with_a_parent_that_is_killed():
    reader, writer = os.pipe()
    started = in_common(3, 1)

    def work(number):
        started[number] = 1.0
        time.sleep(60.0)

    parent = os.fork()
    if not parent:
        in_processes(work, 3)
    os.close(writer)
    while started.sum() < 3:
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    ended, _, _ = select.select([reader], [], [], 30.0)  # once nobody can write any more
    os.close(reader)
    assert ended


def test_a_parent_with_several_threads_does_not_hang_its_workers():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = in_common(2, 600 * 600)
    try:
        matrix = torch.randn(600, 600, dtype=torch.float64)
        product = matrix @ matrix  # starts the parent's threads

        def work(number):
            found[number] = (matrix @ matrix).flatten()

        in_processes(work, 2)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found.sum(0), 2.0 * product.flatten())


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
