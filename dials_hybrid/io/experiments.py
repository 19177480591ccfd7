"""Geometry from DIALS: experiment models to sweeps, and refined orientations back.

At array index z of a scan a reflection h lies, in the laboratory, at

    r = S R(axis, phi(z)) F U(z) B(z) h,

with S and F the goniometer's setting and fixed rotations. A beam that wanders during the scan is
turned back onto its mean direction, the crystal with it.
"""

from __future__ import annotations

import copy
import math

import numpy as np
from scipy.spatial.transform import Rotation
from torch import Tensor

from dxtbx.model import ExperimentList

from dials_hybrid.data import RockingSteps
from dials_hybrid.rocking.sweep import Sweep

_LONGEST_ELECTRON_WAVE = 0.09  # [A]; electrons of 18 kV, X-rays of 138 keV


def check_experiment(experiment, name: str) -> None:
    """Raise ValueError if `experiment`, called `name` in messages, is not an electron sweep."""
    missing = [part for part in ("beam", "crystal") if getattr(experiment, part) is None]
    if missing:
        raise ValueError(f"{name} has no {' and no '.join(missing)}: run dials.integrate first")
    if experiment.scan is None or experiment.goniometer is None:
        raise ValueError(f"{name} is a still image: a rotation scan is needed")
    if not abs(experiment.scan.get_oscillation()[1]) > 0.0:
        raise ValueError(f"{name} has images of zero rotation: stills cannot be refined")
    wavelength = experiment.beam.get_wavelength()
    if not 0.0 < wavelength < _LONGEST_ELECTRON_WAVE:
        raise ValueError(
            f"{name} has a wavelength of {wavelength:.5g} A, which is not that of an electron "
            "microscope (0.0197 A at 300 kV, 0.0251 A at 200 kV): this program needs electron data"
        )


def read_sweep(experiment) -> Sweep:
    """The orientations of a DIALS experiment, scan-varying or not."""
    scan, goniometer = experiment.scan, experiment.goniometer
    start, stop = scan.get_array_range()
    z = np.arange(start, stop + 1)
    setting = _at_scan_points(goniometer, "setting_rotation", len(z))
    fixed = np.reshape(goniometer.get_fixed_rotation(), (3, 3))
    axis = np.array(goniometer.get_rotation_axis_datum())
    angle = np.array([scan.get_angle_from_array_index(i, deg=False) for i in z.tolist()])
    phi = Rotation.from_rotvec(angle[:, None] * axis).as_matrix()
    u = _at_scan_points(experiment.crystal, "U", len(z))
    beams = _beams(experiment.beam, len(z))
    mean_beam = beams.mean(0) / np.linalg.norm(beams.mean(0))
    straighten = np.stack([_rotation_between(beam, mean_beam) for beam in beams])
    phi_0, width = _oscillation(scan)
    rotation_axis = setting.mean(0) @ axis
    return Sweep(
        rotations=straighten @ setting @ phi @ fixed @ u,
        b=_at_scan_points(experiment.crystal, "B", len(z)),
        z=z.astype(float),
        beam=mean_beam,
        rotation_axis=rotation_axis / np.linalg.norm(rotation_axis),
        phi_0=phi_0,
        width=width,
    )


def _oscillation(scan) -> tuple[float, float]:
    """Scan angle at array index 0 and rotation of an image [degree]."""
    width = scan.get_oscillation()[1]
    return scan.get_angle_from_array_index(0.0), width


def _at_scan_points(model, name: str, n: int) -> np.ndarray:
    """A 3x3 matrix of a dxtbx model at n scan points (n, 3, 3)."""
    if model.num_scan_points == n:
        at = getattr(model, f"get_{name}_at_scan_point")
        matrices = [at(i) for i in range(n)]
    else:
        matrices = [getattr(model, f"get_{name}")()] * n
    return np.array([tuple(matrix) for matrix in matrices], dtype=float).reshape(n, 3, 3)


def _beams(beam, n: int) -> np.ndarray:
    if beam.num_scan_points == n:
        s0 = np.array([beam.get_s0_at_scan_point(i) for i in range(n)])
    else:
        s0 = np.array([beam.get_s0()] * n)
    return s0 / np.linalg.norm(s0, axis=1, keepdims=True)


def _rotation_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) that turns one unit vector into another close to it."""
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis)
    if sine == 0.0:
        return np.eye(3)
    return Rotation.from_rotvec(axis / sine * math.asin(min(1.0, sine))).as_matrix()


def refined_experiments(experiments, steps: RockingSteps, axes: Tensor, tilts: Tensor):
    """A copy of the experiments, the crystals turned by the refined tilts.

    Every crystal becomes scan-varying: A' = G^-1 Q G A at each scan point, with G = S R F and Q the
    rotation by the tilt in the laboratory.

    Args:
        axes: tilt axis of each step (K, 3).
        tilts: without their mosaic part (K,) [radian].
    """
    refined = ExperimentList()
    for index, experiment in enumerate(experiments):
        experiment = copy.copy(experiment)  # what crystals share they go on sharing
        experiment.crystal = copy.deepcopy(experiment.crystal)
        own = steps.crystal == index
        angle = steps.angle[own].numpy()
        order = np.argsort(angle)
        goniometer, scan, crystal = experiment.goniometer, experiment.scan, experiment.crystal
        start, stop = scan.get_array_range()
        n = stop - start + 1
        setting = _at_scan_points(goniometer, "setting_rotation", n)
        u, b = (_at_scan_points(crystal, name, n) for name in "UB")
        fixed = np.reshape(goniometer.get_fixed_rotation(), (3, 3))
        datum = np.array(goniometer.get_rotation_axis_datum())
        axis = axes[own][0].numpy()
        matrices = []
        for i, z in enumerate(range(start, stop + 1)):
            phi = scan.get_angle_from_array_index(z, deg=False)
            tilt = np.interp(math.degrees(phi), angle[order], tilts[own].numpy()[order])
            g = setting[i] @ Rotation.from_rotvec(phi * datum).as_matrix() @ fixed
            q = Rotation.from_rotvec(tilt * axis).as_matrix()
            matrices.append(tuple((g.T @ q @ g @ u[i] @ b[i]).flatten()))
        crystal.set_A_at_scan_points(matrices)
        refined.append(experiment)
    return refined
