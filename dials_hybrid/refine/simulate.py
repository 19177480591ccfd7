"""Measurements that a known crystal would give: calculated intensities and the noise of counting.

The noise is that of electrons: n follows a Poisson distribution with mean (I_calc + b) / q, where b is
the background under the reflection and q the number of detector counts an electron makes. An integrator
that knows b and q reports

    I = q n - b,     sigma^2 = q^2 max(n, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dials_hybrid.bloch.electron import wave_number
from dials_hybrid.bloch.geometry import rotation_matrix, tilt_axes
from dials_hybrid.data import AtomicModel, Observations, RockingSteps
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.simulation import BeamPolicy, Progress, Simulation, silent
from dials_hybrid.refine.specimen import Chebyshev, Specimen
from dials_hybrid.rocking.measurement import Measurement
from dials_hybrid.rocking.sweep import Sweep

_FEWEST_NODES, _NODES_PER_EXTINCTION = 24, 12
_FEWEST_TRIED = 50  # reflections


@dataclass(frozen=True)
class Numerics:
    """How finely a simulation is calculated."""

    g_max: float  # [1/A]
    sg_max: float  # [1/A]
    rocking_step: float  # [degree]
    mosaic_points: int  # tilts, which take turns; 1: no mosaicity
    nodes: int  # of thickness
    weak_sg_max: float = 0.0  # beams beyond sg_max take part up to here by perturbation [1/A]

    def coarser(self) -> dict[str, Numerics]:
        """Each number alone made as coarse as refinements use it."""
        variants = {
            "g_max": replace(self, g_max=0.9 * self.g_max),
            "sg_max": replace(self, sg_max=0.5 * self.sg_max),
            "rocking_step": replace(self, rocking_step=2.0 * self.rocking_step),
            "nodes": replace(self, nodes=math.ceil(self.nodes / 1.5)),
        }
        if self.mosaic_points > 1:
            variants["mosaic_points"] = replace(self, mosaic_points=5)
        return variants


def thickness_nodes(measurement: Measurement, atoms: AtomicModel, largest: float) -> int:
    """Chebyshev nodes that follow the pendelloesung up to `largest` [A] of the strongest reflection."""
    hkl = torch.as_tensor(np.unique(measurement.reflections.hkl, axis=0))
    u = _crystal(atoms).potential(hkl, measurement.wavelength, False).u.abs().max()
    extinction = wave_number(measurement.wavelength) / float(u)
    return _FEWEST_NODES + math.ceil(_NODES_PER_EXTINCTION * largest / extinction)


def ideal_intensities(
    measurement: Measurement,
    atoms: AtomicModel,
    specimen: Specimen,
    numerics: Numerics,
    *,
    nproc: int = 1,
    dtype: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> tuple[np.ndarray, float]:
    """Intensities (M,) without noise [degree], and how much of them is in the last Chebyshev terms.

        I(obs) = sum_k w_k(obs) sum_q p_q I_g(k, t_q f(phi))

    Args:
        measurement: where each reflection lies in the scan; its intensities are not looked at. Where its
            runs are `blurred`, the mosaic spread is one about the rotation axis too.
        nproc: processes.
        dtype: floating-point precision of the propagation.
        progress: wraps the iteration over segments, to show it.
    """
    dataset = measurement.dataset(numerics.rocking_step, numerics.mosaic_points)
    crystal = _crystal(atoms)
    basis = _true_basis(dataset.steps, specimen, scan_limits(measurement))
    spread = dataset.steps.weight.new_full((dataset.steps.n_crystals,), specimen.mosaic_spread)
    origin = torch.zeros(1, 3, dtype=torch.long)
    u_0 = crystal.potential(origin, measurement.wavelength, False).u
    simulation = Simulation(
        dataset,
        atoms,
        basis,
        BeamPolicy(numerics.g_max, numerics.sg_max, 16, numerics.weak_sg_max),
        mean_inner_potential=float(u_0.real),
        spread=spread,
        nproc=nproc,
        dtype=dtype,
        progress=progress,
    )
    interpolation = Chebyshev(specimen.thickness.largest, numerics.nodes)
    potential = crystal.potential(simulation.table.hkl, measurement.wavelength, False)
    nodes = torch.as_tensor(interpolation.nodes)
    sums = simulation.run(potential, basis, nodes, spread).intensity.double().numpy()
    t, p = specimen.thickness.quadrature()
    reflections = measurement.reflections
    x = scaled_angle(reflections.angle, reflections.run, scan_limits(measurement))
    factors, which = np.unique(specimen.thickness.factor(x), return_inverse=True)
    weights = np.stack([interpolation.weights(factor * t, p) for factor in factors])[which]
    return np.maximum((weights * sums).sum(1), 0.0), interpolation.tail(sums)


def convergence(
    measurement: Measurement,
    atoms: AtomicModel,
    specimen: Specimen,
    numerics: Numerics,
    *,
    part: float = 0.05,
    nproc: int = 1,
) -> dict[str, float]:
    """sum |dF| / sum F when one of the numerics at a time is made coarser.

    What the simulation itself lacks is less. Tried on the reflections of the middle of each scan.

    Args:
        part: of the scan that is tried.
    """
    reflections = measurement.reflections
    x = scaled_angle(reflections.angle, reflections.run, scan_limits(measurement))
    rows = np.argsort(np.abs(x), kind="stable")[: max(_FEWEST_TRIED, math.ceil(part * len(x)))]
    sample = replace(measurement, reflections=reflections.select(rows))
    reference = ideal_intensities(sample, atoms, specimen, numerics, nproc=nproc)[0]
    f = np.sqrt(reference)
    result = {}
    for name, variant in numerics.coarser().items():
        other = np.sqrt(ideal_intensities(sample, atoms, specimen, variant, nproc=nproc)[0])
        result[name] = float(np.abs(other - f).sum() / f.sum())
    return result


def scaled_angle(angle: np.ndarray, run: np.ndarray, limits: list[tuple[float, float]]) -> np.ndarray:
    """Scan angle (M,) [degree] as -1 .. 1 between the ends of its run; a decreasing one falls."""
    first, last = np.array(limits).T
    return (2.0 * angle - first[run] - last[run]) / np.abs(last - first)[run]


def scan_limits(measurement: Measurement) -> list[tuple[float, float]]:
    """Scan angles at the ends of each run [degree]."""
    runs = [run for run in measurement.runs if isinstance(run, Sweep)]  # nothing else is simulated
    return [(float(run.angle(run.z[0])), float(run.angle(run.z[-1]))) for run in runs]


def _crystal(atoms: AtomicModel) -> Crystal:
    return Crystal(atoms, torch.zeros(0, atoms.parameters.numel(), dtype=torch.float64), ())


def _true_basis(steps: RockingSteps, specimen: Specimen, limits: list[tuple[float, float]]) -> Tensor:
    """Reciprocal basis (K, 3, 3) [1/A] of the steps, turned by misorientation and mosaic tilts."""
    run = steps.crystal.numpy()
    x = scaled_angle(steps.angle.numpy(), run, limits)
    tilt = specimen.mosaic_spread * steps.mosaic.numpy()
    for crystal in range(steps.n_crystals):
        own = run == crystal
        tilt[own] += specimen.misorientation.tilt(x[own], crystal)
    axes = tilt_axes(steps.beam, steps.rotation_axis)[steps.crystal, 0]
    return rotation_matrix(torch.deg2rad(torch.as_tensor(tilt))[:, None] * axes) @ steps.basis


@dataclass(frozen=True)
class Counting:
    """How electrons are counted."""

    background: float = 0.0  # counts under a reflection in a degree of scan
    gain: float = 1.0  # counts an electron
    noise: bool = True  # False: the expected counts, with the sigma of counting them


def counted(
    expected: np.ndarray, background: np.ndarray, counting: Counting, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Intensities and sigmas (M,) of `expected` counts over `background` counts (M,)."""
    electrons = (expected + background) / counting.gain
    if counting.noise:
        electrons = generator.poisson(electrons).astype(float)
    return (
        counting.gain * electrons - background,
        counting.gain * np.sqrt(np.maximum(electrons, 1.0)),
    )


def simulate_observations(
    hybrid: Hybrid, *, background: float = 0.0, gain: float = 1.0, seed: int = 0
) -> Observations:
    """The observations of `hybrid` with intensities counted instead of measured.

    Args:
        hybrid: the truth: structure, orientation, thickness, and a scale that makes intensities counts.
        background: b, expected counts under each reflection.
        gain: q, counts an electron.
        seed: of the noise.
    """
    observations = hybrid.dataset.observations
    expected = hybrid.evaluate().intensity.cpu().double().numpy()
    under = np.full_like(expected, background)
    measured = counted(expected, under, Counting(gain=gain), np.random.default_rng(seed))
    intensity, sigma = (torch.as_tensor(values).to(observations.intensity) for values in measured)
    return replace(observations, intensity=intensity, sigma=sigma)
