"""The sums over rocking steps: from a potential and orientations to intensities at each thickness.

This is where the time goes. Segments are independent; they are shared out to the ranks of the run, and
by each to `nproc` processes with one PyTorch thread each. Sums are kept in double precision, so that the
number of processes changes nothing but rounding.
"""

from __future__ import annotations

import math
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
from dials_hybrid.bloch.bethe import WeakBeams
from dials_hybrid.bloch.electron import wave_number
from dials_hybrid.bloch.matrix import DifferenceTable, symmetrisation
from dials_hybrid.bloch.propagate import (
    Potential,
    SegmentTask,
    segment_derivatives,
    segment_intensities,
)
from dials_hybrid.data import AtomicModel, Dataset
from dials_hybrid.model.memory import plan
from dials_hybrid.model.parallel import share_out, sum_of_shares
from dials_hybrid.model.ranks import add_over_ranks, n_ranks, of_first_rank, rank


def _keep_freed_memory() -> None:
    """Tell the C library by example that blocks of 30 MB come and go.

    glibc then stops returning the work space of each segment to the system: asking for it anew page by
    page costs half as much again as the computation in double precision.
    """
    torch.empty(30_000_000, dtype=torch.uint8)


Progress = Callable[[Iterable, int], Iterable]
_IMPOSSIBLE = 10.0  # U_g [1/A^2]; lead has U_0 = 0.3


def silent(iterable: Iterable, total: int) -> Iterable:
    """Shows no progress."""
    return iterable


@dataclass(frozen=True)
class BeamPolicy:
    """Which beams take part and how the scan is cut."""

    g_max: float  # [1/A]
    sg_max: float  # [1/A]
    segment_length: int = 8  # rocking steps
    weak_sg_max: float = 0.0  # [1/A]; beams beyond sg_max act up to here by perturbation


@dataclass(frozen=True)
class RockingSums:
    """I_g of every observation, summed over its window."""

    intensity: Tensor  # (M, T)
    by_structure: Tensor | None = None  # (M, P)
    by_orientation: Tensor | None = None  # (M, P')


def cost(task: SegmentTask) -> float:
    """What a segment of K steps, N beams and m observations costs, up to a factor.

    Bloch waves take K N^3, derivatives of m intensities K m N^2.
    """
    n, k = len(task.segment.hkl), task.segment.last - task.segment.first
    return float(k * n**2 * (n + len(task.rows)))


