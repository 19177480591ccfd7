"""Restraints of a SHELX file as plain arrays.

DFIX, DANG, SADI and FLAT name their atoms. SAME names those of a group that the atoms behind it are like:
it becomes SADI of bonds and 1,3 distances. SIMU takes the pairs of its atoms within a distance; DELU and
RIGU those that are bonded, or bonded to one atom; ISOR each atom. Without names, SIMU, DELU, RIGU and ISOR
mean all atoms but hydrogen, which they never restrain. Defaults are those of SHELXL.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import torch

from cctbx import sgtbx, xray

from dials_hybrid.data import Restrained, Restraints
from dials_hybrid.io.hydrogens import is_hydrogen
from dials_hybrid.io.neighbours import Neighbour, bonded, within
from dials_hybrid.io.shelx_model import Instruction, ShelxModel, named_atoms, residue_numbers

logger = logging.getLogger("dials.hybrid_refine.io.restraints")

_DEFS = (0.02, 0.1, 0.01, 0.04)  # s.u.s of distances, planes, DELU and SIMU
_RIGU = 0.004
_ISOR = 0.1
_NEAR = 2.0  # [A], of SIMU
_FREE_VARIABLE = 15.0  # DFIX 21 means the second free variable, not 21 A
_IDENTITY = sgtbx.rt_mx()


@dataclass
class _Rows:
    """Restraints of one kind, as they are found."""

    atoms: list[tuple[int, ...]] = field(default_factory=list)
    images: list[sgtbx.rt_mx] = field(default_factory=list)
    targets: list[float] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def add(self, atoms: tuple[int, ...], image: sgtbx.rt_mx, sigma: float, target=0.0, group=0) -> None:
        self.atoms.append(atoms)
        self.images.append(image)
        self.sigmas.append(sigma)
        self.targets.append(target)
        self.groups.append(group)

    def next_group(self) -> int:
        return self.groups[-1] + 1 if self.groups else 0

    def arrays(self, k: int) -> Restrained:
        n = len(self.sigmas)

        def double(values, *shape: int) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float64).reshape(n, *shape)

        return Restrained(
            atoms=torch.tensor(self.atoms, dtype=torch.long).reshape(n, k),
            rotation=double([image.r().as_double() for image in self.images], 3, 3),
            translation=double([image.t().as_double() for image in self.images], 3),
            target=double(self.targets),
            sigma=double(self.sigmas),
            group=torch.tensor(self.groups, dtype=torch.long),
        )


def restraints(model: ShelxModel, structure: xray.structure) -> Restraints | None:
    """All restraints of a file; None if there are none.

    Args:
        structure: the atoms of the model as they are refined (it decides which are anisotropic).

    Raises:
        ValueError: an instruction cannot be understood; the message names its line.
    """
    maker = _Maker(model, structure)
    for instruction in model.restraints:
        maker.follow(instruction)
    found = Restraints(
        **{kind: rows.arrays(1 if kind in ("flat", "isor") else 2) for kind, rows in maker.rows.items()}
    )
    return found if len(found) else None


class _Maker:
    def __init__(self, model: ShelxModel, structure: xray.structure):
        self.model = model
        self.structure = structure
        self.rows = {kind: _Rows() for kind in ("dfix", "sadi", "flat", "simu", "delu", "rigu", "isor")}
        self.heavy = [not is_hydrogen(scatterer) for scatterer in structure.scatterers()]
        self.defaults = tuple(
            given or default for given, default in zip((*model.defaults[:4], 0, 0, 0, 0), _DEFS, strict=False)
        )
        self._bonds: list[list[Neighbour]] | None = None

    @property
    def bonds(self) -> list[list[Neighbour]]:
        """Bonds between atoms that are no hydrogen."""
        if self._bonds is None:
            table = bonded(self.structure, self.model.parts)
            self._bonds = [[bond for bond in own if self.heavy[bond.j]] for own in table]
        return self._bonds

    def follow(self, instruction: Instruction) -> None:
        numbers = [value for value in instruction.arguments if isinstance(value, float)]
        rule = getattr(self, f"_{instruction.command.lower()}")
        where = (instruction.before,) if instruction.command == "SAME" else ()
        for residue in residue_numbers(self.model, instruction.residue):
            atoms = named_atoms(self.model, instruction.arguments, residue)
            if atoms is None:
                logger.warning(
                    f"Line {instruction.line + 1}: {instruction.command} names atoms that do not exist, "
                    "and is left out"
                )
                continue
            try:
                rule(numbers, atoms, *where)
            except (IndexError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"line {instruction.line + 1}: this {instruction.command} cannot be understood ({reason})"
                ) from error

    # sites --------------------------------------------------------------------------------------

    def _dfix(self, numbers, atoms, factor: float = 1.0) -> None:
        if not numbers:
            raise ValueError("it needs a distance")
        if not 0.0 < numbers[0] < _FREE_VARIABLE:
            logger.warning(f"A DFIX or DANG of {numbers[0]:g} (smallest distance, free variable) is left out")
            return
        sigma = numbers[1] if len(numbers) > 1 else factor * self.defaults[0]
        for pair, image in self._named_pairs(atoms):
            self.rows["dfix"].add(pair, image, _positive(sigma), target=numbers[0])

    def _dang(self, numbers, atoms) -> None:
        self._dfix(numbers, atoms, factor=2.0)

    def _sadi(self, numbers, atoms) -> None:
        rows = self.rows["sadi"]
        group = rows.next_group()
        sigma = _positive(numbers[0] if numbers else self.defaults[0])
        for pair, image in self._named_pairs(atoms):
            rows.add(pair, image, sigma, group=group)

    def _same(self, numbers, atoms, before: int) -> None:
        """SADI for each distance 1,2 and 1,3 among the atoms named, and that of the atoms behind."""
        named = [i for i, _ in atoms if self.heavy[i]]
        behind = [i for i in range(before, len(self.heavy)) if self.heavy[i]][: len(named)]
        if len(named) < 2 or len(behind) < len(named):
            raise ValueError(f"{len(behind)} atoms follow it and it names {len(named)}")
        if set(named) & set(behind):
            raise ValueError("atoms that it names follow it")
        other = dict(zip(named, behind, strict=True))
        near = {i: {bond.j for bond in self.bonds[i] if bond.rt_mx.is_unit_mx()} & set(named) for i in named}
        first = {(i, j) for i in named for j in near[i] if i < j}
        second = {(j, k) for i in named for j in near[i] for k in near[i] if j < k} - first
        s1 = numbers[0] if numbers else self.defaults[0]
        s2 = numbers[1] if len(numbers) > 1 else 2.0 * s1
        rows = self.rows["sadi"]
        for pairs, sigma in ((first, s1), (second, s2)):
            for i, j in sorted(pairs) if sigma else ():
                group = rows.next_group()
                for pair in ((i, j), (other[i], other[j])):
                    rows.add(pair, _IDENTITY, _positive(sigma), group=group)

    def _flat(self, numbers, atoms) -> None:
        if len(atoms) < 4:
            raise ValueError("it needs four atoms")
        rows = self.rows["flat"]
        group = rows.next_group()
        sigma = _positive(numbers[0] if numbers else self.defaults[1])
        for atom, image in atoms:
            rows.add((atom,), _operation(image), sigma, group=group)

    def _named_pairs(self, atoms):
        if not atoms or len(atoms) % 2:
            raise ValueError("it needs pairs of atoms")
        for (i, first), (j, second) in zip(atoms[::2], atoms[1::2], strict=True):
            image = _operation(first).inverse().multiply(_operation(second))
            if i == j and image.is_unit_mx():
                raise ValueError("an atom has no distance from itself")
            yield (i, j), image

    # displacements ------------------------------------------------------------------------------

    def _simu(self, numbers, atoms) -> None:
        sigma = numbers[0] if numbers else self.defaults[3]
        terminal = numbers[1] if len(numbers) > 1 else 2.0 * sigma
        near = numbers[2] if len(numbers) > 2 else _NEAR
        chosen = self._chosen(atoms)
        for i, own in enumerate(within(self.structure, near)):
            for bond in own:
                if i in chosen and bond.j in chosen and i < bond.j:
                    ends = min(len(self.bonds[i]), len(self.bonds[bond.j])) <= 1
                    self.rows["simu"].add((i, bond.j), bond.rt_mx, _positive(terminal if ends else sigma))

    def _delu(self, numbers, atoms) -> None:
        self._rigid("delu", numbers, atoms, self.defaults[2])

    def _rigu(self, numbers, atoms) -> None:
        self._rigid("rigu", numbers, atoms, _RIGU)

    def _rigid(self, kind: str, numbers, atoms, default: float) -> None:
        near = numbers[0] if numbers else default
        far = numbers[1] if len(numbers) > 1 else near
        chosen = self._chosen(atoms)
        for i in sorted(chosen):
            seen = {(i, _IDENTITY.as_xyz())}
            first = [bond for bond in self.bonds[i] if bond.j in chosen]
            second = [
                (further.j, bond.rt_mx.multiply(further.rt_mx))
                for bond in first
                for further in self.bonds[bond.j]
                if further.j in chosen
            ]
            pairs = [(bond.j, bond.rt_mx, near) for bond in first] + [(*each, far) for each in second]
            for j, image, sigma in pairs:
                if (j, image.as_xyz()) not in seen and sigma > 0.0:
                    seen.add((j, image.as_xyz()))
                    if i < j:
                        self.rows[kind].add((i, j), image, sigma)

    def _isor(self, numbers, atoms) -> None:
        sigma = numbers[0] if numbers else _ISOR
        terminal = numbers[1] if len(numbers) > 1 else 2.0 * sigma
        for i in sorted(self._chosen(atoms)):
            if self.structure.scatterers()[i].flags.use_u_aniso():
                ends = len(self.bonds[i]) <= 1
                self.rows["isor"].add((i,), _IDENTITY, _positive(terminal if ends else sigma))

    def _chosen(self, atoms) -> set[int]:
        named = [i for i, _ in atoms] or range(len(self.heavy))
        return {i for i in named if self.heavy[i]}


def _operation(image: str | None) -> sgtbx.rt_mx:
    return _IDENTITY if image is None else sgtbx.rt_mx(image)


def _positive(sigma: float) -> float:
    if not (np.isfinite(sigma) and sigma > 0.0):
        raise ValueError("its standard deviation must be positive")
    return sigma
