r"""The weight of each rocking step for each observation.

An observation is the sum over the steps between the edges a < b of its window. A mosaic spread s about
the rotation axis turns every block of the crystal by an angle of its own, which shifts what it shows along
the scan. The average over a normal distribution of such blocks is a sum over the same steps with other
weights,

    w_k = h_k [Phi((b - theta_k) / sigma_k) - Phi((a - theta_k) / sigma_k)],   sigma_k^2 = s^2 + h_k^2 / 12,

with Phi the normal distribution function and h_k the length of the step at the angle theta_k, over which
it stands for the whole. So steps beyond the window count too, and no further orientation is needed. The
derivative by s is exact:

    dw_k/ds = h_k s / sigma_k^2 [u_a phi(u_a) - u_b phi(u_b)],   u_a = (a - theta_k) / sigma_k.

Windows reach as far as the spread asks that they are made for, with a reserve for one that grows.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from dials_hybrid.bloch.beams import Segment, Segments
from dials_hybrid.bloch.propagate import SegmentTask
from dials_hybrid.data import Dataset

_REACH = 4.0  # standard deviations; half as many would still hold 99 % of what is beyond an edge
_SMALLEST = 0.02  # [degree], a spread that refinement may well arrive at
_FAR = 30.0  # standard deviations, where nothing is left


class Windows:
    """The windows of a dataset, wide enough for a mosaic spread about the rotation axes.

    Args:
        dataset: what was measured.
        spread: of each crystal (C,) [degree]; zero: none.
    """

    def __init__(self, dataset: Dataset, spread: Tensor):
        self.steps = dataset.steps
        self.observations = dataset.observations
        self.blurred: Tensor | None = None  # (M,) bool: an edge of the window is blurred; None: none at all
        edges = self.observations.edges
        if edges is not None:
            self.blurred = edges.isfinite().any(1)
            s = torch.where(spread == 0.0, 0.0, spread.detach().abs().clamp(min=_SMALLEST))
            reach = _REACH * torch.sqrt(s**2 + float(self.steps.weight.max()) ** 2 / 12.0)
            outwards = torch.stack([-reach, reach], dim=1)[self.observations.crystal]
            self._edges, self._reached = edges, edges + outwards.to(edges)

    def rows(self, segment: Segment) -> Tensor:
        """Observations (m,) whose windows overlap with the segment."""
        observations = self.observations
        overlap = (observations.first < segment.last) & (observations.last > segment.first)
        if self.blurred is not None:
            angle = self.steps.angle[segment.first : segment.last]
            near = (self._reached[:, 0] < angle.max()) & (self._reached[:, 1] > angle.min())
            near &= observations.frame == self.steps.frame[segment.first]
            overlap = torch.where(self.blurred, near, overlap)
        return (overlap & (observations.crystal == segment.crystal)).nonzero().flatten()

    def weights(self, segment: Segment | Segments, rows: Tensor, spread: Tensor) -> Tensor:
        """w (m, K) [degree] of the steps of a segment, or (S, m, K) of several, for the observations `rows`.

        Args:
            spread: the present one of each crystal (C,) [degree].
        """
        weight = self._inside(segment, rows) * self.steps.weight[segment.steps].unsqueeze(-2)
        if self.blurred is None:
            return weight
        low, high, _ = self._deviates(segment, rows, spread)
        return weight * (torch.special.ndtr(high) - torch.special.ndtr(low))

    def rates(self, segment: Segment | Segments, rows: Tensor, spread: Tensor) -> Tensor:
        """dw/ds (m, K) of the same, where windows are blurred."""
        low, high, variance = self._deviates(segment, rows, spread)
        slope = _slope(low) - _slope(high)
        weight = self.steps.weight[segment.steps] * spread[segment.crystal] / variance
        return self._inside(segment, rows) * weight.unsqueeze(-2) * slope

    def at(self, task: SegmentTask, spread: Tensor) -> SegmentTask:
        """The task with the weights of this spread."""
        if self.blurred is None:
            return task
        return replace(task, window=self.weights(task.segment, task.rows, spread))

    def _inside(self, segment: Segment | Segments, rows: Tensor) -> Tensor:
        """(m, K) bool: the step belongs to the window, as far as that reaches."""
        observations, several = self.observations, isinstance(segment, Segments)
        step = segment.steps
        if isinstance(step, slice):
            step = torch.arange(step.start, step.stop, device=rows.device)
        first, last = observations.first[rows, None], observations.last[rows, None]
        inside = (step.unsqueeze(-2) >= first) & (step.unsqueeze(-2) < last)
        if self.blurred is not None:
            angle, reached = self.steps.angle[step].unsqueeze(-2), self._reached[rows]
            near = (angle > reached[..., :1]) & (angle < reached[..., 1:])
            inside = torch.where(self.blurred[rows, None], near, inside)
        return inside & _new(step).unsqueeze(-2) & _new(rows).unsqueeze(-1) if several else inside

    def _deviates(
        self, segment: Segment | Segments, rows: Tensor, spread: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """u_a and u_b (m, K), and sigma^2 (K,) [degree^2]."""
        part = segment.steps
        variance = spread[segment.crystal] ** 2 + self.steps.weight[part] ** 2 / 12.0
        away = self._edges[rows].unsqueeze(-1) - self.steps.angle[part][..., None, None, :]
        u = away / variance.sqrt()[..., None, None, :]
        low, high = u.clamp(-_FAR, _FAR).unbind(-2)
        return low, high, variance


def _new(numbers: Tensor) -> Tensor:
    """Which of (S, n) do not repeat the one before: those that do only fill up."""
    return torch.cat([torch.ones_like(numbers[:, :1]).bool(), numbers[:, 1:] != numbers[:, :-1]], dim=1)


def _slope(u: Tensor) -> Tensor:
    """u phi(u)."""
    return u * torch.exp(-0.5 * u**2) / math.sqrt(2.0 * math.pi)
