"""Constraints: which combinations of atomic parameters are free.

smtbx works out those of symmetry (sites and displacement parameters on special positions, refinement
flags); `dials_hybrid.io.ties` adds what else is tied. They are affine: with x the shifts of the
independent parameters, the parameter table is p = p0 + J^T x, row-major as `AtomicModel.parameters`, and
obeys the space group for every x.
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
from dials_hybrid.io.ties import Ties, leading, tied

_WIDTH = len(ATOM_PARAMETERS)


@dataclass(frozen=True)
class Constraints:
    """The independent parameters of a structure with n atoms."""

    jacobian: Tensor  # (n_independent, n * 11): d parameters / d independent, transposed
    names: tuple[str, ...]  # one a row of `jacobian`: "Si1.x", "O1.u12"
    # (n_polar, n_independent), orthonormal rows: shifts of the whole structure along the free
    # origins of a polar space group. No diffraction data determine them: project them out.
    origin_shifts: Tensor
    riding: tuple[str, ...] = ()  # labels of hydrogen atoms that follow their pivots
    # PART of each atom, 0 without: alternatives are not bonded, those of a negative one not to their images.
    parts: tuple[int, ...] = ()


def constraints(structure: xray.structure, ties: Ties | None = None) -> Constraints:
    """The constraints of a structure from `prepare_structure`.

    Args:
        ties: what is tied beside the symmetry; atoms that follow others need no flags of refinement.
    """
    jacobian = _jacobian(_with_followers(structure, ties) if ties else structure)
    labels = structure.scatterers().extract_labels()
    names = [_name(row, labels) for row in jacobian]
    if ties:
        jacobian, kept, modes = tied(structure, jacobian, ties)
        names = [names[row] for row in kept] + modes
    return Constraints(
        jacobian=torch.from_numpy(jacobian),
        names=tuple(names),
        origin_shifts=torch.from_numpy(_origin_shifts(structure, jacobian)),
    )


def _with_followers(structure: xray.structure, ties: Ties) -> xray.structure:
    """The structure with those atoms refined, too, that then lose their freedom to others."""
    flagged = structure.deep_copy_scatterers()
    sites, displacements = ties.followers()
    for i, scatterer in enumerate(flagged.scatterers()):
        if i in sites:
            scatterer.flags.set_grad_site(True)
        if i in displacements and scatterer.flags.use_u_iso():
            scatterer.flags.set_grad_u_iso(True)
    return flagged


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
    index, parameter = divmod(leading(row), _WIDTH)
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
