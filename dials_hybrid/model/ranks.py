"""Several processes on several devices or machines for one refinement, as torchrun starts them.

Every rank runs the whole refinement. Only the sums over segments are shared out and then added up over
the ranks, so that all go on with the same numbers; what rank 0 has is what is written.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

_PATIENCE = timedelta(minutes=30)  # the longest that one rank waits for another
_POLL = 2e-4  # [s] between two looks at whether the others have come
_FAILURE = "dials_hybrid.failure"  # in the store that all ranks see: why one of them has ended
_LOST = "a process of this run was lost (killed, out of memory, its machine gone) or the run was stopped"

_store = None


def join(device: str, advice: Callable[[], str] = str) -> None:
    """Become one of the ranks that torchrun has started; without it there is nothing to do.

    Args:
        device: where this rank computes.
        advice: what to do when the run has ended early, for the last sentence.

    Raises:
        ConnectionError: the ranks do not find each other.
    """
    global _store
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or distributed.is_initialized():
        return
    try:
        _store, rank, size = next(iter(rendezvous("env://", timeout=_PATIENCE)))
        cuda = torch.device(device).type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        backend = "nccl" if cuda else "gloo"
        distributed.init_process_group(backend, store=_store, rank=rank, world_size=size, timeout=_PATIENCE)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConnectionError(f"the processes of this run do not find each other: {reason}") from error
    if rank == 0:  # torchrun stops the others when it has lost one
        signal.signal(signal.SIGTERM, lambda *_: end(f"{_LOST}{advice()}"))


def rank() -> int:
    return distributed.get_rank() if _joined() else 0


def n_ranks() -> int:
    return distributed.get_world_size() if _joined() else 1


def add_over_ranks(parts: list[Tensor]) -> list[Tensor]:
    """The sums of these tensors over all ranks, in place; the same bits on each.

    Raises:
        ConnectionError: another rank has ended.
    """
    if n_ranks() > 1:
        _wait_for([lambda part=part: distributed.all_reduce(part, async_op=True) for part in parts])
    return parts


def of_first_rank(x: Tensor) -> Tensor:
    """What rank 0 has for x, on every rank.

    Raises:
        ConnectionError: another rank has ended.
    """
    if n_ranks() > 1:
        x = x.clone()
        _wait_for([lambda: distributed.broadcast(x, src=0, async_op=True)])
    return x


def end(sentence: str, status: int = 1) -> NoReturn:
    """End this process, and the run with one sentence, that of the rank that failed."""
    if n_ranks() == 1 or _store is None:
        if status == 1:
            sys.exit(sentence)
        print(sentence, file=sys.stderr, flush=True)
        sys.exit(status)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if not _store.check([_FAILURE]):
            _store.set(_FAILURE, sentence)
        if rank() == 0:
            sentence = _store.get(_FAILURE).decode()
    except RuntimeError:  # the store has gone with torchrun
        pass
    if rank() == 0:
        print(sentence, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)  # tidying up would wait for ranks that are no more


def leave() -> None:
    """Part from the other ranks when all is done."""
    if _joined():
        distributed.destroy_process_group()


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _wait_for(calls: list[Callable]) -> None:
    """Run collective operations; signals are heard while they wait."""
    try:
        for work in [call() for call in calls]:
            while not work.is_completed():
                time.sleep(_POLL)
            work.wait()
    except RuntimeError as error:
        raise ConnectionError(_LOST) from error
