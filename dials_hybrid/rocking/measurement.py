"""All that was measured, in plain arrays: what a reader gives and a refinement cuts into steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dials_hybrid.data import Dataset, Observations, RockingSteps
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

    def __len__(self) -> int:
        return len(self.intensity)


@dataclass(frozen=True)
class Measurement:
    """Runs and their reflections, and what was left out and why."""

    runs: tuple[Sweep, ...]
    reflections: Reflections
    wavelength: float  # [A]
    n_rows: int  # rows of the source table
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> number of rows

    @property
    def longest_range(self) -> float:
        """Scan angle of the longest run [degree]."""
        return max(run.range for run in self.runs)

    def dataset(self, step: float, mosaic_points: int) -> Dataset:
        """Runs cut into rocking steps of at most `step` degrees."""
        reflections = self.reflections
        step = min(step, float(reflections.half_width.min()) / _STEPS_IN_HALF_WIDTH)
        cuts = [run.cut(step) for run in self.runs]
        first, last = np.zeros((2, len(reflections)), dtype=np.int64)
        start = 0
        for index, (run, cut) in enumerate(zip(self.runs, cuts, strict=True)):
            own = reflections.run == index
            low, high = run.windows(cut, reflections.angle[own], reflections.half_width[own])
            first[own], last[own] = start + low, start + high
            start += len(cut)
        steps = RockingSteps(
            basis=_tensor(np.concatenate([cut.basis for cut in cuts])),
            weight=_tensor(np.concatenate([cut.weight for cut in cuts])),
            angle=_tensor(np.concatenate([cut.angle for cut in cuts])),
            crystal=torch.as_tensor(np.repeat(np.arange(len(cuts)), [len(cut) for cut in cuts])),
            mosaic=torch.cat([mosaic_deviates(len(cut), mosaic_points) for cut in cuts]),
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
            free=torch.zeros(len(reflections), dtype=torch.bool),
        )
        return Dataset(steps, observations, self.wavelength, self.n_rows, dict(self.rejected))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float64)
