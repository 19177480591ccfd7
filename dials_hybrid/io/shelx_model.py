"""What a SHELX file says beside its atoms, and the ways in which its instructions name atoms."""

from __future__ import annotations

from dataclasses import dataclass, field

from cctbx import xray
from iotbx.shelx import parsers

from dials_hybrid.io.ties import Ties


@dataclass(frozen=True)
class Afix:
    """Atoms after an AFIX mn instruction."""

    m: int
    n: int
    pivot: int
    atoms: tuple[int, ...]  # without the pivot
    distance: float | None = None  # [A] of riding atoms, where the file gives one

    @property
    def rides(self) -> bool:
        return self.n in (3, 4, 7, 8)


@dataclass(frozen=True)
class Instruction:
    """A restraint."""

    command: str
    residue: tuple | None
    arguments: tuple
    line: int
    before: int = 0  # atoms before it: SAME is about those behind


@dataclass(frozen=True)
class ShelxModel:
    """A structure and what its file says about it."""

    structure: xray.structure
    ties: Ties
    refined: tuple[tuple[str, ...], ...]  # of each atom, the parameters that are not fixed
    afix: tuple[Afix, ...]
    parts: tuple[int, ...]  # PART of each atom; none where no atom has one
    names: dict[tuple[int | None, str], int]  # (residue, name in lower case) -> atom
    residues: dict[str, list[int]]  # class -> numbers
    restraints: tuple[Instruction, ...] = ()
    images: dict[int, str] = field(default_factory=dict)  # EQIV $n -> operation
    defaults: tuple[float, ...] = ()  # DEFS


def residue_numbers(model: ShelxModel, residue: tuple | None) -> list[int | None]:
    """Residues that an instruction such as DFIX_PHE, DFIX_3 or DFIX_* is about."""
    if residue is None:
        return [None]
    kind, *value = residue
    if kind == parsers.tokens.residue_number_tok:
        return list(value)
    if kind == parsers.tokens.residue_class_tok:
        return list(model.residues.get(str(value[0]).upper(), ()))
    return sorted(number for numbers in model.residues.values() for number in numbers)


def named_atoms(
    model: ShelxModel, arguments: tuple, residue: int | None
) -> list[tuple[int, str | None]] | None:
    """Atoms, with the operations of _$n, that arguments name: C1, C2_3, C1_$2, C1 > C6, $C, LAST.

    None if one of them does not exist. Ranges and elements leave out hydrogen.
    """
    tokens = parsers.tokens
    elements = [scatterer.element_symbol() for scatterer in model.structure.scatterers()]
    result: list[tuple[int, str | None]] = []
    step = 0
    for argument in arguments:
        if isinstance(argument, float):
            continue
        if isinstance(argument, tuple):
            step = 1 if argument[0] == tokens.forward_range_tok else -1
            continue
        if isinstance(argument, tokens.element_token):
            wanted = argument.element.lower()
            result += [(i, None) for i, element in enumerate(elements) if element.lower() == wanted]
            continue
        atom = _named(model, argument, residue)
        if atom is None or (argument.symmetry is not None and argument.symmetry not in model.images):
            return None
        if step and result:
            between = range(result[-1][0] + step, atom, step)
            result += [(i, None) for i in between if elements[i] not in ("H", "D")]
            step = 0
        image = None if argument.symmetry is None else model.images[argument.symmetry]
        result.append((atom, image))
    return result


def _named(model: ShelxModel, argument, residue: int | None) -> int | None:
    name = argument.name.lower()
    if name == "last":
        return model.structure.scatterers().size() - 1
    number = argument.residue_number if argument.residue_number is not None else residue
    if argument.plus_minus is not None and residue is not None:
        number = residue + (1 if argument.plus_minus == "+" else -1)
    return model.names.get((number, name))
