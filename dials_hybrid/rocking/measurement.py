"""All that was measured, in plain arrays: what a reader gives and a refinement cuts into steps."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from dials_hybrid.data import Dataset, Observations, RockingSteps
from dials_hybrid.rocking.frames import VirtualFrames
from dials_hybrid.rocking.mosaic import mosaic_deviates
from dials_hybrid.rocking.sweep import Sweep

_STEPS_IN_HALF_WIDTH = 4  # at least, however thin the crystal


@dataclass(frozen=True)
class Reflections:
    """M integrated intensities, each with its place in one of the runs."""

    hkl: np.ndarray  # (M, 3) int
    intensity: np.ndarray  # (M,) raw, without Lorentz correction
    sigma: np.ndarray  # (M,) > 0
    run: np.ndarray  # (M,) int
    angle: np.ndarray  # (M,) scan angle of the centre [degree]
    half_width: np.ndarray  # (M,) half of the range of scan angle integrated over [degree]
    row: np.ndarray  # (M,) int, row of the source table
    frame: np.ndarray  # (M,) int, virtual frame of the run; -1 in a sweep
    share: np.ndarray  # (M,) 1 / (number of rows that list this measurement, see `frames.shares`)

    def __len__(self) -> int:
        return len(self.intensity)

    def select(self, rows: np.ndarray) -> Reflections:
        """Those of a mask or of indices."""
        return Reflections(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


@dataclass(frozen=True)
class Measurement:
    """Runs and their reflections, and what was left out and why."""

    runs: tuple[Sweep | VirtualFrames, ...]
    reflections: Reflections
    wavelength: float  # [A]
    n_rows: int  # rows of the source table
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> number of rows

    @property
    def longest_range(self) -> float:
        """Scan angle of the longest run [degree]."""
        return max(run.range for run in self.runs)

    @property
    def blurred(self) -> bool:
        """Whether a mosaic spread about the rotation axis changes any of the windows."""
        return any(run.blurred for run in self.runs)

    def without_blur(self) -> Measurement:
        """The same for a mosaic spread across the rotation axes alone."""
        return replace(self, runs=tuple(replace(run, blurred=False) for run in self.runs))

    def comparable(self, run: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """hkl, and intensities and sigmas corrected by the Lorentz factor, of the reflections of a run."""
        own = _whole(self.reflections.select(self.reflections.run == run))
        lever = self.runs[run].lever(own)
        return own.hkl, own.intensity * lever, own.sigma * lever

    def dataset(self, step: float, mosaic_points: int, mosaic_tilts: str = "means") -> Dataset:
        """Runs cut into rocking steps of at most `step` degrees; for the others see `mosaic_deviates`."""
        reflections = self.reflections
        step = min(step, float(reflections.half_width.min()) / _STEPS_IN_HALF_WIDTH)
        cuts = [run.cut(run.suitable(step, mosaic_points)) for run in self.runs]
        first, last = np.zeros((2, len(reflections)), dtype=np.int64)
        edges = np.zeros((len(reflections), 2))
        start = 0
        for index, (run, cut) in enumerate(zip(self.runs, cuts, strict=True)):
            own = reflections.run == index
            low, high = run.windows(cut, reflections.select(own))
            first[own], last[own] = start + low, start + high
            edges[own] = run.edges(reflections.select(own))
            start += len(cut)
        steps = RockingSteps(
            basis=_tensor(np.concatenate([cut.basis for cut in cuts])),
            weight=_tensor(np.concatenate([cut.weight for cut in cuts])),
            angle=_tensor(np.concatenate([cut.angle for cut in cuts])),
            crystal=torch.as_tensor(np.repeat(np.arange(len(cuts)), [len(cut) for cut in cuts])),
            frame=torch.as_tensor(np.concatenate([cut.frame for cut in cuts])),
            next_frame=torch.as_tensor(np.concatenate([cut.next_frame for cut in cuts])),
            part=_tensor(np.concatenate([cut.part for cut in cuts])),
            mosaic=torch.cat([mosaic_deviates(len(cut), mosaic_points, mosaic_tilts) for cut in cuts]),
            beam=_tensor(np.stack([run.beam for run in self.runs])),
            rotation_axis=_tensor(np.stack([run.rotation_axis for run in self.runs])),
        )
        observations = Observations(
            hkl=torch.as_tensor(reflections.hkl),
            intensity=_tensor(reflections.intensity),
            sigma=_tensor(reflections.sigma),
            first=torch.as_tensor(first),
            last=torch.as_tensor(last),
            crystal=torch.as_tensor(reflections.run),
            angle=_tensor(reflections.angle),
            row=torch.as_tensor(reflections.row),
            frame=torch.as_tensor(reflections.frame),
            share=_tensor(reflections.share),
            free=torch.zeros(len(reflections), dtype=torch.bool),
            edges=_tensor(edges) if np.isfinite(edges).any() else None,
        )
        return Dataset(steps, observations, self.wavelength, self.n_rows, dict(self.rejected))


def unmirrored(measurement: Measurement) -> Measurement:
    """What it would have been, had the images not been mirrored.

    In a mirror a crystal of one hand is one of the other, so the program that indexed the images took h for
    what is -h: with a right-handed cell it had no other choice. The orientations stay as they look in the
    mirror, which changes no intensity.
    """
    reflections = replace(measurement.reflections, hkl=-measurement.reflections.hkl)
    runs = tuple(run.inverted() for run in measurement.runs)
    return replace(measurement, runs=runs, reflections=reflections)


def _whole(reflections: Reflections) -> Reflections:
    """The sum over the images of each row of the table."""
    _, first, place = np.unique(reflections.row, return_index=True, return_inverse=True)
    intensity, variance = np.zeros((2, len(first)))
    np.add.at(intensity, place, reflections.intensity)
    np.add.at(variance, place, reflections.sigma**2)
    return replace(reflections.select(first), intensity=intensity, sigma=np.sqrt(variance))


def joined(measurements: list[Measurement]) -> Measurement:
    """Several measurements as one: a run stays a run, and its rows those of its own source."""
    runs = [run for measurement in measurements for run in measurement.runs]
    columns: dict[str, list[np.ndarray]] = {item.name: [] for item in fields(Reflections)}
    rejected: dict[str, int] = {}
    before = 0
    for measurement in measurements:
        own = measurement.reflections
        for name, parts in columns.items():
            parts.append(getattr(own, name) + (before if name == "run" else 0))
        for reason, n in measurement.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + n
        before += len(measurement.runs)
    return Measurement(
        runs=tuple(runs),
        reflections=Reflections(**{name: np.concatenate(parts) for name, parts in columns.items()}),
        wavelength=float(np.mean([measurement.wavelength for measurement in measurements])),
        n_rows=sum(measurement.n_rows for measurement in measurements),
        rejected=rejected,
    )


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float64)
