r"""Structure factors for electrons and the Fourier coefficients U_g of the crystal potential.

    F_g = sum_j o_j f_j(s) T_j(g) exp(-2 pi i g.r_j),     s = |g| / 2
    T_j = exp(-2 pi^2 h^T U*_j h)   or   exp(-8 pi^2 U_j s^2)
    U_g = gamma F_g / (pi V)

The sign in the exponent belongs to waves exp(+2 pi i k.r). cctbx has the other one: its structure
factors are the complex conjugates of these. Mixing them up exchanges the two hands of a crystal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dials_hybrid.bloch.electron import relativistic_factor
from dials_hybrid.data import AtomicModel

_CHUNK = 2**17  # reflections times atoms times operations held at once


def metric_tensor(cell: Tensor) -> Tensor:
    """Direct-space metric tensor (3, 3) [A^2] of a cell (6,) [A, degree]."""
    a = cell[:3]
    cos_alpha, cos_beta, cos_gamma = torch.cos(torch.deg2rad(cell[3:])).unbind()
    one = torch.ones_like(cos_alpha)
    cosines = torch.stack(
        [one, cos_gamma, cos_beta, cos_gamma, one, cos_alpha, cos_beta, cos_alpha, one]
    ).reshape(3, 3)
    return a[:, None] * a[None, :] * cosines


def cell_volume(cell: Tensor) -> Tensor:
    """Volume [A^3] of a cell (6,) [A, degree]."""
    return torch.sqrt(torch.linalg.det(metric_tensor(cell)))


def squared_lengths(cell: Tensor, hkl: Tensor) -> Tensor:
    """|g|^2 [1/A^2], shape (G,), of Miller indices (G, 3)."""
    h = hkl.to(cell.dtype)
    return torch.einsum("gi,ij,gj->g", h, torch.linalg.inv(metric_tensor(cell)), h)


def form_factors(atoms: AtomicModel, s_squared: Tensor) -> Tensor:
    """f_j(s) [A], shape (G, n), as sums of Gaussians at s^2 (G,) [1/A^2]."""
    a, b = atoms.form_factor_a, atoms.form_factor_b
    by_type = (a * torch.exp(-b * s_squared[:, None, None])).sum(-1)
    return by_type[:, atoms.form_factor_type]


def _rotated_indices(atoms: AtomicModel, hkl: Tensor) -> tuple[Tensor, Tensor]:
    """h R (G, S, 3) and h.t (G, S) of every symmetry operation (R, t)."""
    h = hkl.to(atoms.parameters.dtype)
    return torch.einsum("gi,sij->gsj", h, atoms.rotations), h @ atoms.translations.T


def _contributions(atoms: AtomicModel, parameters: Tensor, hkl: Tensor):
    """Every term of F_g for unit occupancy (G, S, n), the indices h R behind it, and s^2."""
    s_squared = squared_lengths(atoms.cell, hkl) / 4.0
    h, phase_shift = _rotated_indices(atoms, hkl)
    phase = h @ parameters[:, :3].T + phase_shift[..., None]
    u11, u22, u33, u12, u13, u23 = parameters[:, 4:10].T
    anisotropic = (
        h[..., 0:1] ** 2 * u11
        + h[..., 1:2] ** 2 * u22
        + h[..., 2:3] ** 2 * u33
        + 2.0 * h[..., 0:1] * h[..., 1:2] * u12
        + 2.0 * h[..., 0:1] * h[..., 2:3] * u13
        + 2.0 * h[..., 1:2] * h[..., 2:3] * u23
    )
    isotropic = (4.0 * s_squared)[:, None, None] * parameters[:, 3]
    exponent = -2.0 * math.pi**2 * torch.where(atoms.anisotropic, anisotropic, isotropic)
    amplitude = (form_factors(atoms, s_squared) * atoms.multiplicity)[:, None, :] * exponent.exp()
    return torch.polar(amplitude, -2.0 * math.pi * phase), h, s_squared


def structure_factors(atoms: AtomicModel, hkl: Tensor, parameters: Tensor | None = None) -> Tensor:
    """F_g (G,) complex [A] of Miller indices (G, 3); differentiable in `parameters` (n, 11)."""
    parameters = atoms.parameters if parameters is None else parameters
    size = max(1, _CHUNK // (atoms.n_atoms * len(atoms.rotations)))
    parts = []
    for part in hkl.split(size):
        terms, _, _ = _contributions(atoms, parameters, part)
        parts.append((terms.sum(1) * parameters[:, 10]).sum(-1))
    return torch.cat(parts)


def _parameter_derivatives(atoms: AtomicModel, hkl: Tensor) -> Tensor:
    """dF_g / d(parameter table), (G, n, 11) complex."""
    terms, h, s_squared = _contributions(atoms, atoms.parameters, hkl)
    occupied = terms * atoms.parameters[:, 10]
    h0, h1, h2 = h.unbind(-1)
    quadratic = [h0 * h0, h1 * h1, h2 * h2, 2 * h0 * h1, 2 * h0 * h2, 2 * h1 * h2]
    moments = torch.stack([h0, h1, h2, *quadratic], dim=-1).to(terms.dtype)
    summed = torch.einsum("gsn,gsk->gnk", occupied, moments)
    isotropic = ~atoms.anisotropic
    derivative = terms.new_zeros(len(hkl), atoms.n_atoms, 11)
    derivative[..., 0:3] = -2j * math.pi * summed[..., 0:3]
    total = occupied.sum(1)
    derivative[..., 3] = -8.0 * math.pi**2 * s_squared[:, None] * total * isotropic
    derivative[..., 4:10] = -2.0 * math.pi**2 * summed[..., 3:] * atoms.anisotropic[:, None]
    derivative[..., 10] = terms.sum(1)
    return derivative


def structure_factor_derivatives(atoms: AtomicModel, hkl: Tensor, jacobian: Tensor) -> Tensor:
    """dF_g / dx, shape (P, G) complex.

    Args:
        atoms: the structure at which to differentiate.
        hkl: Miller indices (G, 3).
        jacobian: d(parameter table) / dx of P independent parameters x, shape (P, 11 n).
    """
    jacobian = jacobian.to(torch.complex128 if jacobian.dtype == torch.float64 else torch.complex64)
    size = max(1, _CHUNK // (atoms.n_atoms * max(len(atoms.rotations), 11)))
    parts = [jacobian @ _parameter_derivatives(atoms, part).flatten(1).T for part in hkl.split(size)]
    return torch.cat(parts, dim=1)


def potential_scale(cell: Tensor, wavelength: float) -> float:
    """gamma / (pi V) [1/A^3], which turns F_g [A] into U_g [1/A^2]."""
    return relativistic_factor(wavelength) / (math.pi * float(cell_volume(cell)))
