r"""Form factors other than those of neutral atoms by Peng et al. (1996), as sums of Gaussians.

Lobato & Van Dyck (2014, Acta Cryst. A70, 636), right up to s = 6 1/A and beyond:

    f(s) = sum_k a_k (2 + b_k g^2) / (1 + b_k g^2)^2,     g = 2 s

fitted here by Gaussians to one part in 5000 for s up to 8 1/A.

Ions, Peng (1998, Acta Cryst. A54, 481): with the charge q in units of the proton's,

    f(s) = sum_k a_k exp(-b_k s^2) + 0.0239336 q / s^2.

The second term is what X-ray form factors of ions give by Mott & Bethe's formula where s is small. At
s = 0 it is infinite, but only for each ion alone: a crystal is neutral. As an integral over Gaussians,

    1 / s^2 = int exp(-u s^2) du,

cut off where no reflection of the crystal feels it, it is finite and cancels from U_0 exactly.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.data import AtomicModel

TABLES = ("peng", "lobato")
_FOLDER = Path(__file__).parent
_COULOMB = 0.0239336  # 1 / (8 pi^2 a_0), a_0 the Bohr radius [1/A]
_EXPONENTS = torch.logspace(-2.7, 2.6, 20, dtype=torch.float64)  # of the fit [A^2]
_LARGEST_S = 8.0  # of the fit [1/A]
_STEP = 0.8  # of ln u: an error of 6e-5 of 1 / s^2
_SMALLEST_U, _CUT_OFF = 1e-5, 12.0  # [A^2] and of u s^2 for the innermost reflection
_NEUTRAL = 0.01  # largest charge of a cell


def with_form_factors(atoms: AtomicModel, table: str) -> AtomicModel:
    """The atoms with form factors of this table; ions, by names such as O2-, with those of their own.

    Args:
        atoms: with the form factors "peng".
        table: one of TABLES, for what is neutral.

    Raises:
        ValueError: an ion is not in its table, or the crystal is not neutral.
    """
    rows = list(zip(atoms.form_factor_a, atoms.form_factor_b, strict=True))
    charges = atoms.parameters.new_zeros(atoms.n_atoms)
    for atom, (name, row) in enumerate(zip(atoms.elements, atoms.form_factor_type.tolist(), strict=True)):
        charges[atom] = charge(name)
        if charge(name):
            rows[row] = ion(name, _smallest_s(atoms.cell))
        elif table == "lobato":
            rows[row] = lobato(name)
    _check_neutral(atoms, charges)
    size = max(len(a) for a, _ in rows)
    padded = atoms.parameters.new_zeros(2, len(rows), size)
    for i, row in enumerate(rows):
        for j, values in enumerate(row):
            padded[j, i, : len(values)] = values
    return replace(atoms, form_factor_a=padded[0], form_factor_b=padded[1])


def charge(name: str) -> int:
    """Of "O2-": -2."""
    match = re.fullmatch(r"[A-Za-z]+(\d*)([+-])", name)
    return int(f"{match[2]}{match[1] or 1}") if match else 0


def _check_neutral(atoms: AtomicModel, charges: Tensor) -> None:
    in_cell = atoms.parameters[:, 10] * atoms.multiplicity * len(atoms.rotations)
    total = float((charges * in_cell).sum())
    if abs(total) > _NEUTRAL:
        raise ValueError(
            f"the ions of a cell have a charge of {total:+.2f} together, but crystals are neutral: correct "
            "the charges or the occupancies, or set structure.ions=neutral"
        )


def _smallest_s(cell: Tensor) -> float:
    """A lower bound of s = |g| / 2 [1/A]: no lattice planes are further apart than the longest axis."""
    return 0.5 / float(torch.diagonal(metric_tensor(cell)).max().sqrt())


@cache
def _table(filename: str) -> dict[str, Tensor]:
    """Name -> a_k and b_k, (2, 5)."""
    with (_FOLDER / filename).open(encoding="ascii", newline="") as file:
        _, *rows = csv.reader(file)
    return {row[0]: torch.tensor([float(x) for x in row[1:]]).double().reshape(2, -1) for row in rows}


@cache
def lobato(element: str) -> tuple[Tensor, Tensor]:
    """Amplitudes [A] and exponents [A^2] of Gaussians in s."""
    a, b = _table("lobato_van_dyck_2014.csv")[element]
    s = _LARGEST_S * torch.linspace(0.0, 1.0, 900, dtype=torch.float64) ** 1.5
    x = b * (2.0 * s[:, None]) ** 2
    f = (a * (2.0 + x) / (1.0 + x) ** 2).sum(1)
    gaussians = torch.exp(-_EXPONENTS * s[:, None] ** 2) / f[:, None]
    fit = torch.linalg.lstsq(gaussians, torch.ones_like(f)[:, None], driver="gelsd")
    return fit.solution[:, 0], _EXPONENTS


def ion(name: str, smallest_s: float) -> tuple[Tensor, Tensor]:
    """Amplitudes [A] and exponents [A^2] of Gaussians in s.

    Args:
        name: such as O2-.
        smallest_s: below which the charge does not count [1/A].

    Raises:
        ValueError: the table does not have it.
    """
    element = name.rstrip("+-0123456789")
    key = f"{element}{abs(charge(name))}{name[-1]}"
    table = _table("peng_1998_ions.csv")
    if key not in table:
        raise ValueError(
            f"there are no electron scattering factors of the ion {name}: give another charge, or set "
            "structure.ions=neutral"
        )
    a, b = table[key]
    first, last = math.log(_SMALLEST_U), math.log(_CUT_OFF / smallest_s**2)
    u = torch.exp(torch.arange(first, last, _STEP, dtype=torch.float64))
    return torch.cat([a, _COULOMB * charge(name) * _STEP * u]), torch.cat([b, u])
