"""Made-up .cif_pets files for tests, written without the package's own geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

CELL = (5.0, 6.0, 7.0, 90.0, 90.0, 90.0)
WAVELENGTH = 0.0251
# Orthonormal to 1e-9: a turn by 50 degrees about (1, 2, 3).
_C, _S = math.cos(math.radians(50.0)), math.sin(math.radians(50.0))
_N = np.array([1.0, 2.0, 3.0]) / math.sqrt(14.0)
_CROSS = np.array([[0.0, -_N[2], _N[1]], [_N[2], 0.0, -_N[0]], [-_N[1], _N[0], 0.0]])
UB = (_C * np.eye(3) + (1.0 - _C) * np.outer(_N, _N) + _S * _CROSS) @ np.diag([1 / 5.0, 1 / 6.0, 1 / 7.0])


def about_x(angle: float) -> np.ndarray:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def about_y(angle: float) -> np.ndarray:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def about_z(angle: float) -> np.ndarray:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@dataclass
class Frame:
    name: str
    alpha: float
    beta: float = 0.0
    omega: float = 0.0
    semi_angle: float = 1.0

    def basis(self) -> np.ndarray:
        """As the file means it, turned into the plane of the images by omega."""
        return about_z(self.omega) @ about_x(self.alpha) @ about_y(self.beta) @ UB


def three_frames() -> list[Frame]:
    return [Frame("1", -2.0, 0.1, 0.3), Frame("2", -1.0, -0.05, 0.35), Frame("3", 0.2, 0.02, 0.31, 1.5)]


@dataclass
class PetsFile:
    """The text of a file; every part can be changed before `text` is asked for."""

    frames: list[Frame] = field(default_factory=three_frames)
    geometry: str = "continuous rotation"
    axis: str = "rotation axis position:    0.300"
    rows: list[tuple] | None = None  # h k l I sigma frame
    items: dict[str, str] = field(default_factory=dict)  # changed or added
    head: str = ""

    def reflections(self) -> list[tuple]:
        """All that cross the Ewald sphere between the ends of a frame, by brute force."""
        if self.rows is not None:
            return self.rows
        rows = []
        hkl = np.array([h for h in np.ndindex(17, 17, 17) if h != (8, 8, 8)]) - 8
        for frame in self.frames:
            ends = [about_x(phi) @ frame.basis() for phi in (-frame.semi_angle, frame.semi_angle)]
            first, last = (excitation(hkl @ basis.T) for basis in ends)
            for h in hkl[first * last < 0.0].tolist():
                rows.append((*h, 100.0 + h[0] - 3.0 * h[1], 5.0, frame.name))
        return rows

    def text(self) -> str:
        items = {
            **{
                f"_cell_{name}": f"{value:.5f}"
                for name, value in zip(
                    ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"),
                    CELL,
                    strict=True,
                )
            },
            "_diffrn_radiation_wavelength": f"{WAVELENGTH:.5f}",
            **{f"_diffrn_orient_matrix_UB_{i + 1}{j + 1}": f"{UB[i, j]:.8f}" for i, j in np.ndindex(3, 3)},
            **self.items,
        }
        lines = [self.head + "data_pets", *(f"{name} {value}" for name, value in items.items() if value)]
        lines += ["_diffrn_measurement_details", ";", f"data collection geometry: {self.geometry}"]
        lines += ["dstarmax:  0.000", self.axis, "sum all intensities:     -1", ";", "", "loop_"]
        zone = ("id", "u", "v", "w", "precession_angle", "alpha", "beta", "omega", "scale")
        lines += [f"_diffrn_zone_axis_{name}" for name in zone]
        for frame in self.frames:
            u, v, w = frame.basis().T @ [0.0, 0.0, 1.0]  # direct axes along z
            numbers = (u, v, w, frame.semi_angle, frame.alpha, frame.beta, frame.omega, 0.0)
            lines.append(f"{frame.name} " + " ".join(f"{number:.6f}" for number in numbers))
        lines += ["", "loop_", *(f"_refln_index_{i}" for i in "hkl"), "_refln_intensity_meas"]
        lines += ["_refln_intensity_sigma", "_refln_zone_axis_id"]
        lines += [" ".join(map(str, row)) for row in self.reflections()]
        return "\n".join([*lines, ""])


def excitation(r: np.ndarray):
    """S_g of a beam along -z, from the lengths of K and K + g."""
    k = 1.0 / WAVELENGTH
    return (k**2 - np.sum((np.array([0.0, 0.0, -k]) + r) ** 2, axis=-1)) / (2.0 * k)
