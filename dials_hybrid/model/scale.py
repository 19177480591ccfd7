"""Scale of calculated to observed intensities: smooth in the scan angle, and of each virtual frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dials_hybrid.data import Observations
from dials_hybrid.model.smooth import spline_basis


class Scale(nn.Module):
    """exp(constant + spline of the scan angle + d of the frame), constant and spline of each crystal.

    A Gaussian prior holds the spline near zero, for the scale can take over much of what a thickness
    that changes over the scan does to the intensities.

    Args:
        observations: those to scale.
        n_crystals: their crystals.
        n_nodes: coefficients of a spline; 1: the constant alone.
        restraint: standard deviation of the prior on the coefficients.
        frame_restraint: standard deviation of the Gaussian prior on the d; None for d = 0.
    """

    design_matrix: Tensor  # d(logarithm of the scale) / d(parameter) (M, P)

    def __init__(
        self,
        observations: Observations,
        n_crystals: int,
        n_nodes: int,
        restraint: float = 0.3,
        frame_restraint: float | None = None,
    ):
        super().__init__()
        self.restraint = restraint
        self.frame_restraint = frame_restraint
        angle, crystal = observations.angle, observations.crystal
        n_nodes = 0 if n_nodes == 1 else n_nodes
        self.constant = nn.Parameter(angle.new_zeros(n_crystals))
        self.log_scale = nn.Parameter(angle.new_zeros(n_crystals, n_nodes))
        columns = [(crystal[:, None] == torch.arange(n_crystals, device=crystal.device)).to(angle.dtype)]
        for index in range(n_crystals):
            own = crystal == index
            values = angle.new_zeros(len(angle), n_nodes)
            if n_nodes and own.any():
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
        return torch.exp(self.design_matrix @ nn.utils.parameters_to_vector(self.parameters()))

    def prior(self) -> tuple[Tensor, Tensor]:
        free = torch.full_like(self.constant, math.inf)
        smooth = torch.full_like(self.log_scale.flatten(), self.restraint)
        held = torch.full_like(self.of_frame, self.frame_restraint or math.inf)
        sigma = torch.cat([free, smooth, held])
        return torch.zeros_like(sigma), sigma
