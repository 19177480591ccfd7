r"""Bonds, angles and hydrogen bonds of a refined structure, with s.u.s from the full covariance.

Every vector between two atoms is v = R x_j + t - x_i in fractional coordinates, and every table entry
a function f of such vectors and of the metric tensor G:

    d = sqrt(v^T G v),     cos(theta) = v^T G w / (d_v d_w)
    sigma^2(f) = g^T C g + sum_k (df/dG : dG/dc_k)^2 sigma^2(c_k)

where C is the covariance of the independent parameters, g the derivative of f by them (through the
constraints), and c_k are the cell parameters. The last term is left out for distances and angles
that constraints hold fixed while their atoms move, as of riding hydrogen atoms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cctbx import sgtbx, uctbx, xray
from iotbx.cif import model
from libtbx.utils import format_float_with_standard_uncertainty

from dials_hybrid.data import ATOM_PARAMETERS
from dials_hybrid.io.constraints import Constraints
from dials_hybrid.io.neighbours import SHARED, bond_table

_WIDTH = len(ATOM_PARAMETERS)
_DONORS = ("N", "O", "F", "S")
_ACCEPTORS = ("N", "O", "F", "S", "Cl", "Br", "I")
_LONGEST_HYDROGEN_BOND = 2.5  # [A], from hydrogen to acceptor
_LARGER_ACCEPTORS = 0.4  # [A] more for S, Cl, Br, I
_SMALLEST_DHA = 110.0  # [degree]
_FIXED = 1e-14  # variance [A^2 or radian^2] below which a constraint holds the value


@dataclass(frozen=True)
class Vector:
    """From one atom to a neighbour, in fractional coordinates."""

    i: int
    j: int
    rt_mx: sgtbx.rt_mx  # the neighbour is rt_mx x_j
    delta: np.ndarray  # (3,)
    spread: np.ndarray  # (3, P): its covariance is spread @ spread.T
    moves: bool  # an atom at one of the two ends has an uncertainty

    def __sub__(self, other: Vector) -> Vector:
        """From the end of `other` to the end of this one, both starting at the same atom."""
        moves = self.moves or other.moves
        return Vector(
            other.j, self.j, self.rt_mx, self.delta - other.delta, self.spread - other.spread, moves
        )


class Geometry:
    """Distances and angles of a structure with their standard uncertainties.

    Args:
        structure: refined.
        covariance: (P, P) of the independent parameters.
        constraints: under which they were refined.
        cell_su: standard uncertainties of a, b, c [A], alpha, beta, gamma [degree]; None: unknown.
    """

    def __init__(
        self,
        structure: xray.structure,
        covariance: np.ndarray,
        constraints: Constraints,
        cell_su: tuple[float, ...] | None = None,
    ):
        self.structure = structure
        self.parts = constraints.parts
        self.sites = np.array(structure.sites_frac())
        self.metric = _metric(structure.unit_cell().parameters())
        self.metric_spread = [] if cell_su is None else _metric_spread(structure, cell_su)
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        root = vectors * np.sqrt(values.clip(min=0))
        by_atom = constraints.jacobian.numpy().reshape(len(root), len(self.sites), _WIDTH)[:, :, :3]
        self.spread = np.einsum("pnx,pq->nxq", by_atom, root)  # of each site (n, 3, P)

    def exclude_each_other(self, i: int, j: int) -> bool:
        """Whether atoms are alternatives, of which only one is there."""
        return bool(self.parts) and 0 != self.parts[i] != self.parts[j] != 0

    def vector(self, i: int, j: int, rt_mx: sgtbx.rt_mx) -> Vector:
        """From atom i to the image `rt_mx` of atom j."""
        rotation = np.reshape(rt_mx.r().as_double(), (3, 3))
        end = rotation @ self.sites[j] + rt_mx.t().as_double()
        spread = rotation @ self.spread[j] - self.spread[i]
        moves = bool(self.spread[i].any() or self.spread[j].any())
        return Vector(i, j, rt_mx, end - self.sites[i], spread, moves)

    def distance(self, v: Vector) -> tuple[float, float]:
        """Length of a vector and its s.u. [A]."""
        d = float(np.sqrt(v.delta @ self.metric @ v.delta))
        by_metric = np.outer(v.delta, v.delta) / (2.0 * d)
        return d, self._su([(self.metric @ v.delta / d, v)], by_metric)

    def angle(self, v: Vector, w: Vector) -> tuple[float, float]:
        """Angle between two vectors and its s.u. [degree]; no s.u. for a straight angle."""
        (d_v, _), (d_w, _) = self.distance(v), self.distance(w)
        cosine = float(v.delta @ self.metric @ w.delta / (d_v * d_w))
        sine = np.sqrt(max(0.0, 1.0 - cosine**2))
        theta = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
        if sine < 1e-6:
            return theta, 0.0
        by_v = self.metric @ (w.delta / (d_v * d_w) - v.delta * cosine / d_v**2) / -sine
        by_w = self.metric @ (v.delta / (d_v * d_w) - w.delta * cosine / d_w**2) / -sine
        cross = np.outer(v.delta, w.delta) / (d_v * d_w)
        own = np.outer(v.delta, v.delta) / d_v**2 + np.outer(w.delta, w.delta) / d_w**2
        by_metric = ((cross + cross.T) / 2.0 - cosine * own / 2.0) / -sine
        return theta, float(np.degrees(self._su([(by_v, v), (by_w, w)], by_metric)))

    def _su(self, terms: list[tuple[np.ndarray, Vector]], by_metric: np.ndarray) -> float:
        gradient = sum(derivative @ v.spread for derivative, v in terms)
        variance = float(gradient @ gradient)
        held = variance < _FIXED and any(v.moves for _, v in terms)
        if not held:
            variance += sum(float((by_metric * change).sum()) ** 2 for change in self.metric_spread)
        return variance**0.5 if variance >= _FIXED else 0.0

    def neighbours(self, pair_asu_table) -> list[list[Vector]]:
        """Vectors from each atom of the asymmetric unit to all its neighbours, shortest first.

        Atoms that share a site are none.
        """
        mappings = pair_asu_table.asu_mappings()
        result = []
        for i, group in enumerate(pair_asu_table.table()):
            back = mappings.get_rt_mx(i, 0).inverse()
            own = [
                self.vector(i, j, back.multiply(mappings.get_rt_mx(j, k)))
                for j, images in group.items()
                for image in images
                for k in image
            ]
            own = [v for v in own if v.delta @ self.metric @ v.delta > SHARED**2]
            result.append(sorted(own, key=lambda v: (round(v.delta @ self.metric @ v.delta, 6), v.j)))
        return result


def _metric(cell: tuple[float, ...]) -> np.ndarray:
    xx, yy, zz, xy, xz, yz = uctbx.unit_cell(cell).metrical_matrix()
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _metric_spread(structure: xray.structure, cell_su: tuple[float, ...]) -> list[np.ndarray]:
    """dG/dc_k sigma(c_k) of each independent cell parameter; those equal by symmetry vary together."""
    cell = np.array(structure.unit_cell().parameters())
    changes = []
    for k, su in enumerate(cell_su):
        step = np.eye(6)[k] * 1e-5
        changes.append((_metric(tuple(cell + step)) - _metric(tuple(cell - step))) / 2e-5 * su)
    mixes = np.zeros((3, 3), dtype=bool)
    for operation in structure.space_group().all_ops():
        mixes |= np.reshape(operation.r().num(), (3, 3)) != 0
    result = []
    for first in (0, 3):  # lengths, angles
        left = [0, 1, 2]
        while left:
            tied = [k for k in left if k == left[0] or mixes[left[0], k] or mixes[k, left[0]]]
            result.append(sum(changes[first + k] for k in tied))
            left = [k for k in left if k not in tied]
    return [change for change in result if change.any()]


def geometry_loops(geometry: Geometry) -> list[model.loop]:
    """Bonds, angles and, where there are any, hydrogen bonds as loops of the core CIF dictionary.

    Bonds are those of smtbx's connectivity table (covalent radii and 0.5 A), none between alternatives.
    """
    neighbours = geometry.neighbours(bond_table(geometry.structure, geometry.parts))
    loops = [_bonds(geometry, neighbours), _angles(geometry, neighbours)]
    loops.append(_hydrogen_bonds(geometry, neighbours))
    return [loop for loop in loops if loop.n_rows()]


def _bonds(geometry: Geometry, neighbours: list[list[Vector]]) -> model.loop:
    names = ("atom_site_label_1", "atom_site_label_2", "distance", "site_symmetry_2")
    loop = model.loop(header=[f"_geom_bond_{name}" for name in names])
    labels, code = _labels(geometry), _coder(geometry)
    for own in neighbours:
        for v in own:
            if v.j >= v.i:
                loop.add_row((labels[v.i], labels[v.j], _length(geometry, v), code(v.rt_mx)))
    return loop


def _angles(geometry: Geometry, neighbours: list[list[Vector]]) -> model.loop:
    names = (
        *(f"_geom_angle_atom_site_label_{i}" for i in (1, 2, 3)),
        "_geom_angle",
        "_geom_angle_site_symmetry_1",
        "_geom_angle_site_symmetry_3",
    )
    loop = model.loop(header=names)
    labels, code = _labels(geometry), _coder(geometry)
    for own in neighbours:
        for second, v in enumerate(own):
            for w in own[:second]:
                value = _number(*geometry.angle(w, v), 1)
                ends = code(w.rt_mx), code(v.rt_mx)
                loop.add_row((labels[w.j], labels[v.i], labels[v.j], value, *ends))
    return loop


def _hydrogen_bonds(geometry: Geometry, neighbours: list[list[Vector]]) -> model.loop:
    names = (
        *(f"atom_site_label_{x}" for x in "DHA"),
        *(f"distance_{x}" for x in ("DH", "HA", "DA")),
        "angle_DHA",
        "site_symmetry_D",
        "site_symmetry_A",
    )
    loop = model.loop(header=[f"_geom_hbond_{name}" for name in names])
    elements = [scatterer.element_symbol() for scatterer in geometry.structure.scatterers()]
    hydrogens = [i for i, element in enumerate(elements) if element in ("H", "D")]
    if not hydrogens:
        return loop
    labels, code = _labels(geometry), _coder(geometry)
    near = geometry.structure.pair_asu_table(distance_cutoff=_LONGEST_HYDROGEN_BOND + _LARGER_ACCEPTORS)
    contacts = geometry.neighbours(near)
    for h in hydrogens:
        donors = [v for v in neighbours[h] if elements[v.j] in _DONORS]
        bonded = [(v.j, v.rt_mx.as_xyz()) for v in neighbours[h]]
        acceptors = [
            v
            for v in contacts[h]
            if elements[v.j] in _ACCEPTORS
            and not geometry.exclude_each_other(h, v.j)
            and (v.j, v.rt_mx.as_xyz()) not in bonded
            and geometry.distance(v)[0] <= _longest(elements[v.j])
        ]
        for d in donors:
            for a in acceptors:
                angle = geometry.angle(d, a)
                if angle[0] >= _SMALLEST_DHA:
                    lengths = [_length(geometry, v) for v in (d, a, a - d)]
                    ends = code(d.rt_mx), code(a.rt_mx)
                    loop.add_row((labels[d.j], labels[h], labels[a.j], *lengths, _number(*angle, 1), *ends))
    return loop


def _longest(acceptor: str) -> float:
    return _LONGEST_HYDROGEN_BOND + (_LARGER_ACCEPTORS if acceptor in ("S", "Cl", "Br", "I") else 0.0)


def _labels(geometry: Geometry) -> list[str]:
    return list(geometry.structure.scatterers().extract_labels())


def _coder(geometry: Geometry):
    """A function that writes an operation as n_klm, "." for the identity."""
    info = geometry.structure.space_group_info()

    def code(rt_mx: sgtbx.rt_mx) -> str:
        return "." if rt_mx.is_unit_mx() else info.cif_symmetry_code(rt_mx)

    return code


def _length(geometry: Geometry, v: Vector) -> str:
    return _number(*geometry.distance(v), 4)


def _number(value: float, su: float, digits: int) -> str:
    return format_float_with_standard_uncertainty(value, su) if su else f"{value:.{digits}f}"
