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
    metric_tensor,
    potential_scale,
    structure_factor_derivatives,
    structure_factors,
)
from dials_hybrid.data import AtomicModel


class Crystal(nn.Module):
    """Parameter table p = p_0 + J^T x; x are shifts of the P independent parameters.

    The potential of a centrosymmetric structure is given as seen from a centre, where it is real.

    Each of several crystals may add an overall displacement u to the U of all atoms, as a dose of electrons
    does: U_g is that of the first times exp(-2 pi^2 u |g|^2), and absorption is that of the larger U. The
    first crystal has u = 0, or u and the U of the atoms would be one number.

    Args:
        atoms: the structure at x = 0.
        jacobian: J, (P, 11 n), from the symmetry and the constraints (exact for symmetry).
        names: name of each independent parameter.
        absorption: factor c on the absorptive potential of thermal diffuse scattering; 0 for none.
        absorption_restraint: standard deviation of the Gaussian prior on c about this value, with which c
            is one more parameter; None holds it.
        elastic: leave absorption out all the same; no intensity depends on c then.
        n_displacements: crystals beside the first that have a u [A^2]; the last parameters.
    """

    jacobian: Tensor
    centre: Tensor | None  # see `inversion_centre`

    def __init__(
        self,
        atoms: AtomicModel,
        jacobian: Tensor,
        names: tuple[str, ...],
        absorption: float = 0.0,
        absorption_restraint: float | None = None,
        *,
        elastic: bool = False,
        n_displacements: int = 0,
    ):
        super().__init__()
        self._absorption = absorption
        self.absorption_restraint = absorption_restraint
        self.elastic = elastic
        self.start = atoms
        self.names = names
        self.register_buffer("jacobian", jacobian)
        self.shifts = nn.Parameter(torch.zeros(len(jacobian), dtype=jacobian.dtype))
        refined = [] if absorption_restraint is None else [absorption]
        self.absorption_factor = nn.Parameter(torch.tensor(refined, dtype=jacobian.dtype))
        self.overall_u = nn.Parameter(torch.zeros(n_displacements, dtype=jacobian.dtype))
        self.register_buffer("centre", inversion_centre(atoms))

    @property
    def absorption(self) -> float:
        """c as it is now."""
        return float(self.absorption_factor.detach()) if len(self.absorption_factor) else self._absorption

    def prior(self) -> tuple[Tensor, Tensor]:
        """Centre and standard deviation (infinite: free) of the prior on each parameter."""
        free, factor = torch.zeros_like(self.shifts), self.absorption_factor
        centre = torch.full_like(factor, self._absorption)
        sigma = torch.full_like(factor, self.absorption_restraint or 0.0)
        u = torch.zeros_like(self.overall_u)
        sigma = torch.cat([torch.full_like(free, torch.inf), sigma, torch.full_like(u, torch.inf)])
        return torch.cat([free, centre, u]).detach(), sigma.detach()

    def atoms(self) -> AtomicModel:
        """The structure at the present shifts."""
        return self.atoms_at(self.shifts.detach())

    def atoms_at(self, shifts: Tensor) -> AtomicModel:
        """The structure at other shifts (P,)."""
        shifts = (self.jacobian.T @ shifts).reshape(-1, 11)
        return self.start.with_parameters(self.start.parameters + shifts)

    def potential(self, hkl: Tensor, wavelength: float, derivatives: bool, crystal: int = 0) -> Potential:
        """U_g (G,) [1/A^2] at Miller indices (G, 3), with its derivatives (P, G) if asked for."""
        atoms, jacobian = self.atoms(), self.jacobian
        if crystal and len(self.overall_u):
            direction = overall_displacement(atoms)
            atoms = atoms.with_parameters(atoms.parameters + self.overall_u.detach()[crystal - 1] * direction)
            jacobian = torch.cat([jacobian, direction.flatten()[None]])
        scale = potential_scale(atoms.cell, wavelength)
        u, du = scale * structure_factors(atoms, hkl), None
        if derivatives:
            du = self._from_centre(scale * structure_factor_derivatives(atoms, hkl, jacobian), hkl)
        found = Potential(self._from_centre(u, hkl), du)
        if self.absorption and not self.elastic:
            found = self._with_absorption(found, atoms, jacobian, hkl, wavelength)
        elif du is not None and len(self.absorption_factor):
            found = replace(found, derivatives=torch.cat([du, torch.zeros_like(du[:1])]))
        return self._in_place(found, crystal) if derivatives and len(self.overall_u) else found

    def _in_place(self, found: Potential, crystal: int) -> Potential:
        """Derivatives by atoms, u of this crystal (none of the first) and c as those by all parameters."""
        n, first = len(self.shifts), len(self.shifts) + len(self.absorption_factor)

        def placed(rows: Tensor) -> Tensor:
            result = rows.new_zeros(first + len(self.overall_u), *rows.shape[1:])
            result[:n] = rows[:n]
            if crystal:
                result[first + crystal - 1] = rows[n]
            result[n:first] = rows[len(rows) - (first - n) :]
            return result

        of_mean = found.absorption_derivatives
        assert found.derivatives is not None
        return replace(
            found,
            derivatives=placed(found.derivatives),
            absorption_derivatives=None if of_mean is None else placed(of_mean),
        )

    def _with_absorption(
        self, elastic: Potential, atoms: AtomicModel, jacobian: Tensor, hkl: Tensor, wavelength: float
    ) -> Potential:
        """U_g + i c U'_g, and c U'_0; the derivatives by c come last."""
        c, scale = self.absorption, absorption_scale(atoms.cell, wavelength)
        hkl = torch.cat([torch.zeros_like(hkl[:1]), hkl])
        u = self._from_centre(scale * absorptive_structure_factors(atoms, hkl), hkl)
        potential = Potential(elastic.u + 1j * c * u[1:], absorption=c * float(u[0].real))
        if elastic.derivatives is None:
            return potential
        du = scale * absorptive_structure_factor_derivatives(atoms, hkl, jacobian)
        by_x = c * self._from_centre(du, hkl)
        derivatives, of_mean = elastic.derivatives + 1j * by_x[:, 1:], by_x[:, 0].real
        if len(self.absorption_factor):
            derivatives = torch.cat([derivatives, 1j * u[None, 1:]])
            of_mean = torch.cat([of_mean, u[:1].real])
        return replace(potential, derivatives=derivatives, absorption_derivatives=of_mean)

    def _from_centre(self, u: Tensor, hkl: Tensor) -> Tensor:
        """The real u_g exp(2 pi i g.c) of values (..., G) where there is a centre c; else u itself."""
        if self.centre is None:
            return u
        angle = 2.0 * math.pi * (hkl.to(self.centre.dtype) @ self.centre)
        return u.real * torch.cos(angle) - u.imag * torch.sin(angle)


def overall_displacement(atoms: AtomicModel) -> Tensor:
    """d(parameter table) / du (n, 11) of a displacement u [A^2] that all atoms share: U* grows by u G^-1."""
    g = torch.linalg.inv(metric_tensor(atoms.cell))
    star = torch.stack([g[0, 0], g[1, 1], g[2, 2], g[0, 1], g[0, 2], g[1, 2]])
    direction = torch.zeros_like(atoms.parameters)
    direction[~atoms.anisotropic, 3] = 1.0
    direction[atoms.anisotropic, 4:10] = star
    return direction


def inversion_centre(atoms: AtomicModel) -> Tensor | None:
    """Fractional coordinates (3,) of a centre of symmetry, None if there is none."""
    inversion = -torch.eye(3, dtype=atoms.rotations.dtype, device=atoms.rotations.device)
    found = (atoms.rotations == inversion).all(-1).all(-1).nonzero().flatten()
    return atoms.translations[found[0]] / 2.0 if len(found) else None
