"""Virtual frames: short rotations or precessions, each with an orientation of its own.

The rotation of a frame is its own run of rocking steps about its middle. A reflection crosses the
Ewald sphere inside it when |S_g| in the middle is smaller than

    D_g = |g_y| sin(semi-angle),

g_y the component of g across the rotation axis and the beam (in precession: across the beam).

The intensity is summed over the rotation of the frame, or over the whole rocking curve: as far to either
side of where the reflection crosses the Ewald sphere, whichever frames list it, and `margin` degrees beyond
the ends of a frame. Frames that overlap then have their rocking steps in common (see `overlap`).

A mosaic spread about the rotation axis moves rocking curves, which leaves the sum over a whole one as it
is. One that ends with the frame it blurs there (`model.windows`), and steps beyond the ends count as well;
not in precession, where a turn about the axis is no move along the cone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from dials_hybrid.rocking import overlap
from dials_hybrid.rocking.sweep import BEYOND, Cut


@dataclass(frozen=True)
class VirtualFrames:
    """F frames of one crystal, ordered by scan angle."""

    basis: np.ndarray  # (F, 3, 3) reciprocal basis in the middle of each frame [1/A]
    angle: np.ndarray  # (F,) scan angle of the middle [degree]
    semi_angle: np.ndarray  # (F,) half of the rotation, or half the opening of the cone [degree]
    beam: np.ndarray  # (3,) unit vector
    rotation_axis: np.ndarray  # (3,) unit vector
    precession: bool
    # Of whole rocking curves: [degree] beyond each end of a rotation that is summed over too.
    margin: float | None = None
    used: np.ndarray | None = None  # (F,) bool: those that are cut into steps; None: all
    blurred: bool = False  # whether a mosaic spread about the rotation axis acts at the ends of a rotation

    def __len__(self) -> int:
        return len(self.angle)

    @property
    def method(self) -> str:
        """How the data were measured."""
        return "precession" if self.precession else "virtual frames of a rotation"

    @property
    def whole_curves(self) -> bool:
        """Whether whole rocking curves are summed."""
        return self.margin is not None and not self.precession

    @property
    def range(self) -> float:
        """Scan angle covered [degree]."""
        used = slice(None) if self.used is None else self.used
        angle, semi_angle = self.angle[used], self.semi_angle[used]
        return float((angle + semi_angle).max() - (angle - semi_angle).min())

    def excitation(
        self, frame: np.ndarray, hkl: np.ndarray, wavelength: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """S_g in the middle of the frame and D_g, half the range it sweeps (M,) [1/A].

        Args:
            frame: (M,) int.
            hkl: (M, 3).
            wavelength: [A].
        """
        r = self._in_laboratory(frame, hkl)
        s_g = -(r @ self.beam + 0.5 * wavelength * (r**2).sum(1))
        return s_g, self._lever(r) * np.sin(np.radians(self.semi_angle[frame]))

    def crossing(self, frame: np.ndarray, hkl: np.ndarray, wavelength: float) -> np.ndarray:
        """Scan angle (M,) [degree] where reflections that are near it cross the Ewald sphere."""
        r = self._in_laboratory(frame, hkl)
        s_g, _ = self.excitation(frame, hkl, wavelength)
        return self.angle[frame] + np.degrees(s_g / (r @ np.cross(self.beam, self.rotation_axis)))

    def lever(self, reflections) -> np.ndarray:
        """|d S_g / d angle| (M,) [1/A/radian]: what the integrated intensity is the smaller for."""
        return self._lever(self._in_laboratory(reflections.frame, reflections.hkl))

    def _in_laboratory(self, frame: np.ndarray, hkl: np.ndarray) -> np.ndarray:
        return np.einsum("mij,mj->mi", self.basis[frame], hkl.astype(float))

    def _lever(self, r: np.ndarray) -> np.ndarray:
        if self.precession:
            return np.linalg.norm(r - (r @ self.beam)[:, None] * self.beam, axis=1)
        return np.abs(r @ np.cross(self.beam, self.rotation_axis))

    def inverted(self) -> VirtualFrames:
        """With axes a*, b*, c* the other way."""
        return replace(self, basis=-self.basis)

    def suitable(self, step: float, mosaic_points: int) -> float:
        """The largest step up to `step` [degree] that frames can be cut into: any."""
        return step

    def _in_common(self) -> list[overlap.Chain]:
        """Frames with common rocking steps; none where each has its own."""
        if not self.whole_curves or self.margin is None:
            return []
        number = np.arange(len(self)) if self.used is None else np.flatnonzero(self.used)
        half = self.semi_angle[number] + self.margin
        return overlap.chains(number, self.basis[number], self.angle[number], half, self.rotation_axis)

    def cut(self, step: float) -> Cut:
        """Equal steps of at most `step` degrees at their midpoints, in each frame or chain of frames."""
        chains = self._in_common()
        if chains:
            return overlap.joined([chain.cut(step) for chain in chains])
        half = self.semi_angle + (BEYOND if self.blurred else 0.0)
        length = 2.0 * half * (math.pi if self.precession else 1.0)
        n = overlap.count(length, step)
        if self.used is not None:
            n = np.where(self.used, n, 0)
        frame = np.repeat(np.arange(len(self)), n)
        place = (np.arange(len(frame)) - np.repeat(n.cumsum() - n, n) + 0.5) / n[frame]  # in (0, 1)
        turn = self._turns(place, half[frame])
        swept = 0.0 if self.precession else (2.0 * place - 1.0) * half[frame]
        return Cut(
            basis=turn.as_matrix() @ self.basis[frame],
            angle=self.angle[frame] + swept,
            weight=2.0 * half[frame] / n[frame],
            frame=frame,
            next_frame=np.full(len(frame), -1),
            part=np.zeros(len(frame)),
        )

    def _turns(self, place: np.ndarray, semi_angle: np.ndarray) -> Rotation:
        """From the middle of a frame to the part `place` of its course."""
        semi_angle = np.radians(semi_angle)[:, None]
        if not self.precession:
            return Rotation.from_rotvec((2.0 * place - 1.0)[:, None] * semi_angle * self.rotation_axis)
        across = np.cross(self.beam, self.rotation_axis)
        across /= np.linalg.norm(across)
        azimuth = 2.0 * math.pi * place[:, None]
        axes = np.cos(azimuth) * np.cross(across, self.beam) + np.sin(azimuth) * across
        return Rotation.from_rotvec(semi_angle * axes)

    def windows(self, cut: Cut, reflections) -> tuple[np.ndarray, np.ndarray]:
        """First step and the one behind the last (M,) of each reflection.

        These are those of its frame, or of its rocking curve where that is summed as a whole.
        """
        frame: np.ndarray = reflections.frame
        chains = self._in_common()
        if chains:
            return overlap.windows(chains, cut, reflections)
        return np.searchsorted(cut.frame, frame), np.searchsorted(cut.frame, frame, side="right")

    def edges(self, reflections) -> np.ndarray:
        """Scan angles (M, 2) [degree] of the ends of a sum that a mosaic spread blurs; else infinite."""
        frame = reflections.frame
        half = self.semi_angle[frame] if self.blurred else np.full(len(frame), np.inf)
        return self.angle[frame][:, None] + half[:, None] * [-1.0, 1.0]


def shares(run: VirtualFrames, hkl: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """What each row (M,) tells that others do not: 1 / (number of overlapping frames that list it).

    Frames overlap, and the reflections of one frame are listed again in the next, with the same
    intensity from the same images. n such rows are one measurement. Precession frames have images of
    their own.

    Args:
        hkl: (M, 3).
        frame: (M,) int.
    """
    if run.precession:
        return np.ones(len(hkl))
    low, high = run.angle - run.semi_angle, run.angle + run.semi_angle
    order = np.lexsort((frame, *hkl.T))
    new = np.any(np.diff(hkl[order], axis=0) != 0, axis=1)
    share = np.empty(len(hkl))
    for rows in np.split(order, np.flatnonzero(new) + 1):
        own = frame[rows]
        overlap = (low[own][:, None] < high[own]) & (low[own] < high[own][:, None])
        share[rows] = 1.0 / np.maximum(1, overlap.sum(1))
    return share
