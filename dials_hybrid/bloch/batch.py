"""Segments side by side, so that a GPU has enough to do.

What S segments of unequal size lack is filled up such that it changes nothing: beams with copies of the
incident one with M_g = 0, which leaves zeros in A and in all its derivatives, weak beams with 1 / S_w = 0,
steps and observations with windows of zero. What is added to an observation there is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dials_hybrid.bloch.beams import Segments
from dials_hybrid.bloch.bethe import WeakBeams
from dials_hybrid.bloch.matrix import Pairs
from dials_hybrid.bloch.padding import stacked, stacked_with_last
from dials_hybrid.bloch.propagate import SegmentTask


def together(tasks: Sequence[SegmentTask]) -> SegmentTask:
    """Tasks of single segments of one crystal as one, with S as the first dimension of all tensors.

    The observations (S, m) repeat some where a segment has fewer; path is (S, 1, 1).
    """
    m = tasks[0].symmetrisation
    weak = None
    if any(task.weak for task in tasks):
        none = (WeakBeams.none(task.pairs, task.symmetrisation) for task in tasks)
        weak = WeakBeams.stacked([task.weak or other for task, other in zip(tasks, none, strict=True)])
    return SegmentTask(
        Segments(
            stacked_with_last([_steps(task) for task in tasks]),
            tasks[0].segment.crystal,
            stacked([task.segment.hkl for task in tasks]),
        ),
        Pairs.stacked([task.pairs for task in tasks]),
        rows=stacked_with_last([task.rows for task in tasks]),
        beams=stacked([task.beams for task in tasks]),
        window=stacked([task.window for task in tasks]),
        symmetrisation=stacked([task.symmetrisation for task in tasks]),
        weak=weak,
        path=torch.tensor([task.path for task in tasks], dtype=m.dtype, device=m.device)[:, None, None],
    )


def _steps(task: SegmentTask) -> torch.Tensor:
    steps = task.segment.steps
    assert isinstance(steps, slice)
    return torch.arange(steps.start, steps.stop, device=task.rows.device)
