"""Runs cases in child processes with little memory and little time, and says how each ended."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import resource
import select
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fuzz.targets import Target

MEMORY = 2 * 1024**3  # [byte] more than before
SECONDS = 20.0  # a case
GOOD = ("read", "refused")
_LONGEST = 700  # characters of a sentence


@dataclass(frozen=True)
class Ending:
    """How a case ended."""

    target: str
    number: int
    outcome: str  # "read", "refused"; "exception", "crash", "hang", "memory", "talk" are faults
    what: str


def run(target: Target, numbers: Iterable[int], folder: Path, seconds: float = SECONDS) -> Iterator[Ending]:
    """Run these cases in a folder with the sound files; a child that dies is replaced."""
    waiting = list(numbers)
    while waiting:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _serve(target, waiting, folder, writer)
        os.close(writer)
        done, fault = yield from _listen(target, reader, seconds)
        os.close(reader)
        if fault == "hang":
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if done < len(waiting):
            what = f"over {seconds:g} s" if fault == "hang" else f"status {status}"
            yield Ending(target.name, waiting[done], fault or "crash", what)
        waiting = waiting[done + 1 :]


def _listen(target: Target, reader: int, seconds: float) -> Iterator[Ending]:
    """Pass on what the child says; returns how many cases it has finished and whether it hangs."""
    done, text = 0, b""
    while True:
        ready, _, _ = select.select([reader], [], [], seconds)
        if not ready:
            return done, "hang"
        part = os.read(reader, 65536)
        if not part:
            return done, None
        *lines, text = (text + part).split(b"\n")
        for line in lines:
            number, outcome, what = line.decode(errors="replace").split("\t", 2)
            yield Ending(target.name, int(number), outcome, what)
            done += 1


def _serve(target: Target, numbers: list[int], folder: Path, writer: int) -> None:
    """The child: never returns."""
    os.chdir(folder)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(devnull, stream)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        Path(target.filename).write_bytes(target.case(number))
        outcome, what = _ended(target.command)
        line = f"{number}\t{outcome}\t{' '.join(what.split())}\n"
        os.write(writer, line.encode(errors="replace"))
    os._exit(0)


def _ended(command: Callable[[], None]) -> tuple[str, str]:
    """Outcome and what was said."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            command()
    except SystemExit as end:
        return _judged(end)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "exception", f"{type(error).__name__} {error} ({place.filename}:{place.lineno})"
    return "read", ""


def _judged(end: SystemExit) -> tuple[str, str]:
    sentence, error = end.code, end
    while error is not None:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error):
            return "memory", str(sentence)
        error = error.__cause__ or error.__context__
    good = isinstance(sentence, str) and "\n" not in sentence and len(sentence) < _LONGEST
    return "refused" if good and "Traceback" not in sentence else "talk", str(sentence)
