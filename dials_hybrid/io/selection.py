"""Atoms and parameters by their names: `name C1* and not element H`.

A selection is made of

    all                 every atom
    element C           of these elements (element C N O)
    name C1 C2*         with these labels; * stands for any characters, ? for one
    not, and, or, ( )   as in the atom selections of cctbx

and says which parameters are meant before a colon, all of them without one: `u: element Si`,
`xyz,occ: name O1`.
"""

from __future__ import annotations

import fnmatch
import re

from cctbx import xray

PARAMETERS = ("xyz", "u", "occ")
_WORDS = ("and", "or", "not", "all", "element", "name", "(", ")")


def selected(structure: xray.structure, expression: str) -> tuple[tuple[str, ...], list[bool]]:
    """The parameters and, for each atom, whether it is meant.

    Raises:
        ValueError: the expression cannot be understood, or selects no atom.
    """
    before, colon, atoms = expression.rpartition(":")
    parameters = tuple(before.lower().replace(",", " ").split()) if colon else PARAMETERS
    if not parameters or not set(parameters) <= set(PARAMETERS):
        raise ValueError(f"{expression!r}: before the colon stand xyz, u or occ, separated by commas")
    words = re.findall(r"[^\s()]+\(\w*\)[^\s()]*|[()]|[^\s()]+", atoms)  # labels may be C(1)
    parser = _Parser(structure, words, expression)
    mask = parser.either()
    if parser.words:
        parser.fail()
    if not any(mask):
        raise ValueError(f"{expression!r} selects no atom")
    return parameters, mask


class _Parser:
    """Recursive descent; each method eats the words that belong to it and gives a mask."""

    def __init__(self, structure: xray.structure, words: list[str], expression: str):
        scatterers = structure.scatterers()
        self.labels = [label.lower() for label in scatterers.extract_labels()]
        self.elements = [scatterer.element_symbol().lower() for scatterer in scatterers]
        self.words = words
        self.expression = expression

    def fail(self):
        place = f"at {self.words[0]!r}" if self.words else "at its end"
        raise ValueError(
            f"{self.expression!r} cannot be understood {place}: a selection is made of all, element, name, "
            "and, or, not and brackets"
        )

    def next_is(self, *words: str) -> bool:
        return bool(self.words) and self.words[0].lower() in words

    def either(self) -> list[bool]:
        mask = self.both()
        while self.next_is("or"):
            self.words.pop(0)
            mask = [a or b for a, b in zip(mask, self.both(), strict=True)]
        return mask

    def both(self) -> list[bool]:
        mask = self.term()
        while self.next_is("and"):
            self.words.pop(0)
            mask = [a and b for a, b in zip(mask, self.term(), strict=True)]
        return mask

    def term(self) -> list[bool]:
        if not self.next_is("not", "all", "element", "name", "("):
            self.fail()
        word = self.words.pop(0).lower()
        if word == "not":
            return [not chosen for chosen in self.term()]
        if word == "all":
            return [True] * len(self.labels)
        if word == "(":
            mask = self.either()
            if not self.next_is(")"):
                self.fail()
            self.words.pop(0)
            return mask
        return self.among(self.labels if word == "name" else self.elements)

    def among(self, names: list[str]) -> list[bool]:
        patterns = []
        while self.words and not self.next_is(*_WORDS):
            patterns.append(self.words.pop(0).lower())
        if not patterns:
            self.fail()
        return [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]
