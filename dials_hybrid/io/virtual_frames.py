"""Virtual frames of a sweep, and their .cif_pets file (Palatinus et al. 2015; Klar et al. 2023).

A frame is a window of merged images, taken as a rotation of +-`semi_angle` about the scan angle of its
centre. In the frame of the file the beam runs along -z and the rotation axis along x; the orientation of a
frame is Rz(omega) Rx(alpha) Ry(beta) UB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dials_hybrid.io.atomic import atomic_write
from dials_hybrid.rocking.measurement import Reflections
from dials_hybrid.rocking.sweep import Sweep


@dataclass(frozen=True)
class MergedImages:
    """The V virtual frames of a sweep."""

    sweep: Sweep
    centre: np.ndarray  # (V,) array index
    n_merged: int  # images
    step: int  # images from one frame to the next

    @property
    def semi_angle(self) -> float:
        """[degree]"""
        return 0.5 * abs(self.sweep.width) * self.n_merged

    def __len__(self) -> int:
        return len(self.centre)


def merged_images(sweep: Sweep, n_merged: int, step: int) -> MergedImages:
    """All whole frames of a sweep.

    Raises:
        ValueError: the sweep has fewer images than a frame.
    """
    first, last = sweep.z[0], sweep.z[-1]
    centre = np.arange(first + 0.5 * n_merged, last - 0.5 * n_merged + 1e-6, step)
    if len(centre) == 0:
        raise ValueError(
            f"the scan has {last - first:.0f} images, fewer than virtual_frames.n_merged={n_merged}"
        )
    return MergedImages(sweep, centre, n_merged, step)


def reflections_of_frames(
    frames: MergedImages, hkl: np.ndarray, wave_number: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reflections (M, 3) that cross the Ewald sphere inside a frame, once a frame, and their frames (M,).

    |S_g| at the centre of the frame is less than |d S_g / d phi| semi_angle, with d S_g / d phi the
    distance of g from the rotation axis.

    Args:
        hkl: (G, 3) candidates.
        wave_number: [1/A].
    """
    sweep = frames.sweep
    r = np.einsum("vij,gj->vgi", sweep.basis(frames.centre), hkl.astype(float))
    s_g = -(r @ sweep.beam + (r**2).sum(-1) / (2.0 * wave_number))
    distance = np.linalg.norm(np.cross(r, sweep.rotation_axis), axis=-1)
    frame, which = np.nonzero(np.abs(s_g) < distance * np.radians(frames.semi_angle))
    return hkl[which], frame


def on_images(frames: MergedImages, hkl: np.ndarray, frame: np.ndarray) -> tuple[Reflections, np.ndarray]:
    """What the frames are merged from: every reflection on every image, listed once.

    Returns:
        N reflections with intensity 1 integrated over one image each, and where among them those of each
        row of hkl (M, 3) and frame (M,) stand (M, n_merged). Frames that overlap share them.
    """
    sweep, n = frames.sweep, frames.n_merged
    first = np.round(frames.centre[frame] - 0.5 * n).astype(np.int64)
    image = (first[:, None] + np.arange(n)).ravel()
    rows = np.column_stack([np.repeat(hkl, n, axis=0), image])
    rows, place = np.unique(rows, axis=0, return_inverse=True)
    m = len(rows)
    reflections = Reflections(
        hkl=rows[:, :3],
        intensity=np.ones(m),
        sigma=np.ones(m),
        run=np.zeros(m, dtype=np.int64),
        angle=sweep.angle(rows[:, 3] + 0.5),
        half_width=np.full(m, 0.5 * abs(sweep.width)),
        row=np.arange(m),
        frame=np.full(m, -1),
        share=np.ones(m),
    )
    return reflections, place.reshape(-1, n)


