"""Riding hydrogen atoms, at the distances of their nuclei.

Electrons are scattered by the potential, whose maximum is close to the nucleus; the distances of X-ray
refinements, 0.1 A shorter, are those of electron densities. A hydrogen atom is put at the nuclear distance
from its pivot, in the ideal direction where the neighbours of the pivot leave no doubt about it. Then it
moves with the pivot, with U_iso = 1.5 U_eq(pivot) in methyl groups, hydroxyl groups and water, else 1.2.

It does not turn with the neighbours of the pivot during a refinement: an error of second order in
their shifts, that a second run from the result removes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cctbx import xray

from dials_hybrid.io.neighbours import Neighbour
from dials_hybrid.io.ties import RigidGroup

# From neutron diffraction, rounded [A]: C-H by the numbers of other neighbours and of hydrogen atoms.
_CARBON = {(3, 1): 1.10, (2, 2): 1.09, (2, 1): 1.08, (1, 3): 1.08, (1, 2): 1.08, (1, 1): 1.06}
_OTHERS = {"C": 1.09, "N": 1.03, "O": 0.98, "S": 1.34}
_BRIDGE = 0.3  # [A]: two neighbours whose distances differ less share the hydrogen atom
_CLEAR = 20.0  # [degree]: directions farther from the ideal one are kept as they are
_NO_BOND = 0.5  # [A]: a shorter vector has no direction


@dataclass(frozen=True)
class Riding:
    """Hydrogen atoms and how they ride."""

    groups: tuple[RigidGroup, ...]
    u_follows: tuple[tuple[int, int, float], ...]  # hydrogen atom, pivot, factor
    left: tuple[int, ...]  # hydrogen atoms without a clear pivot


def is_hydrogen(scatterer: xray.scatterer) -> bool:
    return scatterer.element_symbol() in ("H", "D")


def let_ride(structure: xray.structure, neighbours: list[list[Neighbour]], candidates: list[int]) -> Riding:
    """Idealise hydrogen atoms in place and tie them to their pivots.

    Args:
        neighbours: of each atom, from `dials_hybrid.io.neighbours.bonded`.
        candidates: hydrogen atoms that may ride.
    """
    scatterers = structure.scatterers()
    pivots: dict[int, dict[int, np.ndarray]] = {}  # pivot -> hydrogen atom -> vector
    left = []
    for h in candidates:
        bonds = [bond for bond in neighbours[h] if not is_hydrogen(scatterers[bond.j])]
        shared = len(bonds) > 1 and bonds[1].distance - bonds[0].distance < _BRIDGE
        if not bonds or shared or bonds[0].distance < _NO_BOND or _awkward(structure, h, bonds[0]):
            left.append(h)
            continue
        _bring_to_pivot(structure, h, bonds[0])
        pivot = bonds[0].j
        pivots.setdefault(pivot, {})[h] = _vector(structure, pivot, h)
    groups, follows = [], []
    for pivot, own in pivots.items():
        others = _others(structure, neighbours, pivot)
        atoms, vectors = tuple(own), np.array(list(own.values()))
        directions = _directions(others, _units(vectors))
        distance = nuclear_distance(scatterers[pivot].element_symbol(), len(others), len(atoms))
        for h, direction, vector in zip(atoms, directions, vectors, strict=True):
            place(structure, h, pivot, direction * (distance or np.linalg.norm(vector)))
            follows.append((h, pivot, u_factor(scatterers[pivot].element_symbol(), len(atoms))))
        groups.append(RigidGroup(pivot, atoms, np.zeros((0, len(atoms), 3))))
    return Riding(tuple(groups), tuple(follows), tuple(left))


def set_nuclear_distance(
    structure: xray.structure,
    neighbours: list[list[Neighbour]],
    pivot: int,
    atoms: tuple[int, ...],
    distance: float | None = None,
) -> None:
    """Move hydrogen atoms along their bonds, in place.

    Args:
        distance: [A]; None for that of the nuclei.

    Raises:
        ValueError: an atom is too close to its pivot to tell a direction.
    """
    scatterers = structure.scatterers()
    others = _others(structure, neighbours, pivot)
    wanted = distance or nuclear_distance(scatterers[pivot].element_symbol(), len(others), len(atoms))
    for h in atoms:
        vector = _vector(structure, pivot, h)
        length = np.linalg.norm(vector)
        if length < _NO_BOND:
            raise ValueError(
                f"atom {scatterers[h].label} is not at a bond's length from {scatterers[pivot].label}: "
                "hydrogen atoms must have been placed"
            )
        if wanted:
            place(structure, h, pivot, vector / length * wanted)


def axis_of(
    structure: xray.structure, neighbours: list[list[Neighbour]], pivot: int, atoms: tuple[int, ...]
) -> np.ndarray | None:
    """Unit vector (3,) along the bond to the pivot about which these atoms can turn; None without one."""
    bonds = [
        v for v in neighbours[pivot] if v.j not in atoms and not is_hydrogen(structure.scatterers()[v.j])
    ]
    return -bonds[0].vector / bonds[0].distance if bonds else None


def rotation_modes(
    structure: xray.structure, pivot: int, atoms: tuple[int, ...], axes: np.ndarray
) -> np.ndarray:
    """Shifts (A, n, 3) of fractional coordinates for turns about axes (A, 3) through the pivot [1/radian]."""
    vectors = np.array([_vector(structure, pivot, i) for i in atoms])
    return _fractional(structure, np.cross(np.asarray(axes)[:, None], vectors))


def stretch_mode(structure: xray.structure, pivot: int, atoms: tuple[int, ...], unit: bool) -> np.ndarray:
    """Shifts (1, n, 3) of fractional coordinates along the vectors from the pivot.

    Args:
        unit: each by 1 A, instead of by its own length.
    """
    vectors = np.array([_vector(structure, pivot, i) for i in atoms])
    return _fractional(structure, (_units(vectors) if unit else vectors)[None])


def nuclear_distance(element: str, n_others: int, n_hydrogens: int) -> float | None:
    """Distance of a hydrogen nucleus from its pivot [A]; None where none is known."""
    if element == "C":
        return _CARBON.get((n_others, n_hydrogens), _OTHERS["C"])
    return _OTHERS.get(element)


def u_factor(element: str, n_hydrogens: int) -> float:
    """U_iso / U_eq(pivot), as is usual."""
    return 1.5 if element == "O" or n_hydrogens == 3 else 1.2


def place(structure: xray.structure, atom: int, pivot: int, vector: np.ndarray) -> None:
    """Put an atom at a Cartesian vector [A] from its pivot, in place."""
    scatterers = structure.scatterers()
    delta = structure.unit_cell().fractionalize(tuple(vector))
    site = tuple(np.add(scatterers[pivot].site, delta))
    scatterers[atom].site = structure.site_symmetry_table().get(atom).special_op() * site


def _awkward(structure: xray.structure, h: int, bond: Neighbour) -> bool:
    """Whether a hydrogen atom on a special position is bonded to an image of its pivot only."""
    return not bond.rt_mx.is_unit_mx() and not structure.site_symmetry_table().get(h).is_point_group_1()


def _bring_to_pivot(structure: xray.structure, h: int, bond: Neighbour) -> None:
    """Replace a hydrogen atom by its image that is next to the pivot itself, not to an image of it."""
    if not bond.rt_mx.is_unit_mx():
        scatterer = structure.scatterers()[h]
        scatterer.site = bond.rt_mx.inverse() * scatterer.site


def _others(structure: xray.structure, neighbours: list[list[Neighbour]], pivot: int) -> np.ndarray:
    """Unit vectors (k, 3) to the neighbours of a pivot that are no hydrogen."""
    scatterers = structure.scatterers()
    vectors = [bond.vector for bond in neighbours[pivot] if not is_hydrogen(scatterers[bond.j])]
    return _units(np.array(vectors).reshape(-1, 3))


def _vector(structure: xray.structure, pivot: int, atom: int) -> np.ndarray:
    """From the pivot to an atom, Cartesian (3,) [A]."""
    scatterers = structure.scatterers()
    delta = np.subtract(scatterers[atom].site, scatterers[pivot].site)
    return np.array(structure.unit_cell().orthogonalize(tuple(delta)))


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _fractional(structure: xray.structure, vectors: np.ndarray) -> np.ndarray:
    matrix = np.reshape(structure.unit_cell().fractionalization_matrix(), (3, 3))
    return vectors @ matrix.T


def _directions(others: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Unit vectors (m, 3) from the pivot to m hydrogen atoms, from those to its k other neighbours.

    The present ones, where there is no ideal or where one of them is far from it.
    """
    ideal = _IDEAL.get((len(others), len(present)))
    directions = None if ideal is None else ideal(others, present)
    if directions is None or ((directions * present).sum(1) < math.cos(math.radians(_CLEAR))).any():
        return present
    return directions


