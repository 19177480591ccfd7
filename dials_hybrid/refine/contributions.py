r"""What each crystal contributes to the structure that they share.

Part of what the observations of a crystal say is about numbers of its own: orientation, mosaicity,
thickness, scale. With J their weighted derivatives, N = J^T J, x the parameters of the structure, n all
others and P their priors,

    S_c = N_xx - N_xn (N_nn + P_nn)^-1 N_nx

is what crystal c says about the structure whatever these numbers are. Crystals add up, S = sum_c S_c, and

    tr(S_c S^-1) / sum_c tr(S_c S^-1)

is the part of crystal c, the mean over all directions of the structure's parameters. Their units do not
matter, nor does it count twice what a crystal says about one direction only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.model.held import row_blocks
from dials_hybrid.refine.least_squares import Linearisation, covariance
from dials_hybrid.refine.target import Target


@dataclass(frozen=True)
class Contribution:
    """Of one crystal."""

    n_work: float  # measurements
    n_parameters: float  # effective, of all parameters: they add up to those of the fit
    chi_squared: float  # part of the weighted sum of squares
    goodness_of_fit: float
    information: float | None  # part of what is known about the structure; None: it was not refined


def contributions(
    at: Linearisation, crystal: Tensor, target: Target, inverse: Tensor, prior: Tensor, structure: slice
) -> tuple[Contribution, ...]:
    """Of each crystal.

    Args:
        at: weighted residuals and derivatives by all P parameters, where the fit ended.
        crystal: that of each observation (M,).
        inverse: of the normal matrix (P, P).
        prior: what priors and restraints add to the normal matrix (P, P).
        structure: where its parameters stand among all.
    """
    n = len(target.errors)
    matrices = _normal_matrices(at, crystal, n)
    known = [_about_structure(matrix, prior, structure) for matrix in matrices]
    every = torch.ones(len(known[0]), dtype=torch.bool, device=crystal.device)
    total = covariance(torch.stack(known).sum(0), every)
    parts = [float((total * each).sum()) for each in known]
    square = at.residuals**2
    chi_squared = float(square.sum())
    result = []
    for index, matrix in enumerate(matrices):
        own = crystal == index
        n_work, n_parameters = float(target.share[own].sum()), float((inverse * matrix).sum())
        variance = float((square[own] / target.emphasis[own]).sum()) / max(1.0, n_work - n_parameters)
        result.append(
            Contribution(
                n_work=n_work,
                n_parameters=n_parameters,
                chi_squared=float(square[own].sum()) / chi_squared if chi_squared else math.nan,
                goodness_of_fit=math.sqrt(variance / target.expected()),
                information=parts[index] / sum(parts) if sum(parts) > 0.0 else None,
            )
        )
    return tuple(result)


def _normal_matrices(at: Linearisation, crystal: Tensor, n: int) -> Tensor:
    """J^T J of each crystal (C, P, P)."""
    size = at.jacobian.shape[1]
    matrices = at.residuals.new_zeros(n, size, size)
    for rows in row_blocks(*at.jacobian.shape):
        j = at.jacobian[rows]
        for index, matrix in enumerate(matrices):
            own = j[crystal[rows] == index]
            matrix.addmm_(own.T, own)
    return matrices


def _about_structure(matrix: Tensor, prior: Tensor, structure: slice) -> Tensor:
    """S_c from N (P, P)."""
    others = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device)
    others[structure] = False
    others &= torch.diagonal(matrix) > 0.0
    held = covariance(matrix + prior, others)[others][:, others]
    coupling = matrix[structure][:, others]
    return matrix[structure, structure] - coupling @ held @ coupling.T
