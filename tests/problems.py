"""A small refinement problem, whole and in plain arrays: a simulated scan of quartz."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from synthetic import BEAM, ROTATION_AXIS, WAVELENGTH, free_parameters, quartz, turned

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Flat
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.problem import Problem
from dials_hybrid.refine.state import Inputs, Settings
from dials_hybrid.rocking.measurement import Measurement, Reflections
from dials_hybrid.rocking.sweep import Sweep

SETTINGS = Settings(
    g_max=1.0,
    sg_max=0.015,
    segment_length=8,
    rocking_step=0.1,
    mosaic_points=1,
    mosaic_spread=0.03,
    tilt_nodes=2,
    tilt_restraint=0.05,
    scale_nodes=2,
    thickness_model="flat",
    thickness_maximum=600.0,
    network_hidden=4,
    network_terms=3,
    network_prior=0.3,
    gain=1.0,
    instability=0.01,
    floor=0.0,
    outlier_cutoff=None,
    free_fraction=0.05,
    max_cycles=2,
    tolerance=1e-3,
    seed=0,
    nproc=1,
    memory=4.0,
    device="cpu",
)


@cache
def small_problem() -> Problem:
    """A plate of 250 A, sites and displacement parameters of quartz to be refined."""
    atoms = quartz()
    jacobian, names = free_parameters(atoms)
    kept = [i for i, name in enumerate(names) if not name.endswith("occ") and name not in ("Si0.y", "Si0.z")]
    names = tuple(names[i] for i in kept)
    measurement = _measured(Measurement((_run(),), _reflections(_run()), WAVELENGTH, 500, {"too weak": 7}))
    moved = atoms.parameters.clone()
    moved[1, 0] += 0.004
    shifts = torch.zeros(0, len(names), dtype=torch.float64)
    return Problem(Inputs(measurement, atoms.with_parameters(moved), jacobian[kept], names, shifts), SETTINGS)


def _run() -> Sweep:
    z = np.arange(31.0)
    turns = Rotation.from_rotvec((z - 15.0)[:, None] * ROTATION_AXIS.numpy(), degrees=True)
    basis = turned(quartz(), 0.3, -0.5, 0.2).numpy()
    return Sweep(
        rotations=turns.as_matrix(),
        b=np.broadcast_to(basis, (31, 3, 3)).copy(),
        z=z,
        beam=BEAM.numpy(),
        rotation_axis=ROTATION_AXIS.numpy(),
        phi_0=-15.0,
        width=1.0,
    )


def _reflections(run: Sweep) -> Reflections:
    """All to 1.1 A that cross the Ewald sphere well inside the scan."""
    z = np.linspace(1.5, 28.5, 600)
    hkl = reflections_within(quartz().cell, 0.9)
    r = torch.einsum("kij,gj->kgi", torch.as_tensor(run.basis(z)), hkl.double())
    s_g = excitation_errors(r, BEAM, 1.0 / WAVELENGTH)
    k, g = ((s_g[1:] > 0) != (s_g[:-1] > 0)).nonzero(as_tuple=True)
    m = len(g)
    return Reflections(
        hkl=hkl[g].numpy(),
        intensity=np.ones(m),
        sigma=np.ones(m),
        run=np.zeros(m, dtype=np.int64),
        angle=run.angle(z[k.numpy()]),
        half_width=np.full(m, 1.2),
        row=np.arange(m) + 3,
        frame=np.full(m, -1),
        share=np.ones(m),
    )


def _measured(measurement: Measurement) -> Measurement:
    """With the intensities of the true crystal and sigmas of one percent of the strongest."""
    dataset, atoms = measurement.dataset(0.1, 1), quartz()
    hybrid = Hybrid(
        dataset,
        Crystal(atoms, torch.zeros(0, 11 * atoms.n_atoms, dtype=torch.float64), ()),
        Orientation(dataset.steps, n_nodes=1, mosaic_spread=None, restraint=0.1),
        [Flat(ThicknessGrid(600.0, 24), 250.0)],
        Scale(dataset.observations, 1, 1),
        BeamPolicy(SETTINGS.g_max, SETTINGS.sg_max, SETTINGS.segment_length),
    )
    intensity = hybrid.evaluate().intensity
    intensity = (1e4 * intensity / intensity.max()).numpy()
    noise = np.random.default_rng(0).normal(size=len(intensity))
    sigma = np.sqrt(intensity + 100.0)
    reflections = replace(measurement.reflections, intensity=intensity + sigma * noise, sigma=sigma)
    return replace(measurement, reflections=reflections)
