"""A small reader of CIF text that takes what programs write, and says what is wrong with the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_TOKEN = re.compile(r"""'((?:[^']|'(?=\S))*)'(?=\s|$)|"((?:[^"]|"(?=\S))*)"(?=\s|$)|(\#.*)|(\S+)""")


@dataclass(frozen=True)
class Block:
    """Items and loops of a data block; names in lower case, values as they stand."""

    name: str
    items: dict[str, str] = field(default_factory=dict)
    loops: list[dict[str, list[str]]] = field(default_factory=list)

    def loop(self, name: str) -> dict[str, list[str]] | None:
        """The loop with a column `name`."""
        return next((loop for loop in self.loops if name in loop), None)


def read_blocks(filename: str | Path) -> list[Block]:
    """The data blocks of a file with any line ends.

    Raises:
        ValueError: it cannot be read, or is cut off.
    """
    try:
        text = Path(filename).read_text(encoding="latin-1")  # universal newlines
    except OSError as error:
        raise ValueError(f"cannot read {filename}: {error.strerror}") from error
    try:
        return _blocks(_tokens(text))
    except ValueError as error:
        raise ValueError(f"cannot read {filename}: {error}") from error


def _tokens(text: str) -> list[tuple[str, bool]]:
    """Words and whether each is bare, so that it can be a name or a keyword."""
    tokens: list[tuple[str, bool]] = []
    lines = iter(enumerate(text.split("\n"), start=1))
    for start, line in lines:
        if line.startswith(";"):
            content = [line[1:]]
            for _, line in lines:
                if line.startswith(";"):
                    break
                content.append(line)
            else:
                raise ValueError(f"the text that begins in line {start} has no end")
            tokens.append(("\n".join(content), False))
            line = line[1:]
        for match in _TOKEN.finditer(line):
            single, double, comment, bare = match.groups()
            if comment is None:
                tokens.append((bare, True) if bare is not None else (single or double or "", False))
    return tokens


def _blocks(tokens: list[tuple[str, bool]]) -> list[Block]:
    blocks: list[Block] = []
    place = 0

    def at(kind: str) -> bool:
        word, bare = tokens[place] if place < len(tokens) else ("", False)
        return bare and word.lower().startswith(kind)

    while place < len(tokens):
        word = tokens[place][0]
        if at("data_"):
            blocks.append(Block(word[5:]))
            place += 1
            continue
        if not blocks:
            blocks.append(Block(""))
        if at("loop_"):
            place += 1
            names, values = [], []
            while at("_"):
                names.append(tokens[place][0].lower())
                place += 1
            while place < len(tokens) and not (at("_") or at("loop_") or at("data_")):
                values.append(tokens[place][0])
                place += 1
            blocks[-1].loops.append(_columns(names, values))
        elif at("_"):
            if place + 1 == len(tokens):
                raise ValueError(f"it ends after {word}, which has no value")
            blocks[-1].items[word.lower()] = tokens[place + 1][0]
            place += 2
        else:
            raise ValueError(f"{word[:40]!r} has no name: this is not a CIF")
    return blocks


def _columns(names: list[str], values: list[str]) -> dict[str, list[str]]:
    if not names:
        raise ValueError("a loop has no data names")
    n = len(names)
    if len(values) % n:
        raise ValueError(
            f"the loop of {names[0]} ends inside row {len(values) // n + 1}: is the file complete?"
        )
    return {name: values[i::n] for i, name in enumerate(names)}


def number(text: str | None) -> float | None:
    """A number with or without an s.u. in brackets; None where there is none (".", "?")."""
    if text is None or text in (".", "?"):
        return None
    try:
        return float(re.sub(r"\(\d+\)$", "", text))
    except ValueError:
        return None


def numbers(texts: list[str]) -> np.ndarray:
    """The same of a column, nan where there is none."""
    try:
        return np.array(texts, dtype=float)
    except ValueError:
        values = (number(text) for text in texts)
        return np.array([np.nan if value is None else value for value in values])
