"""Parts of a scan that fit worse than the rest of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dials_hybrid.rocking.frames import VirtualFrames
from dials_hybrid.rocking.sweep import Sweep

_LEAST = 30  # observed reflections in a part that is judged


@dataclass
class _Part:
    """Neighbouring ranges of a scan."""

    low: float  # scan angle [degree]
    high: float
    n_all: int = 0
    n_observed: int = 0
    total: float = 0.0
    n_outliers: int = 0

    @property
    def r1_obs(self) -> float:
        """Nearly: a mean over ranges, weighted by their numbers of reflections."""
        return self.total / max(1, self.n_observed)


def bad_images(summary: Mapping, runs: Sequence[Sweep | VirtualFrames] = ()) -> Iterator[str]:
    """Parts of a scan, of 30 observed reflections or more, that fit much worse than the whole.

    R1_obs is more than twice that of all; or there are at least six outliers, and five standard deviations
    more than the share e of all outliers by a Poisson distribution: k > e + 5 sqrt(max(e, 1)).
    """
    r1, ranges = summary["r1_obs"], summary["angular_ranges"]
    per_reflection = len(summary["outliers"]) / max(1, summary["n_used"])
    crystals = sorted({item["crystal"] for item in ranges})
    for crystal in crystals:
        angles = [item["angle"] for item in summary["outliers"] if item["crystal"] == crystal]
        groups: list[list[_Part]] = [[]]
        for part in _parts([item for item in ranges if item["crystal"] == crystal]):
            part.n_outliers = sum(part.low <= angle <= part.high for angle in angles)
            expected = per_reflection * part.n_all
            many = part.n_outliers >= 6 and part.n_outliers > expected + 5.0 * math.sqrt(max(expected, 1.0))
            if many or part.r1_obs > 2.0 * r1:
                groups[-1].append(part)
            else:
                groups.append([])
        for group in filter(None, groups):
            where = _place(runs[crystal] if crystal < len(runs) else None, group[0].low, group[-1].high)
            where += f" of crystal {crystal + 1}" if len(crystals) > 1 else ""
            n = sum(part.n_outliers for part in group)
            who = f"{n} reflections of {where} fit" if n > 1 else f"The reflections of {where} fit"
            worst = max(part.r1_obs for part in group)
            yield f"{who} badly (R1_obs {worst:.0%}, overall {r1:.0%}): beam damage, drift or a bad image?"


def _parts(ranges: Sequence[Mapping]) -> list[_Part]:
    """Neighbouring ranges of one scan, put together until each part has `_LEAST` observed reflections."""
    parts: list[_Part] = []
    for item in sorted(ranges, key=lambda item: item["angle_min"]):
        if not parts or parts[-1].n_observed >= _LEAST:
            parts.append(_Part(item["angle_min"], item["angle_max"]))
        part, n = parts[-1], item["n_observed"]
        part.high = item["angle_max"]
        part.n_all += item["n_all"]
        part.n_observed += n
        part.total += n * item["r1_obs"] if n else 0.0
    return [part for part in parts if part.n_observed >= _LEAST]


def _place(run: Sweep | VirtualFrames | None, low: float, high: float) -> str:
    """Images, counted from 1 as DIALS does, or scan angles [degree] where there are none."""
    if not isinstance(run, Sweep):
        return f"{low:.0f} to {high:.0f} degree of scan angle"
    first, last = sorted(math.floor((angle - run.phi_0) / run.width) + 1 for angle in (low, high))
    return f"images {first}-{last}" if last > first else f"image {first}"
