"""Scale of calculated to observed intensities: smooth in the scan angle, and of each virtual frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dials_hybrid.data import Observations
from dials_hybrid.model.smooth import spline_basis


class Scale(nn.Module):
    """exp(spline of the scan angle + d of the frame), one spline of `n_nodes` coefficients a crystal.

    Args:
        observations: those to scale.
        n_crystals: their crystals.
        n_nodes: spline coefficients a crystal.
        frame_restraint: standard deviation of the Gaussian prior on the d; None for d = 0.
    """

    def __init__(
        self,
        observations: Observations,
        n_crystals: int,
        n_nodes: int,
        frame_restraint: float | None = None,
    ):
        super().__init__()
        self.frame_restraint = frame_restraint
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
        frames = observations.frames() if frame_restraint is not None else crystal.new_zeros(0, 2)
        self.of_frame = nn.Parameter(angle.new_zeros(len(frames)))
        own = (crystal[:, None] == frames[:, 0]) & (observations.frame[:, None] == frames[:, 1])
        columns.append(own.to(angle.dtype))
        self.register_buffer("design_matrix", torch.cat(columns, dim=1))

    def forward(self) -> Tensor:
        """Scale of each observation (M,)."""
        return torch.exp(self.design_matrix @ torch.cat([self.log_scale.flatten(), self.of_frame]))

    def prior(self) -> tuple[Tensor, Tensor]:
        free = torch.full_like(self.log_scale.flatten(), math.inf)
        held = torch.full_like(self.of_frame, self.frame_restraint or math.inf)
        sigma = torch.cat([free, held])
        return torch.zeros_like(sigma), sigma
