"""Simulated scans of known crystals, and the inputs and settings of quick refinements of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from synthetic import BEAM, ROTATION_AXIS, WAVELENGTH, double, turned
from torch import Tensor

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.geometry import excitation_errors, rotation_matrix
from dials_hybrid.data import AtomicModel, Dataset, Observations, RockingSteps
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation, mosaic_deviates
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Thickness
from dials_hybrid.refine.simulate import simulate_observations
from dials_hybrid.refine.state import Inputs, Settings

SETTINGS = Settings(
    g_max=1.5,
    sg_max=0.012,
    segment_length=8,
    rocking_step=None,
    mosaic_points=1,
    mosaic_spread=0.03,
    tilt_nodes=2,
    tilt_restraint=0.05,
    scale_nodes=2,
    thickness_model="normal",
    thickness_maximum=None,
    network_hidden=4,
    network_terms=3,
    network_prior=0.3,
    instability=0.0,
    outlier_cutoff=None,
    free_fraction=0.05,
    max_cycles=10,
    tolerance=1e-3,
    seed=0,
    nproc=1,
    device="cpu",
)


@dataclass(frozen=True)
class Scan:
    """Every reflection to `d_min` of a crystal turned about ROTATION_AXIS, cut into steps at will.

    Reflections are integrated over `half_width` / |zeta| degrees on each side of the Bragg position.
    """

    atoms: AtomicModel
    orientation: tuple[float, float, float]  # rotation vector at the middle of the scan [radian]
    half_range: float = 15.0  # [degree]
    d_min: float = 0.8  # [A]
    half_width: float = 0.8  # [degree]

    def dataset(self, step: float, mosaic_points: int) -> Dataset:
        """The scan in steps of at most `step` degrees; intensities are 1."""
        n = math.ceil(2.0 * self.half_range / step)
        edges = torch.linspace(-self.half_range, self.half_range, n + 1, dtype=torch.float64)
        angle = 0.5 * (edges[1:] + edges[:-1])
        steps = RockingSteps(
            basis=self._basis(angle),
            weight=torch.diff(edges),
            angle=angle,
            crystal=torch.zeros(n, dtype=torch.long),
            mosaic=mosaic_deviates(n, mosaic_points),
            beam=BEAM[None],
            rotation_axis=ROTATION_AXIS[None],
        )
        hkl, centre, half = self._bragg()
        m = len(hkl)
        observations = Observations(
            hkl=hkl,
            intensity=torch.ones(m, dtype=torch.float64),
            sigma=torch.ones(m, dtype=torch.float64),
            first=torch.searchsorted(angle, centre - half),
            last=torch.searchsorted(angle, centre + half),
            crystal=torch.zeros(m, dtype=torch.long),
            angle=centre,
            row=torch.arange(m),
            free=torch.zeros(m, dtype=torch.bool),
        )
        return Dataset(steps, observations, WAVELENGTH, n_rows=m)

    def _basis(self, angle: Tensor) -> Tensor:
        turns = rotation_matrix(torch.deg2rad(angle)[:, None] * ROTATION_AXIS)
        return turns @ turned(self.atoms, *self.orientation)

    def _bragg(self) -> tuple[Tensor, Tensor, Tensor]:
        """Miller indices (M, 3), Bragg angle and half of the window (M,) [degree]."""
        hkl = reflections_within(self.atoms.cell, 1.0 / self.d_min)
        angle = torch.linspace(-self.half_range, self.half_range, 601, dtype=torch.float64)
        r = torch.einsum("kij,gj->kgi", self._basis(angle), hkl.double())
        s_g = excitation_errors(r, BEAM, 1.0 / WAVELENGTH)
        k, g = ((s_g[1:] > 0) != (s_g[:-1] > 0)).nonzero(as_tuple=True)
        slope = (s_g[k + 1, g] - s_g[k, g]) / (angle[1] - angle[0])
        centre = angle[k] - s_g[k, g] / slope
        zeta = torch.rad2deg(slope).abs() / r[k, g].norm(dim=-1)
        half = self.half_width / zeta
        whole = (zeta > 0.3) & (centre.abs() + half < self.half_range)
        return hkl[g[whole]], centre[whole], half[whole]


def simulate(
    scan: Scan,
    thickness: Thickness,
    *,
    step: float = 0.02,
    tilt: float = 0.0,
    mosaic_spread: float | None = None,
    brightest: float = 2e4,
    background: float = 50.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Intensities and sigmas (M,) of a scan, the brightest of `brightest` counts."""
    points = 1 if mosaic_spread is None else 9
    data = scan.dataset(step, points)
    orientation = Orientation(data.steps, n_nodes=2, mosaic_spread=mosaic_spread, restraint=0.1)
    crystal = Crystal(scan.atoms, torch.zeros(0, 11 * scan.atoms.n_atoms, dtype=torch.float64), ())
    scale = Scale(data.observations, 1, 1)
    policy = BeamPolicy(SETTINGS.g_max, SETTINGS.sg_max, SETTINGS.segment_length)
    with torch.no_grad():
        orientation.tilt += double([-tilt, tilt])
    hybrid = Hybrid(data, crystal, orientation, [thickness], scale, policy, nproc=2)
    with torch.no_grad():
        scale.log_scale += torch.log(brightest / hybrid.evaluate().intensity.max())
    observations = simulate_observations(hybrid, background=background, seed=seed)
    return observations.intensity, observations.sigma


def inputs(scan: Scan, measured: tuple[Tensor, Tensor], start, jacobian, names, origin_shifts) -> Inputs:
    """`start` (atoms) against the measured intensities and sigmas of a scan."""

    def dataset(step: float, mosaic_points: int) -> Dataset:
        data = scan.dataset(step, mosaic_points)
        intensity, sigma = measured
        observations = replace(data.observations, intensity=intensity, sigma=sigma)
        return replace(data, observations=observations)

    return Inputs(dataset, start, jacobian, names, origin_shifts)