def _opposite(others: np.ndarray, present: np.ndarray) -> np.ndarray | None:
    """Away from two neighbours: aromatic C-H, N-H of an amide."""
    total = others.sum(0)
    return None if np.linalg.norm(total) < 0.3 else -_units(total)[None]


def _tertiary(others: np.ndarray, present: np.ndarray) -> np.ndarray | None:
    """At the same angle to three neighbours."""
    return None if abs(np.linalg.det(others)) < 0.1 else _units(np.linalg.solve(others, -np.ones(3)))[None]


def _straight(others: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Opposite to a single neighbour: C-H of an alkyne."""
    return -others


def _methylene(others: np.ndarray, present: np.ndarray) -> np.ndarray | None:
    """Across the plane of two neighbours.

    The angle H-X-H closes as that between the neighbours opens, as smtbx has it (to 0.1 degree).
    """
    across = np.cross(others[0], others[1])
    if np.linalg.norm(across) < 0.3:
        return None
    across, away = _units(across), -_units(others.sum(0))
    between = math.degrees(math.acos(float(others[0] @ others[1])))
    half = math.radians(108.17 - 0.132 * (between - 110.0)) / 2.0
    sides = np.where((present @ across) == (present @ across).max(), 1.0, -1.0)
    return math.cos(half) * away + math.sin(half) * sides[:, None] * across


def _methyl(others: np.ndarray, present: np.ndarray) -> np.ndarray | None:
    """Tetrahedral, turned as the present ones are on average."""
    axis = -others[0]
    x = present[0] - (present[0] @ axis) * axis
    if np.linalg.norm(x) < 0.3:
        return None
    x = _units(x)
    y = np.cross(axis, x)
    phi = np.arctan2(present @ y, present @ x)
    start = np.angle(np.exp(3j * phi).sum()) / 3.0
    phi = start + np.round((phi - start) / (2.0 * np.pi / 3.0)) * 2.0 * np.pi / 3.0
    radial = np.cos(phi)[:, None] * x + np.sin(phi)[:, None] * y
    return axis / 3.0 + math.sqrt(8.0) / 3.0 * radial


_IDEAL = {
    (3, 1): _tertiary,
    (2, 1): _opposite,
    (2, 2): _methylene,
    (1, 3): _methyl,
    (1, 1): _straight,
}
