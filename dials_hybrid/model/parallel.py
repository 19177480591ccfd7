"""Several processes for one sum.

Threads do not help: segments are so small that Python's lock is always wanted. Processes are forked
for each sum, so they see all that the parent has without sending it, and leave their share in memory
that both have.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable

import torch


def in_processes(work: Callable[[int], None], n: int) -> None:
    """Call work(0) .. work(n - 1), one process each, number 0 here.

    Raises:
        ChildProcessError: a process was killed.
        RuntimeError: a process failed.
    """
    if n == 1:
        return work(0)
    context = multiprocessing.get_context("fork")
    workers = []
    for number in range(1, n):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, number, sender), daemon=True)
        process.start()
        sender.close()
        workers.append((process, receiver))
    try:
        work(0)
        for _, receiver in workers:
            _wait_for(receiver)
    finally:
        for process, receiver in workers:
            receiver.close()
            if process.is_alive():
                process.terminate()
            process.join()


def processes(wanted: int, device: str) -> int:
    """How many processes can share the work: 1 on a GPU and where there is no fork."""
    forks = "fork" in multiprocessing.get_all_start_methods()
    return wanted if forks and torch.device(device).type == "cpu" else 1


def number_of_processors() -> int:
    """Those that this process may run on, shared with the other ranks of this machine."""
    try:
        n = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        n = os.cpu_count() or 1
    return max(1, n // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def share_out(costs: list[float], n: int) -> list[list[int]]:
    """Positions of the tasks for each of n workers: the longest task first, to whom has least so far."""
    shares: list[tuple[float, int, list[int]]] = [(0.0, worker, []) for worker in range(n)]
    for task in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):
        load, worker, tasks = heapq.heappop(shares)
        tasks.append(task)
        heapq.heappush(shares, (load + costs[task], worker, tasks))
    return [sorted(tasks) for _, _, tasks in sorted(shares, key=lambda share: share[1])]


def _work(work, number: int, sender) -> None:
    # What a parent does when it is stopped is not for its workers to do.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # More threads would wait for ever for those that the parent has and a fork has not.
    torch.set_num_threads(1)
    try:
        work(number)
        sender.send("")
    except BaseException:
        sender.send(traceback.format_exc())


def _end_with_the_parent() -> None:
    """Nobody waits for the share of a worker whose parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _wait_for(receiver) -> None:
    try:
        failure = receiver.recv()
    except EOFError as error:
        raise ChildProcessError(
            "a worker process was killed: if memory was short, try a smaller memory= or nproc="
        ) from error
    if failure:
        raise RuntimeError(f"a worker process failed:\n{failure}")
