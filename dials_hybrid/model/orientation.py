"""Small corrections to the orientation of each crystal, smooth in the scan angle, and mosaicity.

In a sweep a turn about the goniometer axis only shifts the rocking curve inside its window, so what
is refined by default is the tilt across it. A mosaic spread adds, incoherently, tilts across the
rotation axis. Its quantiles take turns: every rocking step has the next one, with steps made smaller
instead. Five quantiles cost 2.5 times the steps that none does, for an error of 0.2 % in F
(`benchmarks/README.md`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dials_hybrid.bloch.geometry import rotation_matrix, tilt_axes
from dials_hybrid.data import RockingSteps
from dials_hybrid.model.smooth import spline_basis

ACROSS = 0  # the first tilt of `geometry.tilt_axes`


class Orientation(nn.Module):
    """Tilts [degree] as splines of the scan angle and a mosaic spread [degree], one set a crystal.

    Args:
        steps: the rocking steps.
        n_nodes: spline coefficients a crystal and tilt.
        mosaic_spread: start of the spread [degree]; None for no mosaicity.
        restraint: standard deviation of the Gaussian prior on the tilts [degree].
    """

    def __init__(
        self,
        steps: RockingSteps,
        *,
        n_nodes: int,
        mosaic_spread: float | None,
        restraint: float,
    ):
        super().__init__()
        self.restraint = restraint
        self.n_crystals = steps.n_crystals
        dtype = steps.angle.dtype
        self.tilt = nn.Parameter(torch.zeros(steps.n_crystals, n_nodes, dtype=dtype))
        self.mosaic = None
        if mosaic_spread is not None:
            start = torch.full((steps.n_crystals,), mosaic_spread, dtype=dtype)
            self.mosaic = nn.Parameter(start)
        self.register_buffer("_design", self._design_matrix(steps, n_nodes))
        axes = tilt_axes(steps.beam, steps.rotation_axis)
        self.register_buffer("axes", axes[steps.crystal][:, ACROSS : ACROSS + 1])

    def _design_matrix(self, steps: RockingSteps, n_nodes: int) -> Tensor:
        """Tilt of each step [degree] by each parameter of this module, (K, P)."""
        columns = []
        for crystal in range(steps.n_crystals):
            own = steps.crystal == crystal
            angle = steps.angle[own]
            values = torch.zeros(len(steps), n_nodes, dtype=angle.dtype, device=angle.device)
            values[own] = spline_basis(angle, float(angle.min()), float(angle.max()), n_nodes)
            columns.append(values)
        if self.mosaic is not None:
            own = steps.crystal[:, None] == torch.arange(steps.n_crystals, device=steps.crystal.device)
            columns.append(torch.where(own, steps.mosaic[:, None], 0.0))
        return torch.cat(columns, dim=1)

    def design_matrix(self) -> Tensor:
        """d(tilt of each step) / d(parameter) (K, P) [radian per unit of the parameter]."""
        return torch.deg2rad(self._design)

    def tilts(self) -> Tensor:
        """Tilt of each step (K,) [radian], its mosaic tilt included."""
        return self.design_matrix() @ nn.utils.parameters_to_vector(self.parameters())

    def smooth_tilts(self) -> Tensor:
        """Tilt of each step (K,) [radian] without its mosaic tilt."""
        n = self.tilt.numel()
        return self.design_matrix()[:, :n] @ self.tilt.flatten()

    def basis(self, steps: RockingSteps) -> Tensor:
        """Reciprocal basis (K, 3, 3) [1/A] of the tilted steps."""
        return rotation_matrix(self.tilts()[:, None] * self.axes[:, 0]) @ steps.basis

    def prior(self) -> tuple[Tensor, Tensor]:
        """Centre and standard deviation of the Gaussian prior on each parameter."""
        sigma = torch.full_like(self.tilt.flatten(), self.restraint)
        if self.mosaic is not None:
            free = torch.full_like(self.mosaic, math.inf)
            sigma = torch.cat([sigma, free])
        return torch.zeros_like(sigma), sigma
