"""How a program ends: with one sentence and status 1 when it cannot do its work, on all ranks at once."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("dials.hybrid_refine.program")

_INTERRUPTED = 130  # what a shell reports after Ctrl-C
_TICK = 0.02  # [s] by which the times of files may be behind the clock


def is_first_rank() -> bool:
    """Only this process writes; the others that torchrun may have started compute."""
    return int(os.environ.get("WORLD_SIZE", 1)) == 1 or int(os.environ.get("RANK", 0)) == 0


def local_device(device: str) -> str:
    """The device of this rank where `device` leaves a choice of CUDA devices."""
    several = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1
    return f"cuda:{os.environ['LOCAL_RANK']}" if several and device == "cuda" else device


@contextmanager
def one_sentence(name: str, device: str, checkpoint: str | Path | None) -> Iterator[None]:
    """Run what is inside as program `name`, on the device of each rank.

    Args:
        device: where the ranks compute.
        checkpoint: file that an interrupted run may have written.
    """
    from dials_hybrid.model import ranks  # not earlier: torch takes a second

    started = time.time()

    def advice() -> str:
        path = Path(checkpoint or "")
        written = path.is_file() and path.stat().st_mtime >= started - _TICK
        return f"; continue with resume={checkpoint}" if written else ""

    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback a line
    if not is_first_rank():
        logging.disable(logging.CRITICAL)
    try:
        ranks.join(device, advice)
        yield
        ranks.leave()
    except (ChildProcessError, ConnectionError) as error:
        ranks.end(f"{name}: {error}{advice()}")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        ranks.end(f"{name}: there is not enough memory: try a smaller memory= or nproc={advice()}")
    except OSError as error:
        ranks.end(f"{name}: {error.filename or 'a file'}: {error.strerror or error}")
    except ValueError as error:
        logger.debug("", exc_info=True)
        ranks.end(f"{name}: {error}")
    except KeyboardInterrupt:
        ranks.end(f"Interrupted{advice()}", _INTERRUPTED)


def _out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """PyTorch, which is slow to import, has an error of its own on a GPU, and none on a CPU."""
    own = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return own or "can't allocate memory" in str(error)


def check_output(name: str, parameter: str, filename: str) -> None:
    """Stop program `name` before the work if its result cannot be written."""
    target = Path(filename).resolve()
    device = target.exists() and not target.is_file()
    places = [target] if device else [place for place in (target, target.parent) if place.exists()]
    if target.is_dir():
        reason = "it is a folder"
    elif not target.parent.is_dir():
        reason = f"there is no folder {target.parent}"
    elif not all(os.access(place, os.W_OK) for place in places):
        reason = "permission denied"
    else:
        return
    sys.exit(f"{name} cannot write {parameter}={filename}: {reason}")
