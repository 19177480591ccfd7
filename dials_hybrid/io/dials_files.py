"""Experiment lists and reflection tables from files, which are checked before DIALS reads them.

DIALS unpickles what it cannot read otherwise, which executes what the file says; allocates as much memory as
a file claims to need; and follows the memory addresses that a column of strings holds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dials.array_family import flex
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

_MOST_IMAGES = 10**6  # of a scan
_MAGIC = "dials::af::reflection_table"
# Bytes of a number. Shoeboxes and strings are left out: nothing here needs them.
_SIZES = {
    "bool": 1,
    "int": 4,
    "std::size_t": 8,
    "double": 8,
    "vec2<double>": 16,
    "vec3<double>": 24,
    "mat3<double>": 72,
    "int6": 24,
    "cctbx::miller::index<>": 12,
}
_ROCKING_CURVES = "FrameSlicedShoebox<>"  # of a length of their own; DIALS 3.30 and later know them
# DIALS takes these types for granted as soon as it looks at a table.
_TYPES = {"id": "int", "flags": "std::size_t", "miller_index": "cctbx::miller::index<>"}
_LONGEST = 300  # characters of a reason


def read_experiments(filename: str | Path) -> ExperimentList:
    """The experiments of a .expt file; no image is opened.

    Raises:
        ValueError: it cannot be read; the message names it.
    """
    path = Path(filename).resolve()
    try:
        content = json.loads(path.read_bytes())
        _check_scans(content)
        return ExperimentListFactory.from_dict(content, check_format=False, directory=str(path.parent))
    except OSError as error:
        raise ValueError(f"cannot read experiments from {filename}: {error.strerror or error}") from error
    except Exception as error:  # of many kinds where the content is not what dxtbx expects
        raise ValueError(f"cannot read experiments from {filename}: {_reason(error)}") from error


def _check_scans(content: dict) -> None:
    for scan in content.get("scan", []):
        first, last = scan.get("image_range", (1, 1))
        if not 0 <= last - first < _MOST_IMAGES:
            raise ValueError(f"a scan of images {first} to {last}")
    if any(isinstance(experiment.get("scan"), str) for experiment in content.get("experiment", [])):
        raise ValueError("its scan is in another file")


def _reason(error: Exception) -> str:
    """One line; Boost lists all signatures that it tried."""
    text = " ".join(str(error).split()).partition(" did not match C++")[0]
    if isinstance(error, (RecursionError, json.JSONDecodeError, UnicodeDecodeError)):
        text = f"it is no JSON text ({text})"
    elif not isinstance(error, ValueError):
        text = f"it is damaged, or no experiment list ({type(error).__name__} {text})"
    return text[:_LONGEST]


def read_table(filename: str | Path) -> flex.reflection_table:
    """The reflections of a .refl file, shoeboxes and columns of strings left out.

    Raises:
        ValueError: it cannot be read; the message names it.
    """
    try:
        content = Path(filename).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read reflections from {filename}: {error.strerror}") from error
    if content[:1] not in (b"\x93", b"\xdc", b"\xdd"):  # an array of MessagePack
        raise ValueError(
            f"{filename} is not a reflection table of DIALS; pickled ones, of old versions, are refused "
            "because they can execute anything: process the data again"
        )
    try:
        return flex.reflection_table.from_msgpack(_numbers_only(memoryview(content)))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, struct.error) as error:
        raise ValueError(
            f"{filename} is damaged, or not a reflection table ({str(error)[:_LONGEST]})"
        ) from error


@contextmanager
def checked_readers() -> Iterator[None]:
    """While this lasts, DIALS's own argument parser reads files with the functions above."""
    places = (
        (flex.reflection_table, "from_file", read_table),
        (ExperimentListFactory, "from_json_file", lambda name, check_format=True: read_experiments(name)),
    )
    before = [vars(owner)[name] for owner, name, _ in places]
    try:
        for owner, name, function in places:
            setattr(owner, name, staticmethod(function))
        yield
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)


# MessagePack ------------------------------------------------------------------------------------