def write_pets(
    filename: str | Path,
    frames: MergedImages,
    hkl: np.ndarray,
    frame: np.ndarray,
    intensity: np.ndarray,
    sigma: np.ndarray,
    *,
    cell: tuple[float, ...],
    volume: float,
    wavelength: float,
    mosaic_spread: float,
) -> None:
    """Write reflections (M, 3) with their frames, intensities and sigmas (M,).

    Args:
        cell: lengths [A] and angles [degree].
        volume: [A^3].
        wavelength: [A].
        mosaic_spread: [degree].

    Raises:
        OSError: the file cannot be written.
    """
    basis = _in_frame_of_file(frames.sweep) @ frames.sweep.basis(frames.centre)
    ub, angles = _decompose(basis, frames)
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_pets"]
    lines += [f"_cell_{name} {value:.5f}" for name, value in zip(names, cell, strict=True)]
    lines += [f"_cell_volume {volume:.5f}", f"_diffrn_radiation_wavelength {wavelength:.6f}"]
    lines += [f"_diffrn_orient_matrix_UB_{i + 1}{j + 1} {ub[i, j]:.8f}" for i, j in np.ndindex(3, 3)]
    d_star_max = np.linalg.norm(hkl @ ub.T, axis=1).max()
    lines += [
        "_diffrn_measurement_details",
        ";",
        "data collection geometry: continuous rotation",
        f"dstarmax: {d_star_max:.3f}",
        "RC width: 0.00000",
        f"mosaicity: {mosaic_spread:.3f}",
        "rotation axis position: 0.000",
        "reflection size: 0.000",
        f"Virtual frame settings: number of merged frames: {frames.n_merged}",
        f"                        step between frames: {frames.step}",
        "                        sum all intensities: 0",
        ";",
        "",
        "loop_",
        *(f"_diffrn_zone_axis_{name}" for name in ("id", "u", "v", "w", "precession_angle")),
        *(f"_diffrn_zone_axis_{name}" for name in ("alpha", "beta", "omega", "scale")),
    ]
    zones = basis[:, 2, :] / np.abs(basis[:, 2, :]).max(1, keepdims=True)  # [uvw] along -beam
    lines += [
        f"{i:4d} {u:9.6f} {v:9.6f} {w:9.6f} {frames.semi_angle:.4f} {a:9.4f} {b:8.4f} {o:8.4f} 1.000"
        for i, ((u, v, w), (a, b, o)) in enumerate(zip(zones, angles, strict=True), 1)
    ]
    lines += ["", "loop_", *(f"_refln_index_{i}" for i in "hkl"), "_refln_intensity_meas"]
    lines += ["_refln_intensity_sigma", "_refln_zone_axis_id"]
    rows = zip(hkl, intensity, sigma, frame, strict=True)
    lines += [f"{h:4d} {k:4d} {l_:4d} {i:14.6g} {s:14.6g} {v + 1:4d}" for (h, k, l_), i, s, v in rows]
    with atomic_write(filename) as path:
        path.write_text("\n".join(lines) + "\n")


def _in_frame_of_file(sweep: Sweep) -> np.ndarray:
    """Rotation (3, 3) of the laboratory that brings the beam to -z and the rotation axis to the xz plane."""
    z = -sweep.beam
    y = np.cross(z, sweep.rotation_axis)
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z])


def _decompose(basis: np.ndarray, frames: MergedImages) -> tuple[np.ndarray, np.ndarray]:
    """UB (3, 3) and alpha, beta, omega (V, 3) [degree] of orientations (V, 3, 3).

    UB is the orientation of the middle frame, turned back to scan angle zero. A cell that varies over the
    scan is represented by that of this frame.
    """
    middle = len(frames) // 2
    ub = _about_x(-frames.sweep.angle(frames.centre[middle])) @ basis[middle]
    u, _, v = np.linalg.svd(basis @ np.linalg.inv(ub))
    turn = u @ v
    alpha = np.arctan2(turn[:, 2, 1], np.hypot(turn[:, 2, 0], turn[:, 2, 2]))
    beta = np.arctan2(-turn[:, 2, 0], turn[:, 2, 2])
    omega = np.arctan2(-turn[:, 0, 1], turn[:, 1, 1])
    return ub, np.degrees(np.stack([alpha, beta, omega], axis=1))


def _about_x(angle: float) -> np.ndarray:
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
