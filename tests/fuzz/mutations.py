"""Ways to spoil a file. All take a seeded generator, so that a case can be made again from its number."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Callable
from random import Random

import numpy as np
from fuzz.msgpack import Array, Bin, Map, pack, unpack

Mutation = Callable[[Random, bytes], bytes]

_NUMBERS = ("nan", "inf", "-inf", "1e300", "-1e300", "1e-300", "-1", "0", "1e9", "1000000000", "-0.0", "1e18")
_VALUES = (
    *(None, True, False, "", "x", "1", [], {}, [[]], [None], {"a": 1}, -1, 0, 1, 10**9, 2**31, 2**63, 2**64),
    *(10**400, 0.5, 1e300, -1e300, 1e-300, math.nan, math.inf, -math.inf, "x" * 5000, [0] * 1000),
    *("../../etc/passwd", "<script>", "\0", "\ud800", "%s%n", "{0}"),
)
_WORDS = (
    *_NUMBERS,
    *(
        "?",
        ".",
        "'",
        '"',
        ";",
        "\n;\n",
        "loop_",
        "data_x",
        "save_",
        "save_x",
        "_x",
        "#",
        " ",
        "\t",
        "x,y",
        "$",
    ),
    *(
        "=",
        "!",
        "-",
        "\0",
        "\xe9",
        "x" * 3000,
        "(((",
        "1(1)",
        "nan(1)",
        "_atom_site_label",
        "global_",
        "stop_",
    ),
    *("CELL", "LATT 7", "SYMM", "SYMM x,y", "SFAC", "FVAR", "AFIX 43", "PART 1", "RESI", "EQIV $1 x", "SADI"),
    *(
        "DFIX",
        "EADP Si1",
        "EXYZ O1 Si1",
        "SIMU",
        "REM",
        "+f",
        "HKLF 4",
        "END",
        "DEFS",
        "AFIX",
        "FLAT",
        "DFIX_*",
    ),
)


def cut_lengths(n: int) -> list[int]:
    """Where to cut a file of n bytes: every 16 bytes of the first kilobyte, then every kilobyte."""
    return [*range(0, min(n, 1024), 16), *range(1024, n, 1024)]


def any_bytes(rng: Random, content: bytes) -> bytes:
    """Bits flipped; parts removed, repeated, exchanged or overwritten."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        i, n = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 100))
        kind = rng.randrange(6)
        if kind <= 1 and data:
            data[i - 1] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[i : i + n]
        elif kind == 3:
            data[i:i] = data[i : i + n]
        elif kind == 4:
            data[i : i + n] = bytes([rng.choice((0, 255, 127, 128))]) * n
        else:
            data[i : i + n] = rng.randbytes(n)
    return bytes(data)


def text(rng: Random, content: bytes) -> bytes:
    """Numbers and words replaced; lines removed, repeated, exchanged or nested."""
    lines = content.decode("latin-1").split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        _spoil_line(rng, lines)
    return "\n".join(lines).encode("latin-1")


def _spoil_line(rng: Random, lines: list[str]) -> None:
    i = rng.randrange(len(lines))
    kind = rng.randrange(9)
    if kind <= 3:
        words = re.split(r"(\s+)", lines[i])
        numeric = [k for k, word in enumerate(words) if re.fullmatch(r"[-+\d.(]+[\d.()eE+-]*", word)]
        places = numeric if numeric and kind <= 2 else range(len(words))
        words[rng.choice(places)] = rng.choice(_NUMBERS if kind <= 1 else _WORDS)
        lines[i] = "".join(words)
    elif kind == 4:
        del lines[i]
    elif kind == 5:
        lines.insert(rng.randrange(len(lines)), lines[i])
    elif kind == 6:
        lines.insert(i, rng.choice(_WORDS))
    elif kind == 7:
        j = rng.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)] + rng.choice(_WORDS)
    lines[:] = lines or [""]


def json_text(rng: Random, content: bytes) -> bytes:
    """A value of the tree replaced, removed, repeated or nested."""
    return _dumped(rng, spoilt_tree(rng, json.loads(content))).encode("utf-8", "surrogatepass")


