r"""Virtual frames that overlap, as one rotation whose steps they have in common.

At each scan angle the crystal has one orientation. In the middle of a frame it is that of the frame. On the
way to the next one, what turns the one into the other beside the rotation of the scan grows in proportion
to the scan angle phi: between frames 1 and 2 the reciprocal basis is

    R(phi) D^u B_1',     D = B_2' B_1'^-1,     B_i' = R(-phi_i) B_i,     u = (phi - phi_1) / (phi_2 - phi_1)

with R the rotation about the axis of the scan. Refined tilts go the same way from frame to frame.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial.transform import Rotation

from dials_hybrid.rocking.sweep import Cut


@dataclass(frozen=True)
class Chain:
    """Frames, by scan angle, that cover a rotation without gaps or jumps."""

    number: np.ndarray  # (n,) of the frames
    angle: np.ndarray  # (n,) scan angle of their middles, rising [degree]
    half: np.ndarray  # (n,) half of the rotation that each is summed over [degree]
    deviation: Rotation  # (n,) from the first frame to each, once the scan is turned back
    basis: np.ndarray  # (3, 3) reciprocal basis of the first, the scan turned back [1/A]
    axis: np.ndarray  # (3,) unit vector of the rotation axis

    @property
    def limits(self) -> tuple[float, float]:
        """Scan angles where it begins and ends [degree]."""
        return float((self.angle - self.half).min()), float((self.angle + self.half).max())

    def cut(self, step: float) -> Cut:
        """Equal steps of at most `step` degrees, taken at their midpoints."""
        low, high = self.limits
        n = int(count(high - low, step))
        angle = low + (np.arange(n) + 0.5) / n * (high - low)
        place = np.interp(angle, self.angle, np.arange(len(self.angle)))
        before = np.minimum(place.astype(int), max(0, len(self.angle) - 2))
        after = np.minimum(before + 1, len(self.angle) - 1)
        part = place - before
        one, other = self.deviation[before], self.deviation[after]
        between = Rotation.from_rotvec(part[:, None] * (other * one.inv()).as_rotvec())
        return Cut(
            basis=(_turns(angle, self.axis) * between * one).as_matrix() @ self.basis,
            angle=angle,
            weight=np.full(n, (high - low) / n),
            frame=self.number[before],
            next_frame=self.number[after],
            part=part,
        )


def chains(
    number: np.ndarray, basis: np.ndarray, angle: np.ndarray, half: np.ndarray, axis: np.ndarray
) -> list[Chain]:
    """Frames with these numbers, bases (n, 3, 3), scan angles and half rotations [degree], as chains.

    Neighbours that do not overlap are apart, and those that differ by more than half the rotation of the
    smaller one: these are no two moments of one scan.

    Args:
        axis: unit vector of the rotation axis (3,).
    """
    upright = _turns(-angle, axis).as_matrix() @ basis
    u, _, v = np.linalg.svd(upright @ np.linalg.inv(upright[0]))
    deviation = Rotation.from_matrix(u @ v)
    jump = np.degrees((deviation[1:] * deviation[:-1].inv()).magnitude())
    distance, reach = np.diff(angle), half[1:] + half[:-1]
    apart = (distance >= reach) | (distance <= 0.0) | (jump > np.minimum(half[1:], half[:-1]))
    parts = np.split(np.arange(len(number)), np.flatnonzero(apart) + 1)
    return [
        Chain(
            number=number[part],
            angle=angle[part],
            half=half[part],
            deviation=deviation[part] * deviation[part[0]].inv(),
            basis=upright[part[0]],
            axis=axis,
        )
        for part in parts
    ]


def joined(cuts: list[Cut]) -> Cut:
    """One after the other."""
    columns = (item.name for item in fields(Cut))
    return Cut(**{name: np.concatenate([getattr(cut, name) for cut in cuts]) for name in columns})


def windows(chains: list[Chain], cut: Cut, reflections) -> tuple[np.ndarray, np.ndarray]:
    """First step and the one behind the last (M,) of rocking curves, in the joined cuts of `chains`.

    Each lies `half_width` to both sides of its `angle`, in the chain of its frame.
    """
    first, last = np.zeros((2, len(reflections)), dtype=np.int64)
    for chain in chains:
        steps = np.flatnonzero(np.isin(cut.frame, chain.number))
        own = np.isin(reflections.frame, chain.number)
        angle, half = reflections.angle[own], reflections.half_width[own]
        first[own] = steps[0] + np.searchsorted(cut.angle[steps], angle - half)
        last[own] = steps[0] + np.searchsorted(cut.angle[steps], angle + half)
    return first, last


def count(length, step: float):
    """Steps of at most `step` in `length`: as many as asked for, whatever the rounding."""
    return np.ceil(length / step * (1.0 - 1e-9)).astype(int)


def _turns(angle: np.ndarray, axis: np.ndarray) -> Rotation:
    return Rotation.from_rotvec(np.radians(angle)[:, None] * axis)
