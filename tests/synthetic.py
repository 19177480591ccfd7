"""Made-up crystals, scans and observations for tests, and central differences."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.electron import wavelength
from dials_hybrid.bloch.geometry import excitation_errors, rotation_matrix
from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.data import ATOM_PARAMETERS, AtomicModel, Dataset, Observations, RockingSteps
from dials_hybrid.rocking.measurement import Measurement, Reflections

WAVELENGTH = wavelength(200.0)
BEAM = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
# Not quite perpendicular to the beam.
ROTATION_AXIS = torch.tensor([0.96, 0.28, 0.02], dtype=torch.float64) / 1.0004**0.5

# Peng et al. (1996), five Gaussians in s up to 2 1/A
_PENG = {
    "C": ((0.0893, 0.2563, 0.757, 1.0487, 0.3575), (0.2465, 1.71, 6.4094, 18.6113, 50.2523)),
    "O": ((0.0974, 0.2921, 0.691, 0.699, 0.2039), (0.2067, 1.3815, 4.6943, 12.7105, 32.4726)),
    "Si": ((0.2519, 0.6372, 1.3795, 2.5082, 1.05), (0.3075, 2.0174, 9.6746, 29.3744, 80.4732)),
}

_IDENTITY = (((1, 0, 0), (0, 1, 0), (0, 0, 1)), (0, 0, 0))
_P3221 = (
    _IDENTITY,
    (((0, -1, 0), (1, -1, 0), (0, 0, 1)), (0, 0, 2 / 3)),
    (((-1, 1, 0), (-1, 0, 0), (0, 0, 1)), (0, 0, 1 / 3)),
    (((0, 1, 0), (1, 0, 0), (0, 0, -1)), (0, 0, 0)),
    (((1, -1, 0), (0, -1, 0), (0, 0, -1)), (0, 0, 1 / 3)),
    (((-1, 0, 0), (-1, 1, 0), (0, 0, -1)), (0, 0, 2 / 3)),
)


def double(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def atomic_model(cell, atoms, operations=(_IDENTITY,), form_factors=_PENG) -> AtomicModel:
    """Atoms are (element, site, u_iso or six u_star, occupancy, multiplicity / operations)."""
    elements = tuple(atom[0] for atom in atoms)
    kinds = sorted(set(elements))
    table = []
    for _, site, u, occupancy, _ in atoms:
        u = (0.0, *u) if isinstance(u, tuple) else (u, *[0.0] * 6)
        table.append([*site, *u, occupancy])
    return AtomicModel(
        labels=tuple(f"{element}{i}" for i, element in enumerate(elements)),
        elements=elements,
        cell=double(cell),
        parameters=double(table),
        anisotropic=torch.tensor([isinstance(atom[2], tuple) for atom in atoms]),
        multiplicity=double([atom[4] for atom in atoms]),
        form_factor_type=torch.tensor([kinds.index(element) for element in elements]),
        form_factor_a=double([form_factors[kind][0] for kind in kinds]),
        form_factor_b=double([form_factors[kind][1] for kind in kinds]),
        rotations=double([operation[0] for operation in operations]),
        translations=double([operation[1] for operation in operations]),
    )


def triclinic() -> AtomicModel:
    """Space group P1; isotropic and anisotropic atoms, one of them partly occupied."""
    atoms = [
        ("Si", (0.11, 0.23, 0.05), (4e-4, 5e-4, 3e-4, 1e-4, -5e-5, 8e-5), 1.0, 1.0),
        ("O", (0.42, 0.61, 0.33), 0.012, 0.7, 1.0),
        ("C", (0.77, 0.15, 0.58), (9e-4, 6e-4, 7e-4, -2e-4, 1e-4, 0.0), 1.0, 1.0),
    ]
    return atomic_model((4.3, 4.9, 5.2, 81.0, 97.0, 106.0), atoms)


def quartz() -> AtomicModel:
    """Space group P3221, silicon on a twofold axis."""
    atoms = [
        ("Si", (0.4697, 0.0, 2 / 3), 0.008, 1.0, 0.5),
        ("O", (0.4135, 0.2669, 0.78577), (9e-4, 7e-4, 4e-4, 5e-4, -1e-4, -2e-4), 1.0, 1.0),
    ]
    return atomic_model((4.913, 4.913, 5.405, 90.0, 90.0, 120.0), atoms, _P3221)


def fourfold() -> AtomicModel:
    """P4mm described in P1: along c, Bloch waves come in pairs of exactly equal eigenvalues.

    Nothing in the description forbids parameters, and their derivatives, that split the pairs.
    """
    atoms = [
        ("Si", (0.0, 0.0, 0.0), (4e-4, 4e-4, 5e-4, 0.0, 0.0, 0.0), 1.0, 1.0),
        ("O", (0.5, 0.5, 0.31), 0.012, 0.8, 1.0),
    ]
    return atomic_model((4.1, 4.1, 5.0, 90.0, 90.0, 90.0), atoms)


def free_parameters(
    atoms: AtomicModel, names: tuple[str, ...] = ATOM_PARAMETERS
) -> tuple[Tensor, tuple[str, ...]]:
    """Jacobian (P, 11 n) and names of the parameters called `names` that count, of every atom."""
    idle = ["uiso" if anisotropic else "u" for anisotropic in atoms.anisotropic.tolist()]
    table = [
        (f"{label}.{name}", name in names and name.rstrip("123") != skipped)
        for label, skipped in zip(atoms.labels, idle, strict=True)
        for name in ATOM_PARAMETERS
    ]
    free = torch.tensor([refined for _, refined in table])
    identity = torch.eye(len(table), dtype=torch.float64)
    return identity[free], tuple(name for name, refined in table if refined)


def upright(atoms: AtomicModel) -> Tensor:
    """Reciprocal basis (3, 3) [1/A] with the axis c of the crystal along -BEAM."""
    return torch.linalg.cholesky(torch.linalg.inv(metric_tensor(atoms.cell))).mT


def turned(atoms: AtomicModel, x: float, y: float, z: float) -> Tensor:
    """`upright`, turned by a rotation vector [radian]."""
    return rotation_matrix(double([x, y, z])) @ upright(atoms)


def sweep(basis: Tensor, *, n: int, width: float, crystal: int = 0) -> RockingSteps:
    """n steps of `width` [degree] about ROTATION_AXIS; the middle one has the given basis.

    Its mosaic deviate is zero.
    """
    angle = (torch.arange(n, dtype=torch.float64) - n // 2) * width
    turns = rotation_matrix(torch.deg2rad(angle)[:, None] * ROTATION_AXIS)
    five_quantiles = double([0.0, 0.52, 1.28, -1.28, -0.52])
    return RockingSteps(
        basis=turns @ basis,
        weight=torch.full((n,), width, dtype=torch.float64),
        angle=angle + 10.0 * crystal,
        crystal=torch.full((n,), crystal),
        frame=torch.full((n,), -1),
        next_frame=torch.full((n,), -1),
        part=torch.zeros(n, dtype=torch.float64),
        mosaic=five_quantiles[(torch.arange(n) - n // 2) % 5],
        beam=BEAM[None],
        rotation_axis=ROTATION_AXIS[None],
    )


def observed(steps: RockingSteps, atoms: AtomicModel, *, g_max: float, half: int) -> Observations:
    """Every reflection that comes near the Ewald sphere, over `half` steps to each side."""
    hkl = reflections_within(atoms.cell, g_max)
    r = steps.basis @ hkl.to(torch.float64).T
    s_g = excitation_errors(r.mT, BEAM, 1.0 / WAVELENGTH).abs()
    least, nearest = s_g.min(0)
    hkl, nearest = hkl[least < 2e-3], nearest[least < 2e-3]
    m = len(hkl)
    return Observations(
        hkl=hkl,
        intensity=torch.ones(m, dtype=torch.float64),
        sigma=torch.ones(m, dtype=torch.float64),
        first=(nearest - half).clamp(min=0),
        last=(nearest + half + 1).clamp(max=len(steps)),
        crystal=steps.crystal[nearest],
        angle=steps.angle[nearest],
        row=torch.arange(m),
        frame=torch.full((m,), -1),
        share=torch.ones(m, dtype=torch.float64),
        free=torch.zeros(m, dtype=torch.bool),
    )


def dataset(atoms: AtomicModel, sweeps: list[RockingSteps], *, g_max=1.1, half=3) -> Dataset:
    """The observations of one sweep a crystal."""
    observations = [observed(steps, atoms, g_max=g_max, half=half) for steps in sweeps]
    before = [sum(map(len, sweeps[:i])) for i in range(len(sweeps))]
    joined = {
        name: torch.cat([getattr(o, name) for o in observations])
        for name in (item.name for item in fields(Observations))
        if name != "edges"
    }
    for name in ("first", "last"):
        joined[name] = torch.cat(
            [getattr(o, name) + shift for o, shift in zip(observations, before, strict=True)]
        )
    steps = {item.name: torch.cat([getattr(s, item.name) for s in sweeps]) for item in fields(RockingSteps)}
    n = len(joined["hkl"])
    return Dataset(RockingSteps(**steps), Observations(**joined), WAVELENGTH, n_rows=n)


def central_differences(function, x: Tensor, step: float | Tensor) -> Tensor:
    """Derivatives (..., P) of function(x) by x (P,), to fourth order in the step (P,)."""
    steps = torch.as_tensor(step, dtype=x.dtype).expand(len(x))
    columns = []
    for direction, h in zip(torch.diag(steps), steps, strict=True):
        near = function(x + direction) - function(x - direction)
        far = function(x + 2.0 * direction) - function(x - 2.0 * direction)
        columns.append((8.0 * near - far) / (12.0 * h))
    return torch.stack(columns, dim=-1)


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference in units of the largest value expected in the same column."""
    scale = expected.abs().amax(0)
    assert (scale > 0.0).all(), "a derivative that is zero throughout tests nothing"
    return float(((found - expected).abs().amax(0) / scale).max())


def selected(observations, mask):
    """The observations where `mask` (M,) is true."""
    columns = {f.name: getattr(observations, f.name) for f in fields(observations)}
    return replace(observations, **{name: x[mask] for name, x in columns.items() if x is not None})


def steps_of(runs, step: float, mosaic_points: int = 1) -> RockingSteps:
    """The rocking steps of these runs, with one reflection that is wide enough not to matter."""
    one = np.zeros(1)
    reflections = Reflections(
        hkl=np.ones((1, 3), dtype=np.int64),
        intensity=one,
        sigma=one + 1.0,
        run=np.zeros(1, dtype=np.int64),
        angle=one,
        half_width=one + 1000.0,
        frame=np.full(1, -1),
        share=one + 1.0,
        row=np.zeros(1, dtype=np.int64),
    )
    return Measurement(tuple(runs), reflections, WAVELENGTH, 1).dataset(step, mosaic_points).steps
