"""Which segments are propagated together, and what each costs."""

from __future__ import annotations

from dials_hybrid.bloch.batch import together
from dials_hybrid.bloch.chebyshev import RING
from dials_hybrid.bloch.propagate import SegmentTask


def cost(task: SegmentTask) -> float:
    """What a segment of K steps, N beams and m observations costs, up to a factor.

    In units of 0.06 microseconds: what diagonalisation takes (see waves.py), and each segment whatever
    its size. Chebyshev polynomials have the same dependence on m for many beams.
    """
    n, k = len(task.segment.hkl), len(task.segment)
    return 25_000.0 + k * n**2 * (1.0 + n / 260.0) * (1.5 + len(task.rows))


def batched(tasks: list[SegmentTask], most: int, n_thickness: int, workspace: int) -> list[SegmentTask]:
    """The same tasks in batches of up to `most`, of one crystal and about the same size.

    What is held at once of a batch has at most about `workspace` complex numbers; single tasks stay as
    they are where `most` is 1.
    """
    if most == 1:
        return list(tasks)
    groups: list[list[SegmentTask]] = []
    for task in sorted(tasks, key=lambda task: (task.segment.crystal, *_size(task)), reverse=True):
        if groups and groups[-1][0].segment.crystal == task.segment.crystal and len(groups[-1]) < most:
            larger = [*groups[-1], task]
            if len(larger) * _numbers(larger, n_thickness) <= workspace:
                groups[-1].append(task)
                continue
        groups.append([task])
    return [together(group) for group in groups]


def _size(task: SegmentTask) -> tuple[int, int, int]:
    """N, K and m."""
    return len(task.segment.hkl), len(task.segment), len(task.rows)


def _numbers(tasks: list[SegmentTask], n_thickness: int) -> int:
    """Complex numbers of each segment: G (m, N, N) or vectors of all beams, and amplitudes."""
    n, k, m = (max(sizes) for sizes in zip(*map(_size, tasks), strict=True))
    return m * (n * max(n, RING * k) + 2 * n_thickness * k)
