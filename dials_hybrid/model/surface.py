r"""Plates whose surfaces are not perpendicular to the beam.

With n normal to the surfaces and thickness t measured along n,

    psi(t) = exp(i pi t A / K_n) e_0,     A -> M A M,     M_g = 1 / sqrt(1 + g.n / K_n),     K_n = K.n.

So the way through the crystal is t K / K_n, and beams that leave it at a slant are propagated at their own
pace. |psi_g|^2 is the flux of the beam through the exit surface, which is what a detector counts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dials_hybrid.bloch.geometry import rotation_matrix
from dials_hybrid.data import RockingSteps

_SMALLEST_COSINE = 0.1  # of beam and normal: seen more from the side, a plate is no plate


def normals(directions: Tensor, steps: RockingSteps, basis: Tensor) -> Tensor:
    """Unit vectors n (K, 3), pointing down the beam, in each step.

    Args:
        directions: of n in each crystal (C, 3), in units of the reciprocal axes.
        steps: for beams and crystals.
        basis: (K, 3, 3) reciprocal basis of each step [1/A].

    Raises:
        ValueError: a crystal is seen edge on.
    """
    n = torch.einsum("kij,kj->ki", basis, directions.to(basis)[steps.crystal])
    n = n / n.norm(dim=1, keepdim=True)
    cosine = (n * steps.beam[steps.crystal]).sum(1)
    worst = int(cosine.abs().argmin())
    if cosine.abs()[worst] < _SMALLEST_COSINE:
        inclination = math.degrees(math.acos(abs(float(cosine[worst]))))
        raise ValueError(
            f"at scan angle {float(steps.angle[worst]):.1f} degree the beam runs along the surface of "
            f"crystal {int(steps.crystal[worst]) + 1}, {inclination:.1f} degree from its normal: "
            "thickness.surface is not that of a plate that this scan looks through"
        )
    return n * torch.sign(cosine)[:, None]


def stage_normal(steps: RockingSteps, crystal: int) -> Tensor:
    """Direction (3,), in units of the reciprocal axes, that lies along the beam at scan angle zero."""
    k = int((steps.crystal == crystal).nonzero()[0])
    axis = torch.deg2rad(steps.angle[k]) * steps.rotation_axis[crystal]
    n = rotation_matrix(axis[None])[0] @ steps.beam[crystal]
    h = torch.linalg.solve(steps.basis[k], n)
    return h / h.abs().max()
