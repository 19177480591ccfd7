"""Three virtual frames and three images of a sweep of a triclinic crystal, as they are measured."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation
from synthetic import BEAM, ROTATION_AXIS, WAVELENGTH, triclinic, turned

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.rocking.frames import VirtualFrames
from dials_hybrid.rocking.measurement import Measurement, Reflections
from dials_hybrid.rocking.sweep import Sweep

ATOMS = triclinic()
HKL = reflections_within(ATOMS.cell, 1.0).numpy()


def turns(angle) -> np.ndarray:
    return Rotation.from_rotvec(np.radians(angle)[:, None] * ROTATION_AXIS.numpy()).as_matrix()


def reflections(hkl, angle, frame, half_width) -> Reflections:
    n = len(hkl)
    return Reflections(
        hkl=hkl,
        intensity=np.ones(n),
        sigma=np.ones(n),
        run=np.zeros(n, dtype=int),
        angle=angle,
        half_width=np.full(n, half_width),
        row=np.arange(n),
        frame=frame,
        share=np.ones(n),
    )


def measured_frames(margin=None) -> Measurement:
    """Three frames, two of them overlapping; with a margin of whole rocking curves."""
    angle = np.array([-1.0, -0.6, 0.5])
    basis = turns(angle) @ turned(ATOMS, 0.3, -0.5, 0.2).numpy()
    run = VirtualFrames(basis, angle, np.full(3, 0.3), BEAM.numpy(), ROTATION_AXIS.numpy(), False, margin)
    frame, which = np.indices((3, len(HKL))).reshape(2, -1)
    s_g, swept = run.excitation(frame, HKL[which], WAVELENGTH)
    inside = np.abs(s_g) < 0.9 * swept
    frame, hkl = frame[inside], HKL[which[inside]]
    return Measurement((run,), reflections(hkl, angle[frame], frame, 0.3), WAVELENGTH, len(hkl))


def measured_sweep() -> Measurement:
    z = np.arange(4.0)
    basis = turned(ATOMS, 0.9, 0.4, -0.2).numpy()
    u, b = np.linalg.qr(basis)
    u, b = u * np.linalg.det(u), b * np.linalg.det(u)
    beam, axis = BEAM.numpy(), ROTATION_AXIS.numpy()
    run = Sweep(turns(0.3 * z) @ u, np.repeat(b[None], 4, 0), z, beam, axis, phi_0=0.0, width=0.3)
    r = basis @ HKL.T
    near = np.abs(BEAM.numpy() @ r + 0.5 * WAVELENGTH * (r**2).sum(0)) < 2e-3
    n = near.sum()
    made = reflections(HKL[near], np.full(n, 0.45), np.full(n, -1), 0.4)
    return Measurement((run,), made, WAVELENGTH, n)
