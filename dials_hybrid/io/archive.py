"""Arrays and a JSON header in one .npz file: nothing in it is executed, and its sizes are checked first."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np

from dials_hybrid.io.atomic import atomic_write

_HEADER = "header"  # the entry with the JSON text, as bytes
_NAMES = "arrays"  # the names of the others, in the text
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def write_archive(filename: str | Path, header: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write both, completely or not at all; `numpy.load` can read the file.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps({**header, _NAMES: list(arrays)})
    entry = np.frombuffer(text.encode(), dtype=np.uint8)
    with atomic_write(filename) as path, open(path, "wb") as stream:
        np.savez(stream, **{_HEADER: entry}, **arrays)


def read_archive(filename: str | Path, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Header and arrays of a file that `write_archive` wrote with `header["format"] == kind`.

    Raises:
        ValueError: the file is missing, damaged or another kind of file.
    """
    path = Path(filename)
    try:
        with open(path, "rb") as stream:
            arrays = _arrays(stream, path.stat().st_size)
            header = json.loads(arrays.pop(_HEADER).tobytes())
            if header["format"] != kind or header.pop(_NAMES) != list(arrays):
                raise ValueError("another format, or entries have been lost")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except _DAMAGE as error:
        raise damaged(path, kind) from error
    return header, arrays


def damaged(filename: str | Path, kind: str) -> ValueError:
    """What is wrong with a file that cannot be understood."""
    return ValueError(f"{filename} is damaged, or not a {kind}")


def _arrays(stream, size: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        # Uncompressed entries cannot be larger than the file that holds them.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("claims more than there is")
        return {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in entries}


def _array(content: bytes) -> np.ndarray:
    """The array of an .npy file; zipfile has compared its checksum."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of .npy")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    values = memoryview(content)[stream.tell() :]
    if dtype.kind not in "biuf" or min(shape, default=0) < 0:
        raise ValueError("no numbers")
    if math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError("another size than its shape says")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C").copy()
