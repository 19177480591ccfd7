"""The atoms as a function of the independent parameters of a constrained refinement."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dials_hybrid.bloch.propagate import Potential
from dials_hybrid.bloch.scattering import (
    potential_scale,
    structure_factor_derivatives,
    structure_factors,
)
from dials_hybrid.data import AtomicModel


class Crystal(nn.Module):
    """Parameter table p = p_0 + J^T x; x are shifts of the P independent parameters.

    Args:
        atoms: the structure at x = 0.
        jacobian: J, (P, 11 n), from the symmetry and the constraints (exact for symmetry).
        names: name of each independent parameter.
    """

    def __init__(self, atoms: AtomicModel, jacobian: Tensor, names: tuple[str, ...]):
        super().__init__()
        self.start = atoms
        self.names = names
        self.register_buffer("jacobian", jacobian)
        self.shifts = nn.Parameter(torch.zeros(len(jacobian), dtype=jacobian.dtype))

    def atoms(self) -> AtomicModel:
        """The structure at the present shifts."""
        shifts = (self.jacobian.T @ self.shifts.detach()).reshape(-1, 11)
        return self.start.with_parameters(self.start.parameters + shifts)

    def potential(self, hkl: Tensor, wavelength: float, derivatives: bool) -> Potential:
        """U_g (G,) [1/A^2] at Miller indices (G, 3), with dU_g / dx (P, G) if asked for."""
        atoms = self.atoms()
        scale = potential_scale(atoms.cell, wavelength)
        u = scale * structure_factors(atoms, hkl)
        if not derivatives:
            return Potential(u)
        return Potential(u, scale * structure_factor_derivatives(atoms, hkl, self.jacobian))
