"""SHELX files (.ins, .res): atoms, and what the file says about their refinement.

iotbx reads the symmetry and the atoms; PART, AFIX, free variables, fixed parameters, EADP and EXYZ become
`Ties`, and so does SUMP, a restraint in SHELXL: here sums are kept exactly. Restraints stay instructions
until `dials_hybrid.io.shelx_restraints` makes them.
"""

from __future__ import annotations

import io
import logging
import re
from dataclasses import replace
from itertools import zip_longest

from iotbx import builders
from iotbx.shelx import lexer, parsers

from dials_hybrid.data import ATOM_PARAMETERS
from dials_hybrid.io.shelx_model import Afix, Instruction, ShelxModel, named_atoms, residue_numbers
from dials_hybrid.io.ties import Ties

logger = logging.getLogger("dials.hybrid_refine.io.shelx")

RESTRAINTS = ("DFIX", "DANG", "SADI", "SAME", "FLAT", "SIMU", "DELU", "RIGU", "ISOR")
# What changes the model or its refinement, and what is not done here.
_IGNORED = (
    *("ANIS", "BASF", "BIND", "BUMP", "CHIV", "CONN", "EXTI", "FREE", "HFIX", "MOVE", "NCSY", "SWAT"),
    *("TWIN", "XNPD"),
)
_INSTEAD = {
    "CHIV": "the volumes of chiral centres are free",
    "HFIX": "hydrogen atoms must be in the file: give the .res file of a refinement with them",
}
_SUM_TOLERANCE = 0.02
_HYDROGENS = {1: 1, 2: 2, 3: 3, 4: 1, 8: 1, 9: 2, 12: 6, 13: 3, 14: 1, 15: 1, 16: 1}  # AFIX m: atoms
_RIGID = (5, 6, 7, 10, 11)  # rings of known shape


def read_shelx(text: str, min_distance_sym_equiv: float = 0.5) -> ShelxModel:
    """Read the text of a .ins or .res file.

    Raises:
        ValueError, RuntimeError: something is missing or wrong; the message names the line.
    """
    for card, meaning in (("CELL", "cell"), ("LATT", "space group"), ("SFAC", "atoms")):
        if not re.search(rf"^{card}\b", text, re.MULTILINE | re.IGNORECASE):
            raise ValueError(f"no {meaning} (no {card} card)")
    reader = _Reader(_with_short_sfac(text), min_distance_sym_equiv)
    reader.read()
    return reader.model()


def _with_short_sfac(text: str) -> str:
    """Reduce the SFAC cards to one that only names the elements; the lines keep their numbers.

    Electron diffraction with SHELXL needs the long form, one card an element with its scattering
    factors, which iotbx refuses to read.
    """
    text = re.sub("!.*", "", text)  # comments
    cards = re.compile(r"^SFAC\b(?:.*=[ \t]*\n)*.*\n", re.MULTILINE | re.IGNORECASE)
    words = [word for card in cards.findall(text) for word in card.split()[1:]]
    elements = " ".join(word for word in words if word[0].isalpha())
    lines = [f"SFAC {elements}\n"]

    def short(card: re.Match) -> str:
        return (lines.pop() if lines else " \n") + " \n" * (card[0].count("\n") - 1)

    return cards.sub(short, text)


class _Builder(builders.crystal_structure_builder):
    """Collects what iotbx says about each atom's parameters."""

    def __init__(self, min_distance_sym_equiv: float):
        super().__init__(set_grad_flags=False, min_distance_sym_equiv=min_distance_sym_equiv)
        self.behaviours = []

    def add_scatterer(self, scatterer, behaviours, **options):
        super().add_scatterer(scatterer, behaviours, **options)
        self.behaviours.append(list(behaviours))


