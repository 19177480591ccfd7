"""A continuous rotation, cut into rocking steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

# How far steps of virtual frames go on where their ends are blurred [degree]: four times a spread of 0.1.
BEYOND = 0.4
_AT_END = 1e-6  # [degree]


@dataclass(frozen=True)
class Cut:
    """K consecutive rocking steps of a run."""

    basis: np.ndarray  # (K, 3, 3) reciprocal basis [1/A]
    angle: np.ndarray  # (K,) scan angle [degree]
    weight: np.ndarray  # (K,) quadrature weight [degree]
    frame: np.ndarray  # (K,) int, virtual frame of the run; -1 in a sweep
    next_frame: np.ndarray  # (K,) int, that with which the step is shared; -1: none
    part: np.ndarray  # (K,) of the way from the middle of the one to that of the other

    def __len__(self) -> int:
        return len(self.angle)


@dataclass(frozen=True)
class Sweep:
    """Orientations of a crystal at the scan points of a rotation.

    Between scan points the rotation is interpolated at constant angular velocity and the orthogonal
    matrix B linearly, as DIALS does for the centres of images.
    """

    rotations: np.ndarray  # (Z, 3, 3) crystal frame to laboratory, that of the mean beam
    b: np.ndarray  # (Z, 3, 3) [1/A]
    z: np.ndarray  # (Z,) array indices of the scan points
    beam: np.ndarray  # (3,) unit vector along the mean beam
    rotation_axis: np.ndarray  # (3,)
    phi_0: float  # scan angle at array index 0 [degree]
    width: float  # rotation of an image [degree]
    by_image: bool = False  # whether its observations are of single images
    blurred: bool = False  # whether a mosaic spread about the rotation axis acts at the edges of windows

    @property
    def method(self) -> str:
        """How the data were measured."""
        return "continuous rotation"

    @property
    def range(self) -> float:
        """Scan angle covered [degree]."""
        return abs(self.width) * float(self.z[-1] - self.z[0])

    def basis(self, z: np.ndarray) -> np.ndarray:
        """Reciprocal basis (K, 3, 3) [1/A] at array indices z (K,)."""
        z = np.clip(z, self.z[0], self.z[-1])
        u = Slerp(self.z, Rotation.from_matrix(self.rotations))(z).as_matrix()
        b = np.empty_like(u)
        for i, j in np.ndindex(3, 3):
            b[:, i, j] = np.interp(z, self.z, self.b[:, i, j])
        return u @ b

    def angle(self, z):
        """Scan angle [degree] at array index z."""
        return self.phi_0 + self.width * z

    def lever(self, reflections) -> np.ndarray:
        """|d S_g / d angle| (M,) [1/A/radian]: what the integrated intensity is the smaller for."""
        basis = self.basis((reflections.angle - self.phi_0) / self.width)
        r = np.einsum("mij,mj->mi", basis, reflections.hkl.astype(float))
        return np.abs(r @ np.cross(self.beam, self.rotation_axis))

    def inverted(self) -> Sweep:
        """With axes a*, b*, c* the other way."""
        return replace(self, b=-self.b)

    def suitable(self, step: float, mosaic_points: int) -> float:
        """The largest step up to `step` [degree]; that of which an image holds whole rounds of quantiles."""
        if not self.by_image:
            return step
        width = abs(self.width)
        return width / (mosaic_points * math.ceil(width / (step * mosaic_points) - 1e-9))

    def cut(self, step: float) -> Cut:
        """Equal steps of at most `step` degrees, taken at their midpoints."""
        n = math.ceil(self.range / step - 1e-9)
        edges = np.linspace(self.z[0], self.z[-1], n + 1)
        z = 0.5 * (edges[1:] + edges[:-1])
        weight, no_frame = np.full(n, self.range / n), np.full(n, -1)
        return Cut(self.basis(z), self.angle(z), weight, no_frame, no_frame, np.zeros(n))

    def windows(self, cut: Cut, reflections) -> tuple[np.ndarray, np.ndarray]:
        """First step and the one behind the last (M,) within the rocking curve of each reflection."""
        angle: np.ndarray = reflections.angle
        half_width: np.ndarray = reflections.half_width
        rising = cut.angle if self.width > 0 else cut.angle[::-1]
        low = np.searchsorted(rising, angle - half_width)
        high = np.searchsorted(rising, angle + half_width)
        if self.width < 0:
            low, high = len(cut) - high, len(cut) - low
        return low, high

    def edges(self, reflections) -> np.ndarray:
        """Scan angles (M, 2) [degree] of the edges of windows that a mosaic spread blurs; else infinite.

        At the ends of the scan there are no steps beyond, and windows end as they do without.
        """
        half_width = reflections.half_width if self.blurred else np.full(len(reflections), np.inf)
        edges = reflections.angle[:, None] + half_width[:, None] * [-1.0, 1.0]
        first, last = sorted((self.angle(self.z[0]), self.angle(self.z[-1])))
        edges[edges[:, 0] < first + _AT_END, 0] = -np.inf
        edges[edges[:, 1] > last - _AT_END, 1] = np.inf
        return edges
