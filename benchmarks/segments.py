"""Segments of rocking steps for the benchmark of the kernels.

Structures of quartz and the lead bromide are near the real ones, the atoms of the two organic cells
are put at random; beams are chosen by g_max and sg_max as for a refinement. Rocking steps have the
width 0.75 / (g_max t), |S_g| is clamped at twice sg_max.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.bloch.beams import cut_segments, reflections_within
from dials_hybrid.bloch.electron import wavelength
from dials_hybrid.bloch.geometry import excitation_errors, rotation_matrix
from dials_hybrid.bloch.matrix import DifferenceTable, coupling, symmetrisation
from dials_hybrid.bloch.scattering import metric_tensor, potential_scale, structure_factors
from dials_hybrid.data import AtomicModel, Dataset, Observations, RockingSteps

WAVE_NUMBER = 1.0 / wavelength(200.0)
SG_MAX = 0.01
GENERAL, ZONE_AXIS = (0.31, -0.47, 0.22), (0.0, 0.0, 0.0)

# Peng et al. (1996), five Gaussians in s up to 2 1/A
PENG = {
    "C": ((0.0893, 0.2563, 0.757, 1.0487, 0.3575), (0.2465, 1.71, 6.4094, 18.6113, 50.2523)),
    "N": ((0.1022, 0.3219, 0.7982, 0.8197, 0.1715), (0.2451, 1.7481, 6.1925, 17.3894, 48.1431)),
    "O": ((0.0974, 0.2921, 0.691, 0.699, 0.2039), (0.2067, 1.3815, 4.6943, 12.7105, 32.4726)),
    "Si": ((0.2519, 0.6372, 1.3795, 2.5082, 1.05), (0.3075, 2.0174, 9.6746, 29.3744, 80.4732)),
    "Br": ((0.4798, 1.1948, 1.8695, 2.6953, 0.8203), (0.2504, 1.5963, 6.9653, 19.8492, 50.3233)),
    "Cs": ((1.2704, 3.8018, 5.6618, 0.9205, 4.8105), (0.4356, 4.2058, 23.4342, 136.7783, 171.7561)),
    "Pb": ((1.0891, 2.1867, 3.616, 3.8031, 1.8994), (0.2552, 1.7174, 6.5131, 23.917, 74.7039)),
}


def operations(*triplets: str) -> list[tuple[list[list[float]], list[float]]]:
    """Rotations and translations of symmetry operations such as -x+1/2,y,z."""
    parsed = []
    for triplet in triplets:
        rotation, translation = [], []
        for part in triplet.split(","):
            points = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
            at = [eval(part, dict(zip("xyz", point, strict=True))) for point in points]
            translation.append(at[0])
            rotation.append([value - at[0] for value in at[1:]])
        parsed.append((rotation, translation))
    return parsed


P3221 = operations("x,y,z", "-y,x-y,z+2/3", "-x+y,-x,z+1/3", "y,x,-z", "x-y,-y,-z+1/3", "-x,-x+y,-z+2/3")
P21 = operations("x,y,z", "-x,y+1/2,-z")
P212121 = operations("x,y,z", "-x+1/2,-y,z+1/2", "-x,y+1/2,-z+1/2", "x+1/2,-y+1/2,-z")
PNMA = operations("x,y,z", "-x+1/2,-y,z+1/2", "-x,y+1/2,-z", "x+1/2,-y+1/2,-z+1/2")
PNMA += [([[-x for x in row] for row in r], [-x for x in t]) for r, t in PNMA]


def model(cell, atoms, symmetry) -> AtomicModel:
    """Atoms are (element, site, u_iso, multiplicity / operations)."""
    elements = [atom[0] for atom in atoms]
    kinds = sorted(set(elements))

    def double(x):
        return torch.tensor(x, dtype=torch.float64)

    return AtomicModel(
        labels=tuple(f"{element}{i}" for i, element in enumerate(elements)),
        elements=tuple(elements),
        cell=double(cell),
        parameters=double([[*site, u, *[0.0] * 6, 1.0] for _, site, u, _ in atoms]),
        anisotropic=torch.zeros(len(atoms), dtype=torch.bool),
        multiplicity=double([atom[3] for atom in atoms]),
        form_factor_type=torch.tensor([kinds.index(element) for element in elements]),
        form_factor_a=double([PENG[kind][0] for kind in kinds]),
        form_factor_b=double([PENG[kind][1] for kind in kinds]),
        rotations=double([r for r, _ in symmetry]),
        translations=double([t for _, t in symmetry]),
    )


def quartz() -> AtomicModel:
    atoms = [("Si", (0.4697, 0.0, 2 / 3), 0.008, 0.5), ("O", (0.4135, 0.2669, 0.7858), 0.014, 1.0)]
    return model((4.913, 4.913, 5.405, 90.0, 90.0, 120.0), atoms, P3221)


def organic(cell, elements: str, symmetry) -> AtomicModel:
    """Atoms at random sites."""
    sites = torch.rand(len(elements), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    atoms = [(e, tuple(x), 0.03, 1.0) for e, x in zip(elements, sites.tolist(), strict=True)]
    return model(cell, atoms, symmetry)


def lead_bromide() -> AtomicModel:
    atoms = [
        ("Pb", (0.0, 0.0, 0.5), 0.02, 0.5),
        ("Cs", (0.53, 0.25, 0.99), 0.05, 0.5),
        ("Br", (0.996, 0.25, 0.554), 0.04, 0.5),
        ("Br", (0.294, 0.027, 0.706), 0.04, 1.0),
    ]
    return model((8.244, 11.735, 8.198, 90.0, 90.0, 90.0), atoms, PNMA)


CRYSTALS = {
    "quartz": quartz,
    "L-alanine size": lambda: organic((5.8, 6.0, 12.3, 90.0, 90.0, 90.0), "CCCNOO", P212121),
    "organic, 28 atoms": lambda: organic(
        (7.9, 8.6, 14.8, 90.0, 101.0, 90.0), "C" * 20 + "N" * 3 + "O" * 5, P21
    ),
    "lead bromide": lead_bromide,
}


@dataclass(frozen=True)
class Problem:
    """A segment of steps, and weights of its intensities in the sum that is differentiated."""

    name: str
    coupling: Tensor  # (N, N)
    diagonal: Tensor  # (K, N)
    thickness: Tensor  # (T,)
    weights: Tensor  # (K, T, N)

    @property
    def size(self) -> tuple[int, int, int]:
        return self.coupling.shape[-1], len(self.diagonal), len(self.thickness)

    def to(self, device: str, real: torch.dtype) -> Problem:
        kind = self.coupling.dtype
        if kind.is_complex:
            kind = torch.complex128 if real == torch.float64 else torch.complex64
        else:
            kind = real
        return replace(
            self,
            coupling=self.coupling.to(device, kind),
            **{key: getattr(self, key).to(device, real) for key in ("diagonal", "thickness", "weights")},
        )


def thicknesses(largest: float, count: int) -> Tensor:
    return largest * torch.arange(1, count + 1, dtype=torch.float64) / count


def problem(
    name: str,
    g_max: float,
    steps: int,
    t: Tensor,
    *,
    rotation=GENERAL,
    real=False,
    width: float | None = None,
) -> Problem:
    """Steps of `width` [radian] about an axis that is nearly perpendicular to the beam."""
    width = width or 0.75 / (g_max * float(t.max()))
    atoms = CRYSTALS[name]()
    basis = (
        rotation_matrix(torch.tensor(rotation, dtype=torch.float64))
        @ torch.linalg.cholesky(torch.linalg.inv(metric_tensor(atoms.cell))).mT
    )
    axis = torch.tensor([0.96, 0.28, 0.02], dtype=torch.float64) / 1.0004**0.5
    beam = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    angle = (torch.arange(steps, dtype=torch.float64) - steps // 2) * width
    basis = rotation_matrix(angle[:, None] * axis) @ basis
    segment = cut_segments(
        basis,
        beam.expand(steps, 3),
        torch.zeros(steps, dtype=torch.long),
        reflections_within(atoms.cell, g_max),
        wave_number=WAVE_NUMBER,
        sg_max=SG_MAX,
        length=steps,
    )[0]
    r = torch.einsum("kij,nj->kni", basis, segment.hkl.double())
    s_g = excitation_errors(r, beam, WAVE_NUMBER).clamp(-2.0 * SG_MAX, 2.0 * SG_MAX)
    m = symmetrisation(r[steps // 2], beam, WAVE_NUMBER)
    table = DifferenceTable.of_beams([segment.hkl])
    u = structure_factors(atoms, table.hkl) * potential_scale(atoms.cell, 1.0 / WAVE_NUMBER)
    a = coupling(u, table.pairs(segment.hkl, segment.hkl).positions, m)
    # What is rounded here is rounded for every kernel and for the referee.
    a, d, t = a.to(torch.complex64), (2.0 * WAVE_NUMBER * s_g * m**2).float(), t.float()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(steps, len(t), len(segment.hkl), generator=generator)
    return Problem(name, a.real.contiguous() if real else a, d, t, weights)


def _steps(structure: AtomicModel, images: float, width: float) -> RockingSteps:
    """A sweep whose middle step does not depend on its length."""
    n = round(images / width)
    angle = (torch.arange(n, dtype=torch.float64) - n // 2) * width
    axis = torch.tensor([0.96, 0.28, 0.0], dtype=torch.float64)
    start = rotation_matrix(torch.tensor([0.3, -0.5, 0.2], dtype=torch.float64))
    upright = torch.linalg.cholesky(torch.linalg.inv(metric_tensor(structure.cell))).mT
    return RockingSteps(
        basis=rotation_matrix(torch.deg2rad(angle)[:, None] * axis) @ start @ upright,
        weight=torch.full((n,), width, dtype=torch.float64),
        angle=angle,
        crystal=torch.zeros(n, dtype=torch.long),
        frame=torch.full((n,), -1),
        next_frame=torch.full((n,), -1),
        part=torch.zeros(n, dtype=torch.float64),
        mosaic=torch.zeros(n, dtype=torch.float64),
        beam=torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64),
        rotation_axis=axis[None],
    )


def sweep(
    structure: AtomicModel, images: float, width: float, g_observed: float, half_window: int
) -> Dataset:
    """Every reflection that crosses the Ewald sphere, over `half_window` steps to each side.

    Images of one degree, steps of `width` [degree].
    """
    scan = _steps(structure, images, width)
    hkl = reflections_within(structure.cell, g_observed)
    before, found = None, []
    for k, basis in enumerate(scan.basis):
        side = excitation_errors(hkl.double() @ basis.T, scan.beam[0], WAVE_NUMBER) > 0.0
        if before is not None:
            found += [(k, g) for g in (side != before).nonzero().flatten().tolist()]
        before = side
    k, g = (torch.tensor(x) for x in zip(*found, strict=True))
    m = len(k)
    one = torch.ones(m, dtype=torch.float64)
    observations = Observations(
        hkl=hkl[g],
        intensity=one,
        sigma=one,
        first=(k - half_window).clamp(min=0),
        last=(k + half_window).clamp(max=len(scan)),
        crystal=torch.zeros(m, dtype=torch.long),
        angle=scan.angle[k],
        row=torch.arange(m),
        frame=torch.full((m,), -1),
        share=one,
        free=torch.zeros(m, dtype=torch.bool),
    )
    return Dataset(scan, observations, 1.0 / WAVE_NUMBER, m)