class _Reader:
    """Passes the commands of a file to the parsers of iotbx, and reads the others itself."""

    def __init__(self, text: str, min_distance_sym_equiv: float):
        self.builder = _Builder(min_distance_sym_equiv)
        self.text = text
        self.afix: list[Afix] = []
        self.open: tuple | None = None  # (m, n, distance, line) of the AFIX in force
        self.own: list[int] = []  # atoms since then
        self.group: list[int] = []  # atoms of the rigid group, which other AFIX interrupt
        self.group_kind = (0, 0)
        self.last = -1  # the last atom that does not ride
        self.n_atoms = 0
        self.restraints: list[Instruction] = []
        self.before: dict[int, int] = {}  # line of a SAME -> atoms before it
        self.images: dict[int, str] = {}
        self.same: dict[str, list[tuple]] = {"EADP": [], "EXYZ": []}
        self.sums: list[tuple[tuple, int]] = []  # arguments of SUMP, line
        self.defaults: tuple[float, ...] = ()
        self.ignored: set[str] = set()
        self.held: dict[int, tuple[str, ...]] = {}  # by AFIX 1 and 2

    def read(self) -> None:
        commands = lexer.command_stream(file=io.StringIO(self.text))
        stream = parsers.crystal_symmetry_parser(commands, self.builder).filtered_commands()
        atoms = parsers.atom_parser(self._watched(stream), self.builder, strictly_shelxl=False)
        for command, line in atoms.filtered_commands():
            self._other(command, line)
        self.free_variables: tuple[float, ...] = atoms.free_variable or ()
        self._close_afix()
        self._close_group()
        if self.ignored:
            logger.warning(f"SHELX instructions that are not followed: {', '.join(sorted(self.ignored))}")
        for name in sorted(self.ignored & set(_INSTEAD)):
            logger.warning(f"{name} is not followed: {_INSTEAD[name]}")

    def _watched(self, stream):
        """The commands, with the atoms counted under the AFIX in force."""
        for command, line in stream:
            if command[0] == "AFIX":
                self._afix(command[-1], line)
            elif command[0] == "__ATOM__":
                self._atom()
            elif command[0] in ("FRAG", "FEND"):
                raise ValueError(f"line {line + 1}: FRAG is not read, use the .res file of its refinement")
            elif command[0] == "RESI":
                command = "RESI", _residue(command[-1])
            elif command[0] == "SAME":
                self.before[line] = self.n_atoms
            yield command, line

    # AFIX ---------------------------------------------------------------------------------------

    def _afix(self, arguments: tuple, line: int) -> None:
        self._close_afix()
        if not arguments or not all(isinstance(value, float) for value in arguments):
            raise ValueError(f"line {line + 1}: AFIX needs a number")
        m, n = divmod(int(arguments[0]), 10)
        if m == n == 0:
            self._close_group()
            return
        riding = n in (3, 4, 7, 8) and (m in _HYDROGENS or m == 0)
        rigid = n in (6, 9) or (n == 5 and self.group) or m in _RIGID
        if not (riding or rigid or (m == 0 and n in (1, 2))):
            raise ValueError(f"line {line + 1}: unknown AFIX {arguments[0]:g}")
        if n in (6, 9) or (rigid and n != 5):
            self._close_group()
            self.group_kind = m, n
        distance = arguments[1] if len(arguments) > 1 and arguments[1] > 0 else None
        self.open = m, n, distance, line

    def _atom(self) -> None:
        atom = self.n_atoms
        self.n_atoms += 1
        if self.open:
            m, n = self.open[:2]
            self.own.append(atom)
            if n in (1, 2):
                self.held[atom] = ("x", "y", "z", "occ", "u") if n == 1 else ("occ", "u")
            elif n in (3, 4, 7, 8):
                return
            else:
                self.group.append(atom)
        self.last = atom

    def _close_afix(self) -> None:
        if self.open:
            m, n, distance, line = self.open
            expected = _HYDROGENS.get(m, len(self.own))
            if n in (3, 4, 7, 8):
                if len(self.own) != expected:
                    raise ValueError(
                        f"line {line + 1}: AFIX {m}{n} needs {expected} atoms, not {len(self.own)}"
                    )
                if self.last < 0:
                    raise ValueError(f"line {line + 1}: AFIX {m}{n} has no atom before it to ride on")
                if self.own:
                    self.afix.append(Afix(m, n, self.last, tuple(self.own), distance))
        self.open, self.own = None, []

    def _close_group(self) -> None:
        m, n = self.group_kind
        if len(self.group) > 1 and n in (6, 9):
            self.afix.append(Afix(m, n, self.group[0], tuple(self.group[1:])))
        self.group = []

    # the rest -----------------------------------------------------------------------------------

    def _other(self, command: tuple, line: int) -> None:
        name, arguments = command[0], command[-1]
        residue = command[1] if len(command) == 3 else None
        if name in RESTRAINTS:
            before = self.before.get(line, 0)
            self.restraints.append(Instruction(name, residue, arguments, line, before))
        elif name in self.same:
            self.same[name].append((residue, arguments, line))
        elif name == "EQIV":
            self.images[arguments[0]] = arguments[1]
        elif name == "SUMP":
            self.sums.append((arguments, line))
        elif name == "DEFS":
            self.defaults = arguments
        elif name in _IGNORED:
            self.ignored.add(name)

    def model(self) -> ShelxModel:
        builder = self.builder
        if not hasattr(builder, "structure"):
            raise ValueError("no atoms")
        refined = tuple(self._refined(i) for i in range(self.n_atoms))
        residues = {name.upper(): list(numbers) for name, numbers in _residues(builder).items()}
        both = builder.conformer_indices or (), builder.sym_excl_indices or ()
        parts = tuple(n or -m for n, m in zip_longest(*both, fillvalue=0))
        model = ShelxModel(
            structure=builder.structure,
            ties=Ties(),
            refined=refined,
            afix=tuple(self.afix),
            parts=parts if any(parts) else (),
            names=dict(builder.index_of_scatterer_named),
            residues=residues,
            restraints=tuple(self.restraints),
            images=self.images,
            defaults=self.defaults,
        )
        sums = [self._sum(*each) for each in self.sums]
        return _with_ties(model, builder.behaviours, self.same, sums)

    def _sum(self, arguments: tuple, line: int) -> list[tuple[float, int]]:
        """c_i and the index of v_i, for SUMP c sigma c_1 m_1 c_2 m_2 ... that is c = sum c_i v_i."""
        total, _sigma, *terms = arguments if len(arguments) > 3 else (0.0, 0.0, 0.0)
        indices = [int(m) - 1 for m in terms[1::2]]
        if len(terms) % 2 or not all(0 < index < len(self.free_variables) for index in indices):
            raise ValueError(f"line {line + 1}: SUMP needs c sigma c1 m1 c2 m2 ... with m of free variables")
        found = list(zip(terms[::2], indices, strict=True))
        value = sum(c * self.free_variables[index] for c, index in found)
        if abs(value - total) > _SUM_TOLERANCE:
            logger.warning(
                f"Line {line + 1}: SUMP keeps its sum at {value:.4g}, where it is, not at {total:g}"
            )
        return found

    def _refined(self, atom: int) -> tuple[str, ...]:
        """The parameters of an atom that the file does not fix."""
        aniso = self.builder.structure.scatterers()[atom].flags.use_u_aniso()
        behaviours, held = self.builder.behaviours[atom], self.held.get(atom, ())
        names = _names(aniso)
        return tuple(
            name
            for name, behaviour in zip(names, behaviours, strict=False)
            if behaviour != parsers.constant_parameter
            and name not in held
            and not (name.startswith("u") and "u" in held)
        )


