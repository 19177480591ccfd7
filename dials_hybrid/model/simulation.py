"""The sums over rocking steps: from a potential and orientations to intensities at each thickness.

This is where the time goes. Segments are independent; they are shared out to the ranks of the run, and
by each to `nproc` processes with one PyTorch thread each. A GPU propagates many at once (batches.py). Sums
are kept in double precision, so that the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
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
    segment_derivatives_seconds,
    segment_intensities,
)
from dials_hybrid.data import AtomicModel, Dataset
from dials_hybrid.model.batches import batched, cost
from dials_hybrid.model.held import Held
from dials_hybrid.model.memory import Sizes, plan
from dials_hybrid.model.parallel import in_processes, share_out
from dials_hybrid.model.potential_table import PotentialAt, groups, n_needed, tabulated
from dials_hybrid.model.ranks import n_ranks, of_first_rank, rank
from dials_hybrid.model.windows import Windows


def _keep_freed_memory() -> None:
    """Tell the C library by example that blocks of 30 MB come and go.

    glibc then stops returning the work space of each segment to the system: asking for it anew page by
    page costs half as much again as the computation in double precision.
    """
    torch.empty(30_000_000, dtype=torch.uint8)


Progress = Callable[[Iterable, int], Iterable]
Work = Callable[[SegmentTask], tuple[Tensor, ...]]  # what a task adds to each sum of its observations
Job = tuple[SegmentTask, Work]
_IMPOSSIBLE = 10.0  # U_g [1/A^2]; lead has U_0 = 0.3
_SAMPLE = 20  # segments from which the time for all is estimated
_TOGETHER = 256  # segments that a GPU propagates together
_FEW = 16  # observations of a segment that can always be differentiated together


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
    by_structure: Held | None = None  # (M, P)
    by_orientation: Held | None = None  # (M, P')


class Simulation:
    """Beams and windows of a dataset, fixed until the orientation changes noticeably.

    Args:
        dataset: what was measured.
        atoms: for cell, symmetry and the mean inner potential.
        basis: (K, 3, 3) reciprocal basis of each step with the present tilts [1/A].
        policy: beam selection.
        mean_inner_potential: U_0 [1/A^2].
        normals: unit vector normal to the crystal's surface in each step (K, 3); None: the beam's.
        spread: mosaic spread about the rotation axis of each crystal (C,) [degree], for which windows are
            wide enough; None: there is none.
        nproc: processes of this rank, fewer where memory is short.
        n_parameters: all those of least squares.
        n_structure: those of them that change U_g.
        n_orientation: those that turn the crystal.
        n_thickness: nodes of the thickness grid.
        memory: that a cycle of least squares may hold [GiB].
        dtype: floating-point precision of the propagation.
        batch: segments that are propagated together at most; None for what suits the device.
        in_turn: whether the sums of each crystal are made in turn and added.
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
        normals: Tensor | None = None,
        spread: Tensor | None = None,
        nproc: int = 1,
        n_parameters: int = 0,
        n_structure: int = 0,
        n_orientation: int = 0,
        n_thickness: int = 0,
        memory: float = math.inf,
        dtype: torch.dtype = torch.float64,
        batch: int | None = None,
        in_turn: bool = False,
        progress: Progress = silent,
    ):
        _keep_freed_memory()
        self.progress = progress
        self.steps = dataset.steps
        self.normals = dataset.steps.beam[dataset.steps.crystal] if normals is None else normals
        self.wavelength = dataset.wavelength
        self.wave_number = wave_number(dataset.wavelength, mean_inner_potential)
        self.n_observations = len(dataset.observations)
        self.dtype = dtype
        steps = dataset.steps
        self.windows = Windows(dataset, self._spread(spread))
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
        measured = [(segment, rows) for segment in segments if len(rows := self.windows.rows(segment))]
        self.table = DifferenceTable.of_beams(
            [segment.hkl for segment, _ in measured], [segment.weak for segment, _ in measured]
        )
        tasks = (self._task(*each, dataset, basis, self._spread(spread)) for each in measured)
        self.tasks = [task for task in tasks if len(task.rows)]
        together = batch or (1 if dataset.steps.weight.device.type == "cpu" else _TOGETHER)
        largest = max(self.tasks, key=lambda task: len(task.segment.hkl), default=None)
        sizes = Sizes(
            n_observations=self.n_observations,
            n_parameters=n_parameters,
            n_propagated=n_structure + n_orientation,
            n_thickness=n_thickness,
            smallest=0 if largest is None else _FEW * len(largest.segment.hkl) ** 2,
            amplitudes=n_thickness * max((task.window.numel() for task in self.tasks), default=0),
            table=n_structure * len(self.table.hkl),
            smallest_table=0 if largest is None else n_structure * n_needed(largest, len(self.table.hkl)),
            complex_bytes=2 * dtype.itemsize,
            together=together > 1,
            in_turn=in_turn,
        )
        self.plan = plan(memory, sizes, nproc)
        everything = self.plan.table >= sizes.table
        self.entries = len(self.table.hkl) if everything else self.plan.table // n_structure
        self.shares = [
            batched(share, together if everything else 1, n_thickness, self.plan.workspace)
            for share in self._shares()
        ]

    def _spread(self, spread: Tensor | None) -> Tensor:
        return self.steps.weight.new_zeros(self.steps.n_crystals) if spread is None else spread

    def _task(
        self, segment: Segment, rows: Tensor, dataset: Dataset, basis: Tensor, spread: Tensor
    ) -> SegmentTask:
        """For the observations `rows`, as far as they are among the beams."""
        observations, steps = dataset.observations, dataset.steps
        found, beams = (observations.hkl[rows, None] == segment.hkl[None]).all(-1).max(1)
        rows, beams = rows[found], beams[found]
        window = self.windows.weights(segment, rows, spread)
        middle = (segment.first + segment.last) // 2
        r = segment.hkl.to(basis.dtype) @ basis[middle].T
        cosine = float(self.normals[middle] @ steps.beam[segment.crystal])
        m = symmetrisation(r, self.normals[middle], self.wave_number * cosine) / math.sqrt(cosine)
        pairs = self.table.pairs(segment.hkl, segment.hkl)
        weak = self._weak(segment, basis, m)
        return SegmentTask(segment, pairs, rows, beams, window, m, weak, 1.0 / cosine)

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
        found = torch.tensor([cost(task) for task in self.tasks], device=self.steps.weight.device)
        costs: list[float] = of_first_rank(found.double()).tolist()
        own = share_out(costs, n_ranks())[rank()]
        shares = share_out([costs[i] for i in own], self.plan.nproc)
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

    def seconds(self, potential: Potential, basis: Tensor, thickness: Tensor, count: int) -> float:
        """What `differentiate` by `count` parameters may take; arguments as of `run`."""
        dtype = self.dtype
        potential = potential.to(dtype)
        basis, thickness = (x.to(dtype) for x in (basis, thickness))
        sample = self.tasks[:: -(-len(self.tasks) // _SAMPLE) or 1]
        found = sum(
            segment_derivatives_seconds(
                task.to(dtype),
                basis[task.segment.steps],
                self._beam(task, dtype),
                potential,
                thickness,
                self.wave_number,
                count,
            )
            for task in sample
        )
        share = sum(map(cost, sample)) / max(1.0, sum(map(cost, self.tasks)))
        return found / max(share, 1e-9) / (self.plan.nproc * n_ranks())

    def run(
        self, potential: Potential, basis: Tensor, thickness: Tensor, spread: Tensor | None = None
    ) -> RockingSums:
        """Intensities (M, T) at thicknesses (T,) [A] for orientations `basis` (K, 3, 3).

        `spread` is the present mosaic spread about the rotation axis of each crystal (C,) [degree].
        """
        dtype = self.dtype
        u = potential.to(dtype)
        basis, thickness = (x.to(dtype) for x in (basis, thickness))
        spread = self._spread(spread)

        def work(task: SegmentTask) -> tuple[Tensor]:
            task = self.windows.at(task, spread)
            own = task.to(dtype), basis[task.segment.steps], self._beam(task, dtype)
            return (segment_intensities(*own, u, thickness, self.wave_number).intensity,)

        widths = (len(thickness),)
        total = self._held(*widths)
        self._add_up(lambda tasks: self._jobs(work, potential, tasks, widths), [total])
        return RockingSums(total.values)

    def differentiate(
        self,
        potential_at: PotentialAt,
        basis: Tensor,
        axes: Tensor,
        tilt_design: Tensor,
        thickness: Tensor,
        p: Tensor,
        spread: Tensor | None = None,
        spread_design: Tensor | None = None,
    ) -> RockingSums:
        """`run`, with derivatives of the intensities averaged over thickness.

        Args:
            potential_at: gives U_g, with derivatives where those of the intensities are wanted.
            axes: the a tilt axes of each step (K, a, 3).
            tilt_design: d(tilt) / d(orientation parameter) (a, K, P') [radian].
            p: thickness weights of each observation (M, T).
            spread: as of `run`.
            spread_design: d(spread) / d(orientation parameter) (C, P'); None: it is no parameter.
        """
        derivatives = potential_at(self.table.hkl[:1]).derivatives
        n_structure = 0 if derivatives is None else len(derivatives)
        widths = (len(thickness), tilt_design.shape[-1], n_structure)

        def work_at(hkl: Tensor) -> tuple[Work, Potential]:
            bare, potential = tabulated(potential_at, hkl, self.dtype)
            work = self._derivatives(potential, basis, axes, tilt_design, thickness, p, spread, spread_design)
            return work, bare

        entries = self.entries if n_structure else len(self.table.hkl)
        whole = work_at(self.table.hkl) if entries >= len(self.table.hkl) else None

        def jobs(tasks: list[SegmentTask]) -> Iterator[Job]:
            if whole:
                yield from self._jobs(*whole, tasks, widths)
                return
            for needed, group in groups(tasks, len(self.table.hkl), entries):
                yield from self._jobs(*work_at(self.table.hkl[needed]), group, widths)

        totals = [self._held(widths[0]), *(self._held(width, self.plan.in_file) for width in widths[1:])]
        self._add_up(jobs, totals)
        return RockingSums(totals[0].values, totals[2] if n_structure else None, totals[1])

    def _derivatives(
        self,
        potential: Potential,
        basis: Tensor,
        axes: Tensor,
        design: Tensor,
        thickness: Tensor,
        p: Tensor,
        spread: Tensor | None,
        spread_design: Tensor | None,
    ) -> Work:
        """Gives intensities (m, T) and derivatives by orientation (m, P') and structure (m, P) of a task."""
        dtype = self.dtype
        basis, axes, design, thickness, p = (x.to(dtype) for x in (basis, axes, design, thickness, p))
        spread = self._spread(spread)

        def work(task: SegmentTask) -> tuple[Tensor, ...]:
            part = task.segment.steps
            task = self.windows.at(task, spread)
            sums = segment_derivatives(
                task.to(dtype),
                basis[part],
                self._beam(task, dtype),
                axes[part],
                potential,
                thickness,
                p[task.rows],
                self.wave_number,
                self.plan.workspace,
            )
            by_orientation = torch.einsum("...mka,a...kp->...mp", sums.by_tilt, design[:, part])
            if spread_design is not None and self.windows.blurred is not None:
                rates = self.windows.rates(task.segment, task.rows, spread).to(dtype)
                by_spread = torch.einsum("...mk,...mk->...m", rates, sums.of_steps)
                by_orientation += by_spread.unsqueeze(-1) * spread_design[task.segment.crystal].to(dtype)
            by_structure = sums.intensity[..., :0] if sums.by_structure is None else sums.by_structure
            return sums.intensity, by_orientation, by_structure

        return work

    def _beam(self, task: SegmentTask, dtype: torch.dtype) -> Tensor:
        return self.steps.beam[task.segment.crystal].to(dtype)

    def _held(self, width: int, in_file: bool = False) -> Held:
        return Held((self.n_observations, width), self.steps.weight.device, in_file)

    def _jobs(
        self, work: Work, potential: Potential, tasks: list[SegmentTask], widths: tuple[int, ...]
    ) -> Iterator[Job]:
        """`work` for each task; nan where no crystal has such a potential.

        That is so after a step to absurd displacements.
        """

        def nothing(task: SegmentTask) -> tuple[Tensor, ...]:
            return tuple(self.steps.weight.new_full((*task.rows.shape, n), torch.nan) for n in widths)

        possible = float(potential.u.abs().max()) < _IMPOSSIBLE
        return ((task, work if possible else nothing) for task in tasks)

    def _add_up(self, jobs: Callable[[list[SegmentTask]], Iterator[Job]], totals: list[Held]) -> None:
        """Add to `totals` what all tasks of all ranks add to their observations."""
        of_process = [totals, *([total.another() for total in totals] for _ in self.shares[1:])]

        def added(process: int) -> Iterator[int]:
            for task, work in jobs(self.shares[process]):
                for total, part in zip(of_process[process], work(task), strict=True):
                    total.add(task.rows.flatten(), part.flatten(0, -2))
                yield from range(task.n_segments)

        def share(process: int) -> None:
            done, total = added(process), sum(task.n_segments for task in self.shares[process])
            with torch.no_grad():
                for _ in self.progress(done, total) if process == 0 else done:
                    pass

        in_processes(share, len(self.shares))
        for total, *others in zip(*of_process, strict=True):
            total.add_all(others)
