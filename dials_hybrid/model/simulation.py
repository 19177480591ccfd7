"""The sums over rocking steps: from a potential and orientations to intensities at each thickness.

This is where the time goes. Segments are independent; they are shared out to `nproc` processes with
one PyTorch thread each. Sums are kept in double precision, so that the number of processes changes
nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.bloch.beams import (
    Segment,
    cut_segments,
    reflections_within,
    without_lattice_absences,
)
from dials_hybrid.bloch.electron import wave_number
from dials_hybrid.bloch.matrix import DifferenceTable, symmetrisation
from dials_hybrid.bloch.propagate import (
    Potential,
    SegmentTask,
    segment_derivatives,
    segment_intensities,
)
from dials_hybrid.data import AtomicModel, Dataset
from dials_hybrid.model.parallel import sum_of_shares


def _keep_freed_memory() -> None:
    """Tell the C library by example that blocks of 30 MB come and go.

    glibc then stops returning the work space of each segment to the system: asking for it anew page by
    page costs half as much again as the computation in double precision.
    """
    torch.empty(30_000_000, dtype=torch.uint8)


Progress = Callable[[Iterable, int], Iterable]


def silent(iterable: Iterable, total: int) -> Iterable:
    """Shows no progress."""
    return iterable


@dataclass(frozen=True)
class BeamPolicy:
    """Which beams take part and how the scan is cut."""

    g_max: float  # [1/A]
    sg_max: float  # [1/A]
    segment_length: int = 8  # rocking steps


@dataclass(frozen=True)
class RockingSums:
    """I_g of every observation, summed over its window."""

    intensity: Tensor  # (M, T)
    by_structure: Tensor | None = None  # (M, P)
    by_orientation: Tensor | None = None  # (M, P')


class Simulation:
    """Beams and windows of a dataset, fixed until the orientation changes noticeably.

    Args:
        dataset: what was measured.
        atoms: for cell, symmetry and the mean inner potential.
        basis: (K, 3, 3) reciprocal basis of each step with the present tilts [1/A].
        policy: beam selection.
        mean_inner_potential: U_0 [1/A^2].
        nproc: processes.
        dtype: floating-point precision of the propagation.
        progress: wraps the iteration over segments, to show it.
    """

    def __init__(
        self,
        dataset: Dataset,
        atoms: AtomicModel,
        basis: Tensor,
        policy: BeamPolicy,
        *,
        mean_inner_potential: float,
        nproc: int = 1,
        dtype: torch.dtype = torch.float64,
        progress: Progress = silent,
    ):
        _keep_freed_memory()
        self.progress = progress
        self.steps = dataset.steps
        self.wavelength = dataset.wavelength
        self.wave_number = wave_number(dataset.wavelength, mean_inner_potential)
        self.n_observations = len(dataset.observations)
        self.nproc = max(1, nproc)
        self.dtype = dtype
        steps = dataset.steps
        candidates = without_lattice_absences(
            reflections_within(atoms.cell, policy.g_max), atoms.rotations, atoms.translations
        )
        segments = cut_segments(
            basis,
            steps.beam[steps.crystal],
            steps.crystal,
            candidates,
            wave_number=self.wave_number,
            sg_max=policy.sg_max,
            length=policy.segment_length,
        )
        self.table = DifferenceTable.of_beams([segment.hkl for segment in segments])
        tasks = (self._task(segment, dataset, basis) for segment in segments)
        self.tasks = [task for task in tasks if len(task.rows)]

    def _task(self, segment: Segment, dataset: Dataset, basis: Tensor) -> SegmentTask:
        observations, steps = dataset.observations, dataset.steps
        overlap = (
            (observations.first < segment.last)
            & (observations.last > segment.first)
            & (observations.crystal == segment.crystal)
        )
        rows = overlap.nonzero().flatten()
        same = (observations.hkl[rows, None] == segment.hkl[None]).all(-1)
        rows, beams = rows[same.any(1)], same.long().argmax(1)[same.any(1)]
        step = torch.arange(segment.first, segment.last, device=rows.device)
        inside = (step >= observations.first[rows, None]) & (step < observations.last[rows, None])
        window = inside * steps.weight[segment.first : segment.last]
        middle = basis[(segment.first + segment.last) // 2]
        r = segment.hkl.to(basis.dtype) @ middle.T
        m = symmetrisation(r, steps.beam[segment.crystal], self.wave_number)
        pairs = self.table.of_pairs(segment.hkl)
        return SegmentTask(segment, pairs, rows, beams, window.to(self.dtype), m.to(self.dtype))

    @property
    def n_beams(self) -> list[int]:
        """Number of beams of each segment."""
        return [len(task.segment.hkl) for task in self.tasks]

    def covered(self) -> Tensor:
        """(M,) bool: the observation is a beam in at least one step of its window."""
        covered = torch.zeros(self.n_observations, dtype=torch.bool, device=self.steps.weight.device)
        for task in self.tasks:
            covered[task.rows] = True
        return covered

    def run(self, potential: Potential, basis: Tensor, thickness: Tensor) -> RockingSums:
        """Intensities (M, T) at thicknesses (T,) [A] for orientations `basis` (K, 3, 3)."""
        potential, basis, thickness = self._cast(potential, basis, thickness)

        def work(task: SegmentTask) -> tuple[Tensor]:
            part = slice(task.segment.first, task.segment.last)
            sums = segment_intensities(
                task, basis[part], self._beam(task), potential, thickness, self.wave_number
            )
            return (sums.intensity,)

        return RockingSums(*self._add_up(work, (len(thickness),), potential))

    def differentiate(
        self,
        potential: Potential,
        basis: Tensor,
        axes: Tensor,
        tilt_design: Tensor,
        thickness: Tensor,
        p: Tensor,
    ) -> RockingSums:
        """`run`, with derivatives of the intensities averaged over thickness.

        Args:
            axes: tilt axes of each step (K, 1, 3).
            tilt_design: d(tilt) / d(orientation parameter) (K, P') [radian].
            p: thickness weights of each observation (M, T).
        """
        potential, basis, thickness = self._cast(potential, basis, thickness)
        axes, p, design = (tensor.to(self.dtype) for tensor in (axes, p, tilt_design))

        n_structure = 0 if potential.derivatives is None else len(potential.derivatives)

        def work(task: SegmentTask) -> tuple[Tensor, ...]:
            part = slice(task.segment.first, task.segment.last)
            sums = segment_derivatives(
                task,
                basis[part],
                self._beam(task),
                axes[part],
                potential,
                thickness,
                p[task.rows],
                self.wave_number,
            )
            by_orientation = sums.by_tilt[..., 0] @ design[part]
            if n_structure:
                return sums.intensity, by_orientation, sums.by_structure
            return sums.intensity, by_orientation

        widths = (len(thickness), tilt_design.shape[1], n_structure)
        totals = self._add_up(work, widths if n_structure else widths[:2], potential)
        by_structure = totals[2] if n_structure else None
        return RockingSums(totals[0], by_structure, totals[1])

    def _beam(self, task: SegmentTask) -> Tensor:
        return self.steps.beam[task.segment.crystal].to(self.dtype)

    def _cast(self, potential: Potential, basis: Tensor, thickness: Tensor):
        complex_type = torch.complex128 if self.dtype == torch.float64 else torch.complex64
        derivatives = potential.derivatives
        if derivatives is not None:
            derivatives = derivatives.to(complex_type)
        cast = Potential(potential.u.to(complex_type), derivatives)
        return cast, basis.to(self.dtype), thickness.to(self.dtype)

    def _add_up(
        self,
        work: Callable[[SegmentTask], tuple[Tensor, ...]],
        widths: tuple[int, ...],
        potential: Potential,
    ) -> list[Tensor]:
        """Sums (M, width) over all tasks of what each adds to its observations.

        All are nan where the potential is not finite, as after a step to absurd displacements.
        """

        weight = self.steps.weight
        if not torch.isfinite(potential.u).all():
            return [weight.new_full((self.n_observations, width), torch.nan) for width in widths]

        def share(rank: int) -> list[Tensor]:
            totals = [weight.new_zeros(self.n_observations, width) for width in widths]
            tasks = self.tasks[rank :: self.nproc]
            with torch.no_grad():
                for task in self.progress(tasks, len(tasks)) if rank == 0 else tasks:
                    for total, part in zip(totals, work(task), strict=True):
                        total[task.rows] += part
            return totals

        return sum_of_shares(share, self.nproc)
