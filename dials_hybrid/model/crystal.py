"""The atoms as a function of the independent parameters of a constrained refinement."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from dials_hybrid.bloch.absorption import (
    absorption_scale,
    absorptive_structure_factor_derivatives,
    absorptive_structure_factors,
)
from dials_hybrid.bloch.propagate import Potential
from dials_hybrid.bloch.scattering import (
    potential_scale,
    structure_factor_derivatives,
    structure_factors,
)
from dials_hybrid.data import AtomicModel


class Crystal(nn.Module):
    """Parameter table p = p_0 + J^T x; x are shifts of the P independent parameters.

    The potential of a centrosymmetric structure is given as seen from a centre, where it is real.

    Args:
        atoms: the structure at x = 0.
        jacobian: J, (P, 11 n), from the symmetry and the constraints (exact for symmetry).
        names: name of each independent parameter.
        absorption: factor on the absorptive potential of thermal diffuse scattering; 0 for none.
    """

    def __init__(self, atoms: AtomicModel, jacobian: Tensor, names: tuple[str, ...], absorption: float = 0.0):
        super().__init__()
        self.absorption = absorption
        self.start = atoms
        self.names = names
        self.register_buffer("jacobian", jacobian)
        self.shifts = nn.Parameter(torch.zeros(len(jacobian), dtype=jacobian.dtype))
        self.register_buffer("centre", inversion_centre(atoms))

    def atoms(self) -> AtomicModel:
        """The structure at the present shifts."""
        return self.atoms_at(self.shifts.detach())

    def atoms_at(self, shifts: Tensor) -> AtomicModel:
        """The structure at other shifts (P,)."""
        shifts = (self.jacobian.T @ shifts).reshape(-1, 11)
        return self.start.with_parameters(self.start.parameters + shifts)

    def potential(self, hkl: Tensor, wavelength: float, derivatives: bool) -> Potential:
        """U_g (G,) [1/A^2] at Miller indices (G, 3), with dU_g / dx (P, G) if asked for."""
        atoms = self.atoms()
        scale = potential_scale(atoms.cell, wavelength)
        u, du = scale * structure_factors(atoms, hkl), None
        if derivatives:
            du = self._from_centre(scale * structure_factor_derivatives(atoms, hkl, self.jacobian), hkl)
        elastic = Potential(self._from_centre(u, hkl), du)
        return self._with_absorption(elastic, atoms, hkl, wavelength) if self.absorption else elastic

    def _with_absorption(
        self, elastic: Potential, atoms: AtomicModel, hkl: Tensor, wavelength: float
    ) -> Potential:
        """U_g + i U'_g, and U'_0."""
        scale = self.absorption * absorption_scale(atoms.cell, wavelength)
        hkl = torch.cat([torch.zeros_like(hkl[:1]), hkl])
        u = self._from_centre(scale * absorptive_structure_factors(atoms, hkl), hkl)
        potential = Potential(elastic.u + 1j * u[1:], absorption=float(u[0].real))
        if elastic.derivatives is None:
            return potential
        du = scale * absorptive_structure_factor_derivatives(atoms, hkl, self.jacobian)
        du = self._from_centre(du, hkl)
        return replace(
            potential,
            derivatives=elastic.derivatives + 1j * du[:, 1:],
            absorption_derivatives=du[:, 0].real,
        )

    def _from_centre(self, u: Tensor, hkl: Tensor) -> Tensor:
        """The real u_g exp(2 pi i g.c) of values (..., G) where there is a centre c; else u itself."""
        if self.centre is None:
            return u
        angle = 2.0 * math.pi * (hkl.to(self.centre.dtype) @ self.centre)
        return u.real * torch.cos(angle) - u.imag * torch.sin(angle)


def inversion_centre(atoms: AtomicModel) -> Tensor | None:
    """Fractional coordinates (3,) of a centre of symmetry, None if there is none."""
    inversion = -torch.eye(3, dtype=atoms.rotations.dtype, device=atoms.rotations.device)
    found = (atoms.rotations == inversion).all(-1).all(-1).nonzero().flatten()
    return atoms.translations[found[0]] / 2.0 if len(found) else None