def _numbers_only(content: memoryview) -> bytes:
    """The same table with the columns of numbers alone, every size compared with what is there.

        [_MAGIC, version, {"identifiers": {id: name}, "nrows": n, "data": {column: [type, [n, bytes]]}}]

    Raises:
        ValueError: it is not that.
    """
    reader = _Reader(content)
    if reader.count("array") != 3 or reader.text() != _MAGIC:
        raise ValueError("another format")
    version, identifiers, n_rows, columns = reader.integer(), memoryview(b"\x80"), None, {}
    for _ in range(reader.count("map")):
        key = reader.text()
        start = reader.at
        if key == "identifiers":
            for _ in range(reader.count("map")):
                reader.integer(), reader.text()
            identifiers = content[start : reader.at]
        elif key == "nrows":
            n_rows = reader.integer()
        elif key == "data":
            columns = dict(reader.column() for _ in range(reader.count("map")))
        else:
            raise ValueError(f"unknown entry {key[:40]!r}")
    if reader.at != len(content):
        raise ValueError("something follows its end")
    known = {*_SIZES, _ROCKING_CURVES} if hasattr(flex, "frame_sliced_shoebox") else {*_SIZES}
    kept = {name: column for name, column in columns.items() if column[0] in known}
    for name, kind in _TYPES.items():
        if name in columns and columns[name][0] != kind:
            raise ValueError(f"column {name} does not hold {kind}")
    for name, (kind, n, values, _) in kept.items():
        size = n * _SIZES[kind] if kind in _SIZES else len(values)
        if n != n_rows or len(values) != size or (kind == "bool" and max(values, default=0) > 1):
            raise ValueError(f"column {name[:40]!r} has another size than it should have")
    parts = [b"\x93", _text(_MAGIC), _integer(version), b"\x83", _text("identifiers"), identifiers]
    parts += [_text("nrows"), _integer(n_rows), _text("data"), struct.pack(">BI", 0xDF, len(kept))]
    for name, (_, _, _, whole) in kept.items():
        parts += [_text(name), whole]
    return b"".join(parts)


class _Reader:
    """Reads what a reflection table is made of, and nothing else."""

    # First byte of each length in 1, 2 and 4 bytes; range of those that hold the length themselves.
    _KINDS = {
        "text": ((0xD9, 0xDA, 0xDB), range(0xA0, 0xC0)),
        "bytes": ((0xC4, 0xC5, 0xC6), range(0)),
        "array": ((None, 0xDC, 0xDD), range(0x90, 0xA0)),
        "map": ((None, 0xDE, 0xDF), range(0x80, 0x90)),
    }

    def __init__(self, content: memoryview):
        self.content = content
        self.at = 0

    def take(self, n: int) -> memoryview:
        if n > len(self.content) - self.at:
            raise ValueError("it ends too early")
        self.at += n
        return self.content[self.at - n : self.at]

    def unsigned(self, n: int) -> int:
        return int.from_bytes(self.take(n), "big")

    def count(self, kind: str) -> int:
        """Length of what comes next, which is of this kind."""
        first = self.unsigned(1)
        lengths, short = self._KINDS[kind]
        if first in short:
            return first - short.start
        if first not in lengths:
            raise ValueError(f"no {kind} where there should be one")
        return self.unsigned(2 ** lengths.index(first))

    def text(self) -> str:
        return bytes(self.take(self.count("text"))).decode()

    def integer(self) -> int:
        first = self.unsigned(1)
        if first < 0x80:
            return first
        if not 0xCC <= first <= 0xCF:
            raise ValueError("no number where there should be one")
        return self.unsigned(2 ** (first - 0xCC))

    def column(self) -> tuple[str, tuple[str, int, memoryview, memoryview]]:
        """Name; type, length and bytes of the values, and all of it as it stands."""
        name = self.text()
        start = self.at
        if self.count("array") != 2:
            raise ValueError("a column without values")
        kind = self.text()
        if self.count("array") != 2:
            raise ValueError("a column without length")
        n, values = self.integer(), self.take(self.count("bytes"))
        return name, (kind, n, values, self.content[start : self.at])


def _text(value: str) -> bytes:
    content = value.encode()
    return struct.pack(">BI", 0xDB, len(content)) + content


def _integer(value: int | None) -> bytes:
    if value is None:
        raise ValueError("no number of rows")
    return struct.pack(">BQ", 0xCF, value)
