"""Displacements that are not positive: from a poor start they are mostly a false minimum."""

from __future__ import annotations

import torch
from torch import Tensor

from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.data import ATOM_PARAMETERS, AtomicModel
from dials_hybrid.model.crystal import Crystal, overall_displacement

_ISO = ATOM_PARAMETERS.index("uiso")
_ANISO = ATOM_PARAMETERS.index("u11")
_ROWS, _COLUMNS = (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)  # of U_11, U_22, U_33, U_12, U_13, U_23


def principal_displacements(atoms: AtomicModel) -> Tensor:
    """Mean-square displacements along the principal axes (n, 3) [A^2], the least first."""
    u = atoms.parameters[:, _ANISO : _ANISO + 6]
    star = u.new_zeros(len(u), 3, 3)
    star[:, _ROWS, _COLUMNS] = u
    star[:, _COLUMNS, _ROWS] = u
    # With G = L L^T lengths are those of L^T x, where U* = <x x^T> becomes L^T U* L.
    root = torch.linalg.cholesky(metric_tensor(atoms.cell))
    principal = torch.linalg.eigvalsh(root.T @ star @ root)
    return torch.where(atoms.anisotropic[:, None], principal, atoms.parameters[:, _ISO : _ISO + 1])


def isotropic_instead(crystal: Crystal) -> Tensor | None:
    """Shifts (P,) with which refined U that are not positive are isotropic, and the median of the others.

    None where there are none of those, or no others.
    """
    atoms, jacobian = crystal.atoms(), crystal.jacobian
    principal = principal_displacements(atoms)
    wrong = principal[:, 0] <= 0.0
    by_u = jacobian.view(len(jacobian), *atoms.parameters.shape)[:, :, _ISO : _ANISO + 6]
    wrong &= (by_u != 0.0).any(-1).any(0)
    if not wrong.any() or wrong.all():
        return None
    u = principal[~wrong].mean(-1).median()
    change = (u * overall_displacement(atoms) - atoms.parameters)[wrong, _ISO : _ANISO + 6].flatten()
    rows = by_u[:, wrong].flatten(1)
    parameters = (rows != 0.0).any(-1)
    shifts = crystal.shifts.detach().clone()
    # The solver of a GPU needs full rank, which ties need not leave.
    found = torch.linalg.lstsq(rows[parameters].T.cpu(), change[:, None].cpu()).solution[:, 0]
    shifts[parameters] += found.to(shifts.device)
    return shifts
