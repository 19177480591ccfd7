"""Symmetry constraints: which combinations of atomic parameters are free.

smtbx works them out (sites and displacement parameters on special positions, refinement flags).
They are affine: with x the shifts of the independent parameters, the parameter table is
p = p0 + J^T x, row-major as `AtomicModel.parameters`, and obeys the space group for every x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import smtbx.utils
from cctbx import xray
from smtbx.refinement.constraints import reparametrisation

from dials_hybrid.data import ATOM_PARAMETERS

_WIDTH = len(ATOM_PARAMETERS)


@dataclass(frozen=True)
class Constraints:
    """The independent parameters of a structure with n atoms."""

    jacobian: Tensor  # (n_independent, n * 11): d parameters / d independent, transposed
    names: tuple[str, ...]  # one a row of `jacobian`: "Si1.x", "O1.u12"
    # (n_polar, n_independent), orthonormal rows: shifts of the whole structure along the free
    # origins of a polar space group. No diffraction data determine them: project them out.
    origin_shifts: Tensor


def constraints(structure: xray.structure) -> Constraints:
    """The constraints of a structure from `prepare_structure`."""
    jacobian = _jacobian(structure)
    labels = structure.scatterers().extract_labels()
    return Constraints(
        jacobian=torch.from_numpy(jacobian),
        names=tuple(_name(row, labels) for row in jacobian),
        origin_shifts=torch.from_numpy(_origin_shifts(structure, jacobian)),
    )


def _jacobian(structure: xray.structure) -> np.ndarray:
    """The Jacobian (n_independent, n * 11) of the whole parameter table."""
    indexed = structure.deep_copy_scatterers()
    for i, scatterer in enumerate(indexed.scatterers()):
        scatterer.label = str(i)  # annotations then read "0.x", whatever the labels contain
    parametrisation = reparametrisation(indexed, [], smtbx.utils.connectivity_table(indexed))
    parametrisation.linearise()
    refined = parametrisation.jacobian_transpose_matching_grad_fc()
    columns = [_column(annotation) for annotation in parametrisation.component_annotations]
    jacobian = np.zeros((refined.n_rows, _WIDTH * indexed.scatterers().size()))
    jacobian[:, columns] = refined.as_dense_matrix().as_numpy_array()
    return jacobian


def _column(annotation: str) -> int:
    index, parameter = annotation.split(".")
    return _WIDTH * int(index) + ATOM_PARAMETERS.index(parameter)


def _name(row: np.ndarray, labels) -> str:
    """The first parameter that moves one to one with the independent one."""
    index, parameter = divmod(int(np.argmax(np.isclose(row, 1.0))), _WIDTH)
    return f"{labels[index]}.{ATOM_PARAMETERS[parameter]}"


def _origin_shifts(structure: xray.structure, jacobian: np.ndarray) -> np.ndarray:
    seminvariants = structure.space_group_info().structure_seminvariants()
    directions = [item.v for item in seminvariants.select(discrete=False).vectors_and_moduli()]
    shifts = np.zeros((structure.scatterers().size(), _WIDTH, len(directions)))
    shifts[:, :3] = np.reshape(directions, (-1, 3)).T
    shifts = shifts.reshape(jacobian.shape[1], len(directions))
    independent = np.linalg.lstsq(jacobian.T, shifts, rcond=None)[0]
    # An atom whose site is fixed holds the origin: then the shift is out of reach.
    possible = np.allclose(jacobian.T @ independent, shifts)
    return np.linalg.qr(independent)[0].T if possible else np.zeros((0, len(jacobian)))
