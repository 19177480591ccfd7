"""What the report shows, as plain arrays: the only thing its other files know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reflections:
    """The M observations used, intensities on the scale of the data."""

    hkl: np.ndarray  # (M, 3)
    d: np.ndarray  # (M,) [A]
    crystal: np.ndarray  # (M,)
    angle: np.ndarray  # (M,) scan angle [degree]
    observed: np.ndarray  # (M,)
    sigma: np.ndarray  # (M,) as integrated
    calculated: np.ndarray  # (M,)
    residual: np.ndarray  # (M,) (I_calc - I_obs) / sigma', sigma' of the error model
    free: np.ndarray  # (M,) bool


@dataclass(frozen=True)
class Curve:
    """A number against the scan angle of one crystal, with its standard uncertainty if known."""

    name: str
    crystal: int
    angle: np.ndarray  # (n,) [degree]
    value: np.ndarray  # (n,)
    uncertainty: np.ndarray | None = None  # (n,)


@dataclass(frozen=True)
class Distribution:
    """p(t) of one crystal against the scan angle."""

    crystal: int
    angle: np.ndarray  # (n,) [degree]
    thickness: np.ndarray  # (T,) [A]
    density: np.ndarray  # (n, T) [1/A]


@dataclass(frozen=True)
class Structure:
    """The asymmetric unit of n atoms and the S operations that repeat it."""

    labels: Sequence[str]
    elements: Sequence[str]
    sites: np.ndarray  # (n, 3) fractional
    u_cart: np.ndarray  # (n, 3, 3) [A^2]
    radii: np.ndarray  # (n,) covalent [A]
    orthogonalisation: np.ndarray  # (3, 3): cartesian = matrix @ fractional [A]
    rotations: np.ndarray  # (S, 3, 3) act on fractional coordinates
    translations: np.ndarray  # (S, 3)


Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # headings, rows


@dataclass(frozen=True)
class ReportData:
    """All of it.

    `summary` is what output.json holds; atoms, displacements and bonds are headings and rows of text, as
    they stand in the CIF.
    """

    title: str
    summary: Mapping
    reflections: Reflections
    distributions: Sequence[Distribution]
    tilts: Sequence[Curve]  # [degree]
    scales: Sequence[Curve]
    structure: Structure
    cell: str
    atoms: Table
    displacements: Table
    bonds: Table
