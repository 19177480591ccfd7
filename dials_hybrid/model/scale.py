"""Scale of calculated to observed intensities, a smooth positive function of the scan angle."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dials_hybrid.data import Observations
from dials_hybrid.model.smooth import spline_basis


class Scale(nn.Module):
    """exp(spline of the scan angle), one curve of `n_nodes` coefficients a crystal."""

    def __init__(self, observations: Observations, n_crystals: int, n_nodes: int):
        super().__init__()
        angle, crystal = observations.angle, observations.crystal
        self.log_scale = nn.Parameter(torch.zeros(n_crystals, n_nodes, dtype=angle.dtype))
        columns = []
        for index in range(n_crystals):
            own = crystal == index
            values = angle.new_zeros(len(angle), n_nodes)
            if own.any():
                limits = float(angle[own].min()), float(angle[own].max())
                values[own] = spline_basis(angle[own], *limits, n_nodes)
            columns.append(values)
        self.register_buffer("design_matrix", torch.cat(columns, dim=1))

    def forward(self) -> Tensor:
        """Scale of each observation (M,)."""
        return torch.exp(self.design_matrix @ self.log_scale.flatten())

    def prior(self) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros_like(self.log_scale.flatten())
        return zeros, torch.full_like(zeros, math.inf)
