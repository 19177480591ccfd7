"""Structure matrices of a few rocking steps of made-up crystals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from synthetic import BEAM, WAVELENGTH, atomic_model, double, fourfold, sweep, triclinic, turned
from torch import Tensor

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.bloch.matrix import DifferenceTable, coupling
from dials_hybrid.bloch.scattering import potential_scale, structure_factors

WAVE_NUMBER = 1.0 / WAVELENGTH


@dataclass(frozen=True)
class Matrices:
    coupling: Tensor  # (N, N)
    diagonal: Tensor  # (K, N)

    def single(self) -> tuple[Tensor, Tensor]:
        kind = torch.complex64 if self.coupling.is_complex() else torch.float32
        return self.coupling.to(kind), self.diagonal.float()

    def double(self) -> tuple[Tensor, Tensor]:
        """What `single` makes of it, in double precision."""
        a, d = self.single()
        return a.to(self.coupling.dtype), d.double()

    def full(self) -> Tensor:
        """A (K, N, N)."""
        return (self.coupling + torch.diag_embed(self.diagonal)).to(torch.complex128)


def centrosymmetric():
    """Two pairs of atoms about the origin, in P1."""
    pairs = [("Si", (0.12, 0.21, 0.07), 0.008), ("O", (0.43, 0.60, 0.32), 0.012)]
    atoms = [(e, tuple(sign * x for x in site), u, 1.0, 1.0) for e, site, u in pairs for sign in (1, -1)]
    return atomic_model((5.3, 5.9, 6.2, 81.0, 97.0, 106.0), atoms)


CASES = {
    "general": (triclinic, (0.3, -0.5, 0.2)),
    "zone_axis": (fourfold, (0.0, 0.0, 0.0)),
    "centrosymmetric": (centrosymmetric, (0.3, -0.5, 0.2)),
}


def matrices(name, *, steps=3, width=0.05, g_max=1.0, absorption=0.0) -> Matrices:
    """A and the steps; with absorption, U' = absorption U exp(-0.3 g^2) and a mean of the same size."""
    crystal, rotation = CASES[name]
    atoms = crystal()
    basis = sweep(turned(atoms, *rotation), n=steps, width=width).basis
    hkl = reflections_within(atoms.cell, g_max)
    r = torch.einsum("kij,nj->kni", basis, hkl.double())
    near = (excitation_errors(r, BEAM, WAVE_NUMBER).abs() < 0.02).any(0)
    hkl = torch.cat([torch.zeros_like(hkl[:1]), hkl[near]])
    r = torch.einsum("kij,nj->kni", basis, hkl.double())
    diagonal = 2.0 * WAVE_NUMBER * excitation_errors(r, BEAM, WAVE_NUMBER)
    table = DifferenceTable.of_beams([hkl])
    u = potential_scale(atoms.cell, WAVELENGTH) * structure_factors(atoms, table.hkl)
    if absorption:
        length = torch.linalg.norm(table.hkl.double() @ basis[0].T, dim=-1)
        u = u * (1.0 + 1j * absorption * torch.exp(-0.3 * length**2))
        diagonal = diagonal + 1j * absorption * 0.1
    a = coupling(u, table.pairs(hkl, hkl).positions, torch.ones(len(hkl), dtype=torch.float64))
    if name == "centrosymmetric" and not absorption:
        assert a.imag.abs().max() < 1e-12
        a = a.real.contiguous()
    return Matrices(a, diagonal)


def exponentials(a: Tensor, d: Tensor, thickness: Tensor) -> Tensor:
    """psi (K, T, N) by the exponential of every matrix."""
    matrix = a + torch.diag_embed(d)
    exponent = 1j * torch.pi / WAVE_NUMBER * thickness[:, None, None] * matrix[:, None]
    return torch.linalg.matrix_exp(exponent)[..., 0]


def random_weights(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def relative(found: Tensor, expected: Tensor) -> float:
    difference = torch.linalg.vector_norm(found.to(expected.dtype) - expected)
    return float(difference / torch.linalg.vector_norm(expected))


THICKNESS = double([50.0, 210.0, 700.0])
