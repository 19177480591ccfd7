"""Files that are either written completely or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(filename: str | Path) -> Iterator[Path]:
    """Give a temporary path that becomes `filename` when the block ends without an error.

    The temporary file lies in the same folder, with the same ending. On an error it is removed and
    an existing `filename` stays as it was. Those of processes that were killed are removed by the next
    that writes `filename`. Devices and pipes (/dev/null) are written directly.

    Raises:
        OSError: The folder is missing or cannot be written to.

    Example::

        with atomic_write("refined.cif") as path:
            path.write_text(text)
    """
    target = Path(filename).resolve()  # replace what a link points to, not the link
    if target.exists() and not (target.is_file() or target.is_dir()):
        yield target
        return
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    _remove_left(target)
    try:
        temporary.touch()
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:  # the user has never heard of the temporary name
        raise type(error)(error.errno, error.strerror or str(error), str(filename)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_left(target: Path) -> None:
    """Remove temporary files of processes that are no more."""
    before, after = f".{target.stem}.", target.suffix
    for path in target.parent.glob(f"{glob.escape(before)}*{glob.escape(after)}"):
        number = path.name[len(before) : len(path.name) - len(after)]
        if number.isdecimal() and not _runs(int(number)):
            with suppress(OSError):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True
