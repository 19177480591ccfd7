"""What a refinement may use of the machine it runs on, and what it runs with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scipy
import torch

from dials_hybrid import __version__
from dials_hybrid.model.memory import quarter_of_machine
from dials_hybrid.model.parallel import number_of_processors, processes


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: several that wait for each other are slower by far where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device(device: str) -> None:
    """Raise ValueError if PyTorch cannot compute on this device here."""
    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither cpu nor cuda")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device} cannot be used here: {reason}") from error


def of_this_machine(device: str, nproc: int | None, memory: float | None) -> dict:
    """Those `refine.state.Settings` that belong to a machine; None: what there is.

    Args:
        memory: [GiB].
    """
    return {
        "device": device,
        "nproc": processes(nproc or number_of_processors(), device),
        "memory": memory or quarter_of_machine(device),
    }


def versions() -> dict[str, str]:
    """Of this program and what it stands on everywhere."""
    return {
        "dials_hybrid": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