def _dumped(rng: Random, tree) -> str:
    dumped = json.dumps(tree)
    if rng.random() < 0.03:
        deep = rng.choice((500, 5000, 200_000))
        return dumped.replace("null", "[" * deep + "]" * deep, 1) if "null" in dumped else "[" * deep
    return dumped


def spoilt_tree(rng: Random, tree):
    """The same of a JSON tree."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        places: list[tuple] = []
        _collect(tree, places)
        if not places:
            return rng.choice(_VALUES)
        # Long lists of numbers must not hide what stands above them.
        short = [place for place in places if not isinstance(place[1], int) or len(place[0]) < 20]
        parent, key = rng.choice(short if short and rng.random() < 0.8 else places)
        try:
            _spoil_value(rng, parent, key)
        except OverflowError:  # of 10**400 as float
            parent[key] = math.inf
    return rng.choice(_VALUES) if rng.random() < 0.01 else tree


def _collect(tree, places: list[tuple]) -> None:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        places.append((tree, key))
        _collect(value, places)


def _spoil_value(rng: Random, parent, key) -> None:
    value, kind = parent[key], rng.randrange(10)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.6:
        numbers = (-1, 0, 1, 2, 10**9, 1e300, 1e-300, math.nan, math.inf, 1e6 * value, -value, 1.01 * value)
        number = rng.choice(numbers)
        whole = isinstance(value, int) and math.isfinite(number) and abs(number) < 1e15
        parent[key] = int(number) if whole else number
    elif kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(value, list):
        parent[key] = value * rng.choice((0, 2, 3)) if rng.random() < 0.5 else value[:-1]
    elif kind == 2 and isinstance(parent, list):
        parent.insert(key, value)
    elif kind == 3:
        parent[key] = [value]
    elif kind == 4 and isinstance(parent, dict):
        name = rng.choice((f"{key} ", "x", rng.choice(list(parent))))
        parent[name] = parent.pop(key)
    elif kind == 5 and isinstance(value, (int, float)) and not isinstance(value, bool):
        parent[key] = value * rng.choice((-1, 0, 10, 1e6, 1e-6)) + rng.choice((0, 1, 0.5))
    else:
        parent[key] = rng.choice(_VALUES)


def reflection_table(rng: Random, content: bytes) -> bytes:
    """Columns with other numbers, sizes, types or names; headers that claim what is not there."""
    table = unpack(content)
    for _ in range(rng.choice((1, 1, 2))):
        try:
            _spoil_table(rng, table)
        except (
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ):  # by the first mutation beyond recognition
            break
    return pack(table)


def _spoil_table(rng: Random, table: Array) -> None:
    header = table.items[2]
    pairs = {name: value for name, value in header.pairs}
    columns = pairs["data"].pairs
    column = rng.choice(columns)
    kind, values = column[1].items
    sizes = (0, 1, values.items[0] + 1, 10**6, 10**9, 2**31, 2**32 - 1, 2**40, 2**62, 2**64 - 1)
    choice = rng.randrange(12)
    if choice <= 3:
        _spoil_numbers(rng, kind, values.items[1])
    elif choice == 4:
        _set(header, "nrows", rng.choice((*sizes, -1, 1.5, None, "3")))
    elif choice == 5:
        values.items[0] = rng.choice((*sizes, -1, None))
    elif choice == 6:
        values.items[1].claimed = rng.choice([size for size in sizes if size < 2**32])
    elif choice == 7:
        column[1].items[0] = rng.choice([each[1].items[0] for each in columns] + ["", "x", "Shoebox<>", 5])
    elif choice == 8:
        column[0] = rng.choice([each[0] for each in columns] + ["", "\0", "id", 3, "shoebox"])
    elif choice == 9:
        columns.remove(column)
    elif choice == 10:
        part = rng.choice((table, header, pairs["data"], column[1], values))
        part.claimed = rng.choice((0, 1, 2, 3, 40, 2**31, 2**32 - 1))
    else:
        place = rng.choice((table.items, column, values.items, column[1].items))
        deep = b"\x91" * rng.choice((100, 5000, 10**6))
        place[rng.randrange(len(place))] = rng.choice((None, "", 1, -1, Map([]), Array([]), Bin(b""), deep))


def _spoil_numbers(rng: Random, kind: str, column: Bin) -> None:
    wide = "double" in kind or "size_t" in kind
    whole = "size_t" in kind or "int" in kind or "bool" in kind
    form = {(True, True): "<q", (True, False): "<d", (False, True): "<i", (False, False): "<d"}[wide, whole]
    n = struct.calcsize(form)
    value = rng.choice(
        (0, -1, 1, 10**9, -(2**31), 2**31 - 1)
        if whole
        else (math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 0.0, -1.0, 1e9, 1e30)
    )
    data = bytearray(column.content)
    places = range(len(data) // n)
    if places:
        for place in places if rng.random() < 0.5 else rng.choices(places, k=3):
            struct.pack_into(form, data, place * n, value)
    column.content = bytes(data)


def _set(mapping: Map, name: str, value) -> None:
    for pair in mapping.pairs:
        if pair[0] == name:
            pair[1] = value


_TYPES = (np.bool_, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64, np.complex128)


def retyped(content: bytes) -> list[bytes]:
    """The archives in which one of the arrays has numbers of another type."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    found = []
    for name, values in arrays.items():
        for kind in _TYPES:
            if values.dtype != kind:
                written = io.BytesIO()
                np.savez(written, **{**arrays, name: values.astype(kind)})
                found.append(written.getvalue())
    return found


