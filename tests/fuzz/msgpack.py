"""Enough of MessagePack to take a reflection table apart and to put it together wrongly."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass
class Map:
    """Pairs, so that keys may repeat; `claimed` is the length that is written, None for the true one."""

    pairs: list[list]
    claimed: int | None = None


@dataclass
class Array:
    """Items, and the length that is written."""

    items: list
    claimed: int | None = None


@dataclass
class Bin:
    """Bytes, and the length that is written."""

    content: bytes
    claimed: int | None = None


_LENGTHS = {
    0xC4: ("B", Bin),
    0xC5: (">H", Bin),
    0xC6: (">I", Bin),
    0xD9: ("B", str),
    0xDA: (">H", str),
    0xDB: (">I", str),
    0xDC: (">H", Array),
    0xDD: (">I", Array),
    0xDE: (">H", Map),
    0xDF: (">I", Map),
}
_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: "B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: "b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def unpack(content: bytes):
    """The tree that a valid file holds."""
    return _Reader(content).value()


class _Reader:
    def __init__(self, content: bytes):
        self.content = content
        self.at = 0

    def take(self, n: int) -> bytes:
        self.at += n
        return self.content[self.at - n : self.at]

    def value(self):
        kind = self.take(1)[0]
        if kind < 0x80 or kind >= 0xE0:
            return kind if kind < 0x80 else kind - 0x100
        if kind < 0xC0:
            n, wanted = (kind & 0x0F, Map if kind < 0x90 else Array) if kind < 0xA0 else (kind & 0x1F, str)
            return self.container(wanted, n)
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind in _NUMBERS:
            return struct.unpack(_NUMBERS[kind], self.take(struct.calcsize(_NUMBERS[kind])))[0]
        form, wanted = _LENGTHS[kind]
        return self.container(wanted, struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def container(self, kind, n: int):
        if kind is Map:
            return Map([[self.value(), self.value()] for _ in range(n)])
        if kind is Array:
            return Array([self.value() for _ in range(n)])
        return Bin(self.take(n)) if kind is Bin else self.take(n).decode()


def pack(value) -> bytes:
    """The bytes of a tree, lies included."""
    if value is None or isinstance(value, bool):
        return bytes([{None: 0xC0, False: 0xC2, True: 0xC3}[value]])
    if isinstance(value, int):
        return struct.pack(">BQ", 0xCF, value) if value >= 0 else struct.pack(">Bq", 0xD3, value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, str):
        return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return value
    parts = (
        value.content if isinstance(value, Bin) else value.items if isinstance(value, Array) else value.pairs
    )
    n = len(parts) if value.claimed is None else value.claimed
    kind = {Bin: 0xC6, Array: 0xDD, Map: 0xDF}[type(value)]
    if isinstance(value, Bin):
        return struct.pack(">BI", kind, n) + value.content
    flat = parts if isinstance(value, Array) else [each for pair in parts for each in pair]
    return struct.pack(">BI", kind, n) + b"".join(map(pack, flat))
