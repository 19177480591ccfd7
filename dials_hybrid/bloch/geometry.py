"""Orientation of the crystal in the beam: small tilts and excitation errors.

r = M h                                   reciprocal-lattice vector in the laboratory
S_g = (K^2 - |K + r|^2) / (2 K) = -(n.r + r^2 / (2 K)),    K = K n
"""

from __future__ import annotations

import torch
from torch import Tensor


def tilt_axes(beam: Tensor, rotation_axis: Tensor) -> Tensor:
    """The axes of the two small tilts, unit vectors (..., 2, 3).

    The first lies across the rotation axis, perpendicular to it and to the beam: no later step of
    the scan makes good for a tilt about it. The second is the rotation axis without its component
    along the beam; a tilt about it shifts the scan angle. A turn about the beam itself changes no
    intensity.

    Args:
        beam: unit vector along the incident beam (..., 3).
        rotation_axis: unit vector (..., 3).
    """
    across = torch.linalg.cross(beam, rotation_axis)
    across = across / torch.linalg.norm(across, dim=-1, keepdim=True)
    return torch.stack([across, torch.linalg.cross(across, beam)], dim=-2)


def rotation_matrix(vector: Tensor) -> Tensor:
    """Right-handed rotations (..., 3, 3) by |vector| radians about `vector` (..., 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    generator = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    return torch.linalg.matrix_exp(generator.reshape(*vector.shape[:-1], 3, 3))


def excitation_errors(r: Tensor, beam: Tensor, wave_number: float) -> Tensor:
    """S_g [1/A], shape (...).

    Args:
        r: reciprocal-lattice vectors in the laboratory (..., 3) [1/A].
        beam: unit vector along the incident beam, broadcast against r.
        wave_number: K [1/A].
    """
    return -((r * beam).sum(-1) + (r * r).sum(-1) / (2.0 * wave_number))


def excitation_errors_of_lattice(basis: Tensor, beam: Tensor, hkl: Tensor, wave_number: float) -> Tensor:
    """S_g (K, G) [1/A] of all lattice points in all orientations.

    S_g is linear in the indices and their products, so that it is one product of matrices.

    Args:
        basis: reciprocal basis B of each orientation (K, 3, 3) [1/A].
        beam: unit vectors along the incident beam (K, 3) or (3,).
        hkl: (G, 3) of the same floating-point type.
        wave_number: K [1/A].
    """
    numbers = torch.cat([hkl, (hkl[:, :, None] * hkl[:, None, :]).flatten(1)], dim=1)
    metric = (basis.mT @ basis).flatten(1) / (-2.0 * wave_number)
    along = -(basis.mT @ beam.unsqueeze(-1)).squeeze(-1)
    return torch.cat([along, metric], dim=1) @ numbers.T


def excitation_error_tilts(r: Tensor, beam: Tensor, axis: Tensor) -> Tensor:
    """dS_g / d(tilt about `axis`) [1/A/radian], shape (...): -n.(axis x r)."""
    return -(beam * torch.linalg.cross(*torch.broadcast_tensors(axis, r))).sum(-1)
