"""Virtual frames: short rotations or precessions, each with an orientation of its own.

The rotation of a frame is its own run of rocking steps about its middle. A reflection crosses the
Ewald sphere inside it when |S_g| in the middle is smaller than

    D_g = |g_y| sin(semi-angle),

g_y the component of g across the rotation axis and the beam (in precession: across the beam).

The intensity is summed over the rotation of the frame, or over whole rocking curves: those that end
beyond it are then followed `margin` degrees further. A mosaic spread about the rotation axis moves
rocking curves, which leaves the sum over a whole one as it is. One that ends with the frame it blurs
there (`model.windows`), and steps beyond the ends count as well; not in precession, where a turn about
the axis is no move along the cone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

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
    margin: float = 0.0  # [degree] beyond each end of a rotation that is summed over too
    used: np.ndarray | None = None  # (F,) bool: those that are cut into steps; None: all
    blurred: bool = False  # whether a mosaic spread about the rotation axis acts at the ends of a rotation

    def __len__(self) -> int:
        return len(self.angle)

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

    def cut(self, step: float) -> Cut:
        """Equal steps of at most `step` degrees in each frame, taken at their midpoints."""
        beyond = max(self.margin, BEYOND if self.blurred else 0.0)
        half = self.semi_angle if self.precession else self.semi_angle + beyond
        length = 2.0 * half * (math.pi if self.precession else 1.0)
        n = np.ceil(length / step * (1.0 - 1e-9)).astype(int)  # as many as asked for, whatever the rounding
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
        """First step and the one behind the last (M,) of each reflection: those of its whole frame."""
        frame: np.ndarray = reflections.frame
        return np.searchsorted(cut.frame, frame), np.searchsorted(cut.frame, frame, side="right")

    def edges(self, reflections) -> np.ndarray:
        """Scan angles (M, 2) [degree] of the ends of a sum that a mosaic spread blurs; else infinite."""
        frame = reflections.frame
        half = self.semi_angle[frame] if self.blurred else np.full(len(frame), np.inf)
        return self.angle[frame][:, None] + half[:, None] * [-1.0, 1.0]


def shares(run: VirtualFrames, hkl: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """What each row (M,) tells that others do not: 1 / (number of overlapping frames that list it).

    Frames overlap, and the reflections of one frame are listed again in the next, with the same
    intensity from the same images. n such rows are one measurement.

    Args:
        hkl: (M, 3).
        frame: (M,) int.
    """
    low, high = run.angle - run.semi_angle, run.angle + run.semi_angle
    order = np.lexsort((frame, *hkl.T))
    new = np.any(np.diff(hkl[order], axis=0) != 0, axis=1)
    share = np.empty(len(hkl))
    for rows in np.split(order, np.flatnonzero(new) + 1):
        own = frame[rows]
        overlap = (low[own][:, None] < high[own]) & (low[own] < high[own][:, None])
        share[rows] = 1.0 / np.maximum(1, overlap.sum(1))
    return share
