"""Do model and data belong together? Cell, and setting where the lattice leaves a choice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cctbx import miller, xray
from cctbx.array_family import flex
from cctbx.sgtbx import lattice_symmetry

_LENGTH_TOLERANCE = 0.03  # relative
_ANGLE_TOLERANCE = 2.0  # degree
_CLEARLY_BETTER = 2.0  # standard errors of a difference between correlations
_FEWEST_REFLECTIONS, _FEWEST_UNIQUE = 20, 6


@dataclass(frozen=True)
class SettingCheck:
    """Correlation of merged |F_obs| with kinematical |F_calc| in each possible setting."""

    correlation: dict[str, float]  # change of basis, "h,k,l" first -> correlation coefficient
    n_unique: int  # reflections correlated

    @property
    def present(self) -> float:
        return self.correlation["h,k,l"]

    @property
    def better(self) -> str | None:
        """A setting in which the data fit the model clearly better.

        artanh of a correlation over n pairs has the standard error 1 / sqrt(n - 3) (Fisher). With poor atoms
        all settings are nearly alike, and chance decides which is the best.
        """
        z = {name: math.atanh(min(value, 1.0 - 1e-9)) for name, value in self.correlation.items()}
        best = max(z, key=z.__getitem__)
        error = math.sqrt(2.0 / (self.n_unique - 3))
        return best if z[best] > z["h,k,l"] + _CLEARLY_BETTER * error else None


def check_cell(structure: xray.structure, cell: tuple[float, ...], name: str) -> None:
    """Raise ValueError if the cells of model and data differ by more than experimental error.

    Args:
        structure: the model.
        cell: of the data [A], [degree].
        name: of the data, for the message.
    """
    model = structure.unit_cell().parameters()
    lengths = max(abs(m / d - 1.0) for m, d in zip(model[:3], cell[:3], strict=True))
    angles = max(abs(m - d) for m, d in zip(model[3:], cell[3:], strict=True))
    if lengths > _LENGTH_TOLERANCE or angles > _ANGLE_TOLERANCE:
        raise ValueError(
            f"the cell of the model ({_cell(model)}) is not that of {name} ({_cell(cell)}): "
            "use the right model, or transform it to the setting of the data"
        )


def _cell(parameters) -> str:
    return " ".join(f"{value:.2f}" for value in parameters)


def check_setting(
    structure: xray.structure, hkl: np.ndarray, intensity: np.ndarray, sigma: np.ndarray
) -> SettingCheck | None:
    """Compare the settings that the lattice allows but the point group tells apart.

    In point group 32, for instance, (h, k, l) and (-h, -k, l) are different reflections of one
    lattice. Friedel's law is taken to hold, so the two hands look alike here.

    Args:
        structure: the model.
        hkl: Miller indices (M, 3).
        intensity: observed intensities, Lorentz-corrected (M,).
        sigma: their standard uncertainties (M,).

    Returns:
        None where there are too few observed reflections.
    """
    strong = intensity > 3.0 * sigma
    if strong.sum() < _FEWEST_REFLECTIONS:
        return None
    data = flex.double(np.sqrt(intensity[strong]))
    correlation, n_unique = {}, 0
    for name, rotation in _settings(structure).items():
        correlation[name], n = _correlation(structure, hkl[strong] @ rotation, data)
        n_unique = n_unique or n  # of the present setting
    return SettingCheck(correlation, n_unique) if n_unique >= _FEWEST_UNIQUE else None


def _settings(structure: xray.structure) -> dict[str, np.ndarray]:
    """Rotations (3, 3) of the lattice beyond those of the Laue group, the identity first.

    Each is named by what it does to Miller indices, "-h,-k,l", and acts on them as rows: h R. Of those
    that the Laue group makes equivalent the one with the shortest name stands for all.
    """
    symmetry = structure.crystal_symmetry()
    to_niggli = symmetry.change_of_basis_op_to_niggli_cell()
    niggli_cell = symmetry.change_basis(to_niggli).unit_cell()
    lattice = lattice_symmetry.group(niggli_cell, max_delta=_ANGLE_TOLERANCE)
    laue = structure.space_group().build_derived_laue_group()
    laue_rotations = [_rotation(operation) for operation in laue.all_ops()]
    identity = np.eye(3, dtype=int)
    settings, seen = {"h,k,l": identity}, [_coset(identity, laue_rotations)]
    operations = lattice.change_basis(to_niggli.inverse()).all_ops()
    for operation in sorted(operations, key=lambda operation: len(operation.r().as_hkl())):
        rotation = _rotation(operation)
        coset = _coset(rotation, laue_rotations)
        if coset not in seen:
            seen.append(coset)
            settings[operation.r().as_hkl()] = rotation
    return settings


def _rotation(operation) -> np.ndarray:
    return np.array(operation.r().as_double()).round().astype(int).reshape(3, 3)


def _coset(rotation: np.ndarray, laue_rotations: list[np.ndarray]) -> frozenset:
    """All settings that the Laue group makes equivalent to this one."""
    return frozenset(tuple((rotation @ laue).flatten()) for laue in laue_rotations)


def _correlation(structure: xray.structure, hkl: np.ndarray, data: flex.double) -> tuple[float, int]:
    """Coefficient of the amplitudes of unique reflections, and how many these are."""
    indices = flex.miller_index([tuple(h) for h in hkl.tolist()])
    reflections = miller.set(structure.crystal_symmetry(), indices, anomalous_flag=False)
    merged = miller.array(reflections, data).merge_equivalents().array()
    calculated = merged.structure_factors_from_scatterers(structure, algorithm="direct").f_calc()
    coefficient = flex.linear_correlation(merged.data(), flex.abs(calculated.data())).coefficient()
    return coefficient, merged.size()