class Simulation:
    """Beams and windows of a dataset, fixed until the orientation changes noticeably.

    Args:
        dataset: what was measured.
        atoms: for cell, symmetry and the mean inner potential.
        basis: (K, 3, 3) reciprocal basis of each step with the present tilts [1/A].
        policy: beam selection.
        mean_inner_potential: U_0 [1/A^2].
        nproc: processes of this rank, fewer where memory is short.
        n_parameters: all those of least squares.
        n_thickness: nodes of the thickness grid.
        memory: that a cycle of least squares may hold [GiB].
        dtype: floating-point precision of the intensities.
        derivative_dtype: of their derivatives.
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
        n_parameters: int = 0,
        n_thickness: int = 0,
        memory: float = math.inf,
        dtype: torch.dtype = torch.float64,
        derivative_dtype: torch.dtype = torch.float64,
        progress: Progress = silent,
    ):
        _keep_freed_memory()
        self.progress = progress
        self.steps = dataset.steps
        self.wavelength = dataset.wavelength
        self.wave_number = wave_number(dataset.wavelength, mean_inner_potential)
        self.n_observations = len(dataset.observations)
        self.dtype, self.derivative_dtype = dtype, derivative_dtype
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
            weak_sg_max=policy.weak_sg_max,
            frame=steps.frame,
        )
        self.table = DifferenceTable.of_beams(
            [segment.hkl for segment in segments], [segment.weak for segment in segments]
        )
        tasks = (self._task(segment, dataset, basis) for segment in segments)
        self.tasks = [task for task in tasks if len(task.rows)]
        budget = plan(
            memory,
            n_observations=self.n_observations,
            n_parameters=n_parameters,
            n_thickness=n_thickness,
            smallest=max((len(task.segment.hkl) ** 2 * len(task.rows) for task in self.tasks), default=0),
            amplitudes=n_thickness * max((task.window.numel() for task in self.tasks), default=0),
            nproc=nproc,
        )
        self.nproc, self.workspace = budget.nproc, budget.workspace
        self.shares = self._shares()

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
        return SegmentTask(segment, pairs, rows, beams, window, m, self._weak(segment, basis, m))

    def _weak(self, segment: Segment, basis: Tensor, m: Tensor) -> WeakBeams | None:
        if not len(segment.weak):
            return None
        return WeakBeams.of_segment(
            segment.hkl,
            segment.weak,
            self.table,
            basis[segment.first : segment.last],
            self.steps.beam[segment.crystal],
            m,
            self.wave_number,
        )

    def _shares(self) -> list[list[SegmentTask]]:
        """The tasks of each process of this rank."""
        costs = torch.tensor([cost(task) for task in self.tasks], device=self.steps.weight.device)
        costs = of_first_rank(costs.double()).tolist()
        own = share_out(costs, n_ranks())[rank()]
        shares = share_out([costs[i] for i in own], self.nproc)
        return [[self.tasks[own[i]] for i in share] for share in shares]

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
        intensities = self._intensities(potential, basis, thickness)
        widths = (len(thickness),)
        return RockingSums(*self._add_up(lambda task: (intensities(task),), widths, potential))

    def _intensities(self, potential: Potential, basis: Tensor, thickness: Tensor):
        """Function of a task that gives its intensities (m, T)."""
        dtype = self.dtype
        potential, basis, thickness = (x.to(dtype) for x in (potential, basis, thickness))

        def intensities(task: SegmentTask) -> Tensor:
            part, beam = slice(task.segment.first, task.segment.last), self._beam(task, dtype)
            rest = basis[part], beam, potential, thickness, self.wave_number
            return segment_intensities(task.to(dtype), *rest).intensity

        return intensities

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
            axes: the a tilt axes of each step (K, a, 3).
            tilt_design: d(tilt) / d(orientation parameter) (a, K, P') [radian].
            p: thickness weights of each observation (M, T).
        """
        dtype, bare = self.derivative_dtype, Potential(potential.u, absorption=potential.absorption)
        intensities = None if dtype == self.dtype else self._intensities(bare, basis, thickness)
        potential, basis, thickness, axes, p, design = (
            x.to(dtype) for x in (potential, basis, thickness, axes, p, tilt_design)
        )
        n_structure = 0 if potential.derivatives is None else len(potential.derivatives)

        def work(task: SegmentTask) -> tuple[Tensor, ...]:
            part = slice(task.segment.first, task.segment.last)
            sums = segment_derivatives(
                task.to(dtype),
                basis[part],
                self._beam(task, dtype),
                axes[part],
                potential,
                thickness,
                p[task.rows],
                self.wave_number,
                self.workspace,
            )
            intensity = intensities(task) if intensities else sums.intensity
            by_orientation = torch.einsum("mka,akp->mp", sums.by_tilt, design[:, part])
            if n_structure:
                return intensity, by_orientation, sums.by_structure
            return intensity, by_orientation

        widths = (len(thickness), tilt_design.shape[-1], n_structure)
        totals = self._add_up(work, widths if n_structure else widths[:2], potential)
        by_structure = totals[2] if n_structure else None
        return RockingSums(totals[0], by_structure, totals[1])

    def _beam(self, task: SegmentTask, dtype: torch.dtype) -> Tensor:
        return self.steps.beam[task.segment.crystal].to(dtype)

    def _add_up(
        self,
        work: Callable[[SegmentTask], tuple[Tensor, ...]],
        widths: tuple[int, ...],
        potential: Potential,
    ) -> list[Tensor]:
        """Sums (M, width) over all tasks of all ranks of what each adds to its observations.

        All are nan where no crystal has such a potential, as after a step to absurd displacements.
        """

        weight = self.steps.weight
        if not float(potential.u.abs().max()) < _IMPOSSIBLE:
            return [weight.new_full((self.n_observations, width), torch.nan) for width in widths]

        def share(process: int) -> list[Tensor]:
            totals = [weight.new_zeros(self.n_observations, width) for width in widths]
            tasks = self.shares[process]
            with torch.no_grad():
                for task in self.progress(tasks, len(tasks)) if process == 0 else tasks:
                    for total, part in zip(totals, work(task), strict=True):
                        total[task.rows] += part
            return totals

        return add_over_ranks(sum_of_shares(share, self.nproc))
