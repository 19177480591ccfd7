"""Files that are either written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(filename: str | Path) -> Iterator[Path]:
    """Give a temporary path that becomes `filename` when the block ends without an error.

    The temporary file lies in the same folder, with the same ending. On an error it is removed and
    an existing `filename` stays as it was. Devices and pipes (/dev/null) are written directly.

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