def archive(rng: Random, content: bytes) -> bytes:
    """Numbers, shapes and types of an .npz file's arrays, and its JSON header; checksums are right."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    header = json.loads(arrays.pop("header").tobytes())
    if rng.random() < 0.5:
        content = header["content"]
        header["content"] = spoilt_tree(rng, content)
    else:
        for _ in range(rng.choice((1, 1, 3))):
            _spoil_array(rng, arrays, rng.choice(list(arrays)))
    if rng.random() < 0.9:
        header["arrays"] = list(arrays)
    stream = io.BytesIO()
    encoded = _dumped(rng, header).encode("utf-8", "surrogatepass")
    np.savez(stream, header=np.frombuffer(encoded, np.uint8), **arrays)
    return _lying(rng, stream.getvalue()) if rng.random() < 0.05 else stream.getvalue()


def _spoil_array(rng: Random, arrays: dict[str, np.ndarray], name: str) -> None:
    values = arrays[name]
    choice = rng.randrange(8)
    if choice <= 3:
        values = values.astype(values.dtype, copy=True)
        number = rng.choice((math.nan, math.inf, -math.inf, 1e300, 1e9, -1, 0, 1e-300))
        with np.errstate(all="ignore"):
            number = np.array(number).astype(values.dtype)
        flat = values.reshape(-1)
        flat[... if rng.random() < 0.5 else slice(0, 1 + rng.randrange(3))] = number
        arrays[name] = flat.reshape(values.shape)
    elif choice == 4:
        arrays[name] = values[:-1] if values.ndim else values[None]
    elif choice == 5:
        arrays[name] = np.concatenate([values, values]) if values.ndim else np.zeros((0,))
    elif choice == 6:
        kinds = (np.int64, np.int8, np.float32, np.float16, np.complex128, np.bool_, np.uint64, ">f8")
        with np.errstate(all="ignore"):
            arrays[name] = np.nan_to_num(values).astype(rng.choice(kinds))
    elif choice == 7 and rng.random() < 0.5:
        del arrays[name]
    else:
        arrays[name] = values.reshape(rng.choice(((-1,), (1, *values.shape), values.shape[::-1])))


def _lying(rng: Random, content: bytes) -> bytes:
    """The archive with an entry that is compressed, or claims another shape."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        entries = old.infolist()
        lie = rng.choice(entries)
        for entry in entries:
            data = old.read(entry)
            if entry is lie:
                data = re.sub(rb"'shape': \([\d, ]*\)", b"'shape': (10000000000,)", data)
            compressed = entry is lie and rng.random() < 0.5
            new.writestr(entry.filename, data, zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED)
    return stream.getvalue()


def either(*mutations: Mutation) -> Mutation:
    """One of these, and sometimes one on top of another."""

    def mutate(rng: Random, content: bytes) -> bytes:
        spoilt = rng.choice(mutations)(rng, content)
        return any_bytes(rng, spoilt) if rng.random() < 0.1 else spoilt

    return mutate
