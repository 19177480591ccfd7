"""Simulated scans of known crystals, and the inputs and settings of quick refinements of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import torch
from synthetic import (
    BEAM,
    ROTATION_AXIS,
    WAVELENGTH,
    double,
    free_parameters,
    quartz,
    triclinic,
    turned,
)
from torch import Tensor

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.geometry import excitation_errors, rotation_matrix
from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.data import AtomicModel, Dataset, Observations, RockingSteps
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Thickness
from dials_hybrid.refine.simulate import simulate_observations
from dials_hybrid.refine.state import Inputs, Settings
from dials_hybrid.rocking.mosaic import mosaic_deviates

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
    thickness_model="wedge",
    thickness_maximum=None,
    network_hidden=4,
    network_terms=3,
    network_prior=0.3,
    gain=1.0,
    instability=0.0,
    floor=0.0,
    outlier_cutoff=None,
    free_fraction=0.05,
    max_cycles=10,
    tolerance=1e-3,
    seed=0,
    nproc=1,
    memory=4.0,
    device="cpu",
)


@dataclass(frozen=True)
class Scan:
    """Every reflection to `d_min` of a crystal turned about ROTATION_AXIS, cut into steps at will.

    Reflections are integrated over `half_width` / |zeta| degrees on each side of the Bragg position.
    """

    atoms: AtomicModel
    orientation: tuple[float, float, float]  # rotation vector at the middle of the scan [radian]
    half_range: float  # [degree]
    d_min: float = 0.8  # [A]
    half_width: float = 0.8  # [degree]

    def dataset(self, step: float, mosaic_points: int, mosaic_tilts: str = "means") -> Dataset:
        """The scan in steps of at most `step` degrees; intensities are 1."""
        n = math.ceil(2.0 * self.half_range / step)
        edges = torch.linspace(-self.half_range, self.half_range, n + 1, dtype=torch.float64)
        angle = 0.5 * (edges[1:] + edges[:-1])
        steps = RockingSteps(
            basis=self._basis(angle),
            weight=torch.diff(edges),
            angle=angle,
            crystal=torch.zeros(n, dtype=torch.long),
            frame=torch.full((n,), -1),
            next_frame=torch.full((n,), -1),
            part=torch.zeros(n, dtype=torch.float64),
            mosaic=mosaic_deviates(n, mosaic_points, mosaic_tilts),
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
            frame=torch.full((m,), -1),
            share=torch.ones(m, dtype=torch.float64),
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


@dataclass(frozen=True)
class Refinable:
    """A known crystal, which of its parameters are refined, and how it is turned."""

    scan: Scan
    jacobian: Tensor
    names: tuple[str, ...]
    origin_shifts: Tensor

    @property
    def truth(self) -> AtomicModel:
        return self.scan.atoms

    @property
    def sites(self) -> Tensor:
        """(P,) bool: the parameter is a coordinate."""
        return torch.tensor([name[-2:] in (".x", ".y", ".z") for name in self.names])

    def inputs(self, measured: tuple[Tensor, Tensor], start: AtomicModel) -> Inputs:
        """`start` against measured intensities and sigmas."""

        def dataset(step: float, mosaic_points: int, mosaic_tilts: str = "means") -> Dataset:
            data = self.scan.dataset(step, mosaic_points, mosaic_tilts)
            intensity, sigma = measured
            observations = replace(data.observations, intensity=intensity, sigma=sigma)
            return replace(data, observations=observations)

        return Inputs(SimpleNamespace(dataset=dataset), start, self.jacobian, self.names, self.origin_shifts)

    def displaced(self, distance: float, seed: int) -> AtomicModel:
        """The atoms moved, the one that moves most by `distance` [A], with U_iso = 0.01 A^2."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(len(self.names), generator=generator).double() * self.sites
        x = x - self.origin_shifts.T @ (self.origin_shifts @ x)
        shift = (self.jacobian.T @ x).reshape(-1, 11)
        metric = metric_tensor(self.truth.cell)
        longest = torch.einsum("ni,ij,nj->n", shift[:, :3], metric, shift[:, :3]).max().sqrt()
        parameters = self.truth.parameters + shift * (distance / longest)
        g = 0.01 * torch.linalg.inv(metric)
        u_star = torch.stack([g[0, 0], g[1, 1], g[2, 2], g[0, 1], g[0, 2], g[1, 2]])
        anisotropic = self.truth.anisotropic
        parameters[:, 3] = torch.where(anisotropic, 0.0, 0.01)
        parameters[:, 4:10] = torch.where(anisotropic[:, None], u_star, 0.0)
        return self.truth.with_parameters(parameters)

    def errors(self, refined: AtomicModel) -> Tensor:
        """Refined minus true independent parameters (P,); each is one number of the atomic model."""
        return self.jacobian @ (refined.parameters - self.truth.parameters).flatten()


def refinable(
    atoms: AtomicModel, half_range: float, fixed: tuple[str, ...] = (), polar: bool = False
) -> Refinable:
    """All sites and displacement parameters but those called `fixed`."""
    jacobian, names = free_parameters(atoms)
    kept = [i for i, name in enumerate(names) if not name.endswith("occ") and name not in fixed]
    names = tuple(names[i] for i in kept)
    shifts = double([[name.endswith(axis) for name in names] for axis in (".x", ".y", ".z")])
    shifts = shifts / shifts.norm(dim=1, keepdim=True) if polar else shifts[:0]
    return Refinable(Scan(atoms, (0.3, -0.5, 0.2), half_range), jacobian[kept], names, shifts)


def quartz_crystal() -> Refinable:
    return refinable(quartz(), 15.0, fixed=("Si0.y", "Si0.z"))


def triclinic_crystal() -> Refinable:
    """Space group P1: the origin is free.

    In half of this scan a single direction of parameter space holds half of all uncertainty.
    """
    return refinable(triclinic(), 30.0, polar=True)


def simulate(
    scan: Scan,
    thickness: Thickness,
    *,
    step: float = 0.02,
    brightest: float = 2e4,
    background: float = 200.0,
    gain: float = 1.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Measured intensities and sigmas (M,) of a scan, the brightest of `brightest` counts.

    Steps of 0.02 degree are three times finer than those of the refinements.
    """
    hybrid = true_model(scan, thickness, step=step, brightest=brightest)
    observations = simulate_observations(hybrid, background=background, gain=gain, seed=seed)
    return observations.intensity, observations.sigma


def true_model(scan: Scan, thickness: Thickness, *, step: float, brightest: float) -> Hybrid:
    data = scan.dataset(step, 1)
    hybrid = Hybrid(
        data,
        Crystal(scan.atoms, torch.zeros(0, 11 * scan.atoms.n_atoms, dtype=torch.float64), ()),
        Orientation(data.steps, n_nodes=1, mosaic_spread=None, restraint=0.1),
        [thickness],
        Scale(data.observations, 1, 1),
        BeamPolicy(SETTINGS.g_max, SETTINGS.sg_max, SETTINGS.segment_length),
    )
    with torch.no_grad():
        hybrid.scale.constant += torch.log(brightest / hybrid.evaluate().intensity.max())
    return hybrid
