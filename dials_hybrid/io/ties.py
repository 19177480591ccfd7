r"""Parameters that are not refined by themselves: fixed, equal, proportional, or moved by others.

Every tie is a linear equation between shifts p of the parameter table, besides those of the symmetry,

    fixed              p = 0
    free variable      k_2 p_1 - k_1 p_2 = 0         parameters k_1 v, k_2 v (or k (v - 1)) of one variable v
    sum                sum_m c_m p_m = 0
    U follows          p(u_iso) - c sum_ij G_ij p(U*_ij) / 3 = 0        u_iso = c U_eq of another atom
    same site or U     p_1 - p_2 = 0
    rigid group        p_i - p_pivot - sum_m y_m e_mi = 0               with shifts y of further parameters

so that what is left is affine again: with p = J^T x, and x = B z solving the equations, p = (B^T J)^T z.
Riding hydrogen atoms are a rigid group whose pivot is another atom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cctbx import xray

from dials_hybrid.data import ATOM_PARAMETERS

_WIDTH = len(ATOM_PARAMETERS)
_SITE = ("x", "y", "z")
_U_ISO = "uiso"
_U_STAR = ATOM_PARAMETERS[4:10]
_ZERO = 1e-9  # coefficients of an equation scaled to a largest one of 1


@dataclass(frozen=True)
class RigidGroup:
    """Atoms that move as their pivot does, and by M modes of their own."""

    pivot: int
    atoms: tuple[int, ...]  # without the pivot
    modes: np.ndarray  # (M, n, 3) shifts of fractional coordinates
    names: tuple[str, ...] = ()  # of the modes: "turn", "stretch"


@dataclass(frozen=True)
class Ties:
    """All ties of a structure; atoms are numbered, parameters named as in ATOM_PARAMETERS."""

    fixed: tuple[tuple[int, str], ...] = ()
    free_variables: tuple[tuple[tuple[int, str, float], ...], ...] = ()  # atom, parameter, k
    sums: tuple[tuple[tuple[int, str, float], ...], ...] = ()  # atom, parameter, c
    u_follows: tuple[tuple[int, int, float], ...] = ()  # atom, the one it follows, c
    same_site: tuple[tuple[int, int], ...] = ()
    same_u: tuple[tuple[int, int], ...] = ()
    groups: tuple[RigidGroup, ...] = ()

    def followers(self) -> tuple[set[int], set[int]]:
        """Atoms whose site, and those whose U_iso, others decide."""
        return {i for group in self.groups for i in group.atoms}, {i for i, _, _ in self.u_follows}


def tied(
    structure: xray.structure, jacobian: np.ndarray, ties: Ties
) -> tuple[np.ndarray, list[int], list[str]]:
    """The Jacobian (P', 11 n) that is left of `jacobian` (P, 11 n) under the ties.

    Returns:
        It, the old rows that its first rows continue, and the names of the modes that follow them.
    """
    equations, modes, names = _equations(structure, ties)
    independent = np.hstack([equations @ jacobian.T, modes])
    n = len(jacobian)
    reduced, dependent = _reduced(independent, _order(jacobian, ties, independent.shape[1]))
    kept = [k for k in range(independent.shape[1]) if k not in dependent]
    solution = np.zeros((independent.shape[1], len(kept)))  # x = B z
    solution[kept, range(len(kept))] = 1.0
    solution[list(dependent)] = -reduced[:, kept]
    result = solution[:n].T @ jacobian
    useful = [row for row in range(len(kept)) if np.abs(result[row]).max() > _ZERO]
    rows = [kept[row] for row in useful]
    return result[useful], [k for k in rows if k < n], [names[k - n] for k in rows if k >= n]


def _column(atom: int, parameter: str) -> int:
    return _WIDTH * atom + ATOM_PARAMETERS.index(parameter)


def _equations(structure: xray.structure, ties: Ties) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Coefficients (E, 11 n) of the shifts and (E, M) of the modes, and the names of those."""
    scatterers = structure.scatterers()
    table, by_mode, names = [], [], []

    def add(coefficients: dict[int, float], modes: dict[int, float] | None = None) -> None:
        row = np.zeros(_WIDTH * scatterers.size())
        for column, value in coefficients.items():
            row[column] += value
        table.append(row)
        by_mode.append(modes or {})

    def used(atom: int, parameter: str) -> bool:
        idle = _U_STAR if scatterers[atom].flags.use_u_iso() else (_U_ISO,)
        return parameter not in idle

    for atom, parameter in ties.fixed:
        add({_column(atom, parameter): 1.0})
    for variable in ties.free_variables:
        own = [each for each in variable if used(*each[:2])]
        for (i, first, k_1), (j, second, k_2) in zip(own, own[1:], strict=False):
            add({_column(i, first): k_2, _column(j, second): -k_1})
    for terms in ties.sums:
        add({_column(atom, parameter): c for atom, parameter, c in terms if used(atom, parameter)})
    for atom, other, factor in ties.u_follows:
        if used(atom, _U_ISO):
            add({_column(atom, _U_ISO): 1.0, **_equivalent(structure, other, -factor)})
    for first, other in ties.same_site:
        for parameter in _SITE:
            add({_column(other, parameter): 1.0, _column(first, parameter): -1.0})
    for first, other in ties.same_u:
        for parameter in (_U_ISO, *_U_STAR):
            add({_column(other, parameter): 1.0, _column(first, parameter): -1.0})
    for group in ties.groups:
        start = len(names)
        names += [f"{scatterers[group.pivot].label}.{name}" for name in group.names]
        for k, atom in enumerate(group.atoms):
            for axis, parameter in enumerate(_SITE):
                coefficients = {_column(atom, parameter): 1.0, _column(group.pivot, parameter): -1.0}
                add(coefficients, {start + m: -mode[k, axis] for m, mode in enumerate(group.modes)})
    modes = np.zeros((len(table), len(names)))
    for row, own in enumerate(by_mode):
        for m, value in own.items():
            modes[row, m] = value
    return np.array(table).reshape(len(table), _WIDTH * scatterers.size()), modes, names


def _equivalent(structure: xray.structure, atom: int, factor: float) -> dict[int, float]:
    """Coefficients of factor * U_eq = factor * sum_ij G_ij U*_ij / 3."""
    if structure.scatterers()[atom].flags.use_u_iso():
        return {_column(atom, _U_ISO): factor}
    xx, yy, zz, xy, xz, yz = structure.unit_cell().metrical_matrix()
    g = (xx, yy, zz, 2.0 * xy, 2.0 * xz, 2.0 * yz)
    return {_column(atom, u): factor * g_ij / 3.0 for u, g_ij in zip(_U_STAR, g, strict=True)}


def _order(jacobian: np.ndarray, ties: Ties, n_columns: int) -> list[int]:
    """Independent parameters, those first that had better be expressed by the others.

    These are the atoms that follow; then later atoms rather than earlier ones, modes last.
    """
    sites, displacements = ties.followers()

    def key(row: int) -> tuple[bool, int]:
        atom, parameter = divmod(leading(jacobian[row]), _WIDTH)
        follows = atom in (sites if parameter < 3 else displacements)
        return not follows, -_WIDTH * atom - parameter

    n = len(jacobian)
    return sorted(range(n), key=key) + list(range(n, n_columns))


def leading(row: np.ndarray) -> int:
    """The first parameter that moves one to one with an independent one."""
    return int(np.argmax(np.isclose(row, 1.0)))


def _reduced(equations: np.ndarray, order: list[int]) -> tuple[np.ndarray, dict[int, int]]:
    """Reduced row-echelon form, with the row of each dependent column."""
    rows = equations.copy()
    largest = np.abs(rows).max(axis=1, initial=0.0)
    rows = rows[largest > _ZERO] / largest[largest > _ZERO, None]
    dependent: dict[int, int] = {}
    for column in order:
        done = len(dependent)
        if done == len(rows):
            break
        pivot = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[pivot, column]) < _ZERO:
            continue
        rows[[done, pivot]] = rows[[pivot, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= rows[others, column, None] * rows[done]
        dependent[column] = done
    return rows[: len(dependent)], dependent
