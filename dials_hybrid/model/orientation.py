"""Small corrections to the orientation of each crystal, and mosaicity.

In a sweep a turn about the goniometer axis only shifts the rocking curve inside its window, so what
is refined is the tilt across it, smooth in the scan angle. Virtual frames begin and end where they do,
and each was given an orientation of its own: they have both tilts, for each frame, beside the smooth
one.

A mosaic spread adds, incoherently, tilts in all directions. Across the rotation axis its quantiles take
turns: every rocking step has the next one, with steps made smaller instead. Five quantiles cost 2.5 times
the steps that none does, for an error of 0.3 % in F (`benchmarks/README.md`). About the rotation axis it
shifts rocking curves, and needs no orientations of its own: it blurs the edges of the windows that
observations are summed over (`windows.py`). A sum over whole curves cannot tell.
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
    """Tilts [degree] as splines of the scan angle and of each frame, and a mosaic spread [degree].

    Args:
        steps: the rocking steps.
        n_nodes: spline coefficients a crystal.
        mosaic_spread: start of the spread of each crystal [degree]; None for no mosaicity.
        restraint: standard deviation of the Gaussian prior on the smooth tilts [degree].
        frame_restraint: the same for the tilts of each frame; None holds them at zero.
    """

    axes: Tensor  # (K, axes, 3) unit vectors of the tilts of each step
    _design: Tensor

    def __init__(
        self,
        steps: RockingSteps,
        *,
        n_nodes: int,
        mosaic_spread: float | None,
        restraint: float,
        frame_restraint: float | None = None,
    ):
        super().__init__()
        self.restraint = restraint
        self.frame_restraint = frame_restraint
        dtype = steps.angle.dtype
        self.tilt = nn.Parameter(torch.zeros(steps.n_crystals, n_nodes, dtype=dtype))
        n_frames = 0 if frame_restraint is None else len(steps.frames())
        n_axes = 2 if n_frames and _alone(steps).any() else 1
        self.frame_tilt = nn.Parameter(torch.zeros(n_frames, n_axes, dtype=dtype))
        self.mosaic = None
        if mosaic_spread is not None:
            start = torch.full((steps.n_crystals,), mosaic_spread, dtype=dtype)
            self.mosaic = nn.Parameter(start)
        self.register_buffer("_design", self._design_matrix(steps, n_axes))
        axes = tilt_axes(steps.beam, steps.rotation_axis)
        self.register_buffer("axes", axes[steps.crystal][:, :n_axes])

    def _design_matrix(self, steps: RockingSteps, n_axes: int) -> Tensor:
        """Tilts of each step [degree] by each parameter of this module, (axes, K, P)."""
        columns = [self._smooth(steps, n_axes)]
        if self.frame_tilt.numel():
            columns.append(_of_each_frame(steps, n_axes))
        if self.mosaic is not None:
            own = steps.crystal[:, None] == torch.arange(steps.n_crystals, device=steps.crystal.device)
            tilts = steps.angle.new_zeros(n_axes, len(steps), steps.n_crystals)
            tilts[ACROSS] = torch.where(own, steps.mosaic[:, None], 0.0)
            columns.append(tilts)
        return torch.cat(columns, dim=-1)

    def _smooth(self, steps: RockingSteps, n_axes: int) -> Tensor:
        n_nodes = self.tilt.shape[1]
        values = steps.angle.new_zeros(n_axes, len(steps), steps.n_crystals, n_nodes)
        for crystal in range(steps.n_crystals):
            own = steps.crystal == crystal
            angle = steps.angle[own]
            spline = spline_basis(angle, float(angle.min()), float(angle.max()), n_nodes)
            values[ACROSS, own, crystal] = spline
        return values.flatten(2)

    @property
    def n_tilts(self) -> int:
        """Number of parameters before those of the mosaic spread."""
        return self.tilt.numel() + self.frame_tilt.numel()

    def design_matrix(self) -> Tensor:
        """d(tilts of each step) / d(parameter) (axes, K, P) [radian per unit of the parameter]."""
        return torch.deg2rad(self._design)

    def tilts(self) -> Tensor:
        """Tilts of each step (axes, K) [radian], its mosaic tilt included."""
        return self.design_matrix() @ nn.utils.parameters_to_vector(self.parameters())

    def smooth_tilts(self) -> Tensor:
        """Tilt across the rotation axis (K,) [radian] of each step without its mosaic tilt."""
        x = torch.cat([self.tilt.flatten(), self.frame_tilt.flatten()])
        return self.design_matrix()[ACROSS, :, : len(x)] @ x

    def spread(self) -> Tensor:
        """Mosaic spread of each crystal (C,) [degree]; without mosaicity zero."""
        return self.tilt.new_zeros(len(self.tilt)) if self.mosaic is None else self.mosaic

    def spread_design(self) -> Tensor:
        """d(mosaic spread) / d(parameter) (C, P)."""
        design = torch.zeros(len(self.tilt), self._design.shape[-1]).to(self.tilt)
        if self.mosaic is not None:
            design[:, self.n_tilts :] = torch.eye(len(self.tilt)).to(design)
        return design

    def basis(self, steps: RockingSteps) -> Tensor:
        """Reciprocal basis (K, 3, 3) [1/A] of the tilted steps."""
        return rotation_matrix(torch.einsum("ak,kax->kx", self.tilts(), self.axes)) @ steps.basis

    def prior(self) -> tuple[Tensor, Tensor]:
        """Centre and standard deviation of the Gaussian prior on each parameter."""
        parts = [torch.full_like(self.tilt.flatten(), self.restraint)]
        if self.frame_restraint is not None:
            parts.append(torch.full_like(self.frame_tilt.flatten(), self.frame_restraint))
        if self.mosaic is not None:
            parts.append(torch.full_like(self.mosaic, math.inf))
        sigma = torch.cat(parts)
        return torch.zeros_like(sigma), sigma


def _alone(steps: RockingSteps) -> Tensor:
    """(K,) bool: of one virtual frame alone."""
    return (steps.frame >= 0) & (steps.next_frame < 0)


def _of_each_frame(steps: RockingSteps, n_axes: int) -> Tensor:
    """Tilts (n_axes, K, n_axes F) by the tilts of each of F frames."""
    frames = steps.frames()
    of_crystal = steps.crystal[:, None] == frames[:, 0]
    own, other = (
        (of_crystal & (number[:, None] == frames[:, 1])).to(steps.part)
        for number in (steps.frame, steps.next_frame)
    )
    part = steps.part[:, None]
    tilts = steps.angle.new_zeros(n_axes, len(steps), len(frames), n_axes)
    tilts[ACROSS, :, :, ACROSS] = (1.0 - part) * own + part * other
    if n_axes > 1:
        tilts[1, :, :, 1] = torch.where(_alone(steps)[:, None], own, 0.0)
    return tilts.flatten(2)