def _names(anisotropic: bool) -> tuple[str, ...]:
    """The parameters of an atom in the order of iotbx."""
    return ("x", "y", "z", "occ", *(ATOM_PARAMETERS[4:10] if anisotropic else ("uiso",)))


def _residue(arguments: tuple) -> tuple[int | None, str]:
    """Number and class of a RESI instruction, in which they come in any order; residue 0 is none."""
    numbers = [int(value) for value in arguments if isinstance(value, float)]
    classes = [value for value in arguments if isinstance(value, str)]
    return (numbers[0] or None) if numbers else None, classes[0] if classes else ""


def _residues(builder) -> dict[str, list[int]]:
    return {name: numbers for name, numbers in builder.residue_numbers_having_class.items() if name}


def _with_ties(
    model: ShelxModel, behaviours: list, same: dict[str, list[tuple]], sums: list[list[tuple[float, int]]]
) -> ShelxModel:
    scatterers = model.structure.scatterers()
    a_star = model.structure.unit_cell().reciprocal_parameters()[:3]
    variables: dict[int, list[tuple[int, str, float]]] = {}
    follows = []
    for atom, own in enumerate(behaviours):
        scatterer = scatterers[atom]
        for name, behaviour in zip(_names(scatterer.flags.use_u_aniso()), own, strict=False):
            if not isinstance(behaviour, tuple):
                continue
            kind, coefficient, index = behaviour
            if kind == parsers.constant_times_u_eq:
                follows.append((atom, index, coefficient))
                continue
            if name == "occ":
                coefficient /= scatterer.weight_without_occupancy()
            elif name in ATOM_PARAMETERS[4:10]:
                i, j = int(name[1]) - 1, int(name[2]) - 1
                coefficient *= a_star[i] * a_star[j]
            variables.setdefault(index, []).append((atom, name, coefficient))
    pairs = {name: _pairs(model, found) for name, found in same.items()}
    for first, other in pairs["EADP"]:
        if scatterers[first].flags.use_u_aniso() != scatterers[other].flags.use_u_aniso():
            raise ValueError(
                f"EADP {scatterers[first].label} {scatterers[other].label}: one atom is isotropic, the other "
                "is not"
            )
        scatterers[other].u_iso, scatterers[other].u_star = scatterers[first].u_iso, scatterers[first].u_star
    for first, other in pairs["EXYZ"]:
        scatterers[other].site = scatterers[first].site
    ties = Ties(
        free_variables=tuple(tuple(own) for own in variables.values()),
        sums=tuple(
            tuple(
                (*variables[index][0][:2], c / variables[index][0][2])
                for c, index in own
                if index in variables
            )
            for own in sums
        ),
        u_follows=tuple(follows),
        same_site=pairs["EXYZ"],
        same_u=pairs["EADP"],
    )
    return replace(model, ties=ties)


def _pairs(model: ShelxModel, instructions: list[tuple]) -> tuple[tuple[int, int], ...]:
    """(first, other) for each further atom of EADP and EXYZ instructions."""
    result = []
    for residue, arguments, line in instructions:
        for numbers in residue_numbers(model, residue):
            atoms = named_atoms(model, arguments, numbers)
            if atoms is None:
                logger.warning(f"Line {line + 1}: not all atoms of an EADP or EXYZ exist")
                continue
            result += [(atoms[0][0], atom) for atom, _ in atoms[1:]]
    return tuple(result)
