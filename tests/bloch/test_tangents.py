"""Forward mode against the adjoints of `eigen.gradients` (themselves checked by finite differences)."""

from __future__ import annotations

import pytest
import torch

from dials_hybrid.bloch import eigen
from dials_hybrid.bloch.tangents import tangents

K = 40.0
THICKNESS = torch.tensor([90.0, 240.0, 500.0], dtype=torch.float64)
BEAMS = torch.tensor([1, 4, 2, 4, 0])
STEPS, N, P = 3, 9, 4


def random_symmetric(*shape, real: bool):
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(*shape, generator=generator, dtype=torch.float64 if real else torch.complex128)
    return 0.05 * (x + x.mH)


@pytest.fixture(params=["complex", "real", "degenerate"])
def matrices(request):
    """A (K, N, N) and its derivatives (P, N, N), (K, 2, N)."""
    real = request.param == "real"
    a = random_symmetric(STEPS, N, N, real=real)
    if request.param == "degenerate":
        values, vectors = torch.linalg.eigh(a)
        values[:, 2] = values[:, 1] = values[:, 0]
        a = vectors @ torch.diag_embed(values).to(a) @ vectors.mH
    generator = torch.Generator().manual_seed(5)
    d_diagonal = torch.randn(STEPS, 2, N, generator=generator, dtype=torch.float64)
    return a, random_symmetric(P, N, N, real=real), d_diagonal


def test_forward_mode_is_the_adjoint(matrices):
    a, d_coupling, d_diagonal = matrices
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(len(BEAMS), len(THICKNESS), generator=generator, dtype=torch.float64)
    found = tangents(eigen.solve(a, K), THICKNESS, p, BEAMS, d_coupling, d_diagonal, K)
    waves = eigen.solve(a.to(torch.complex128), K)
    for step in range(STEPS):
        window = torch.zeros(len(BEAMS), STEPS, dtype=torch.float64)
        window[:, step] = 1.0
        gradient, diagonal = eigen.gradients(waves, THICKNESS, p, BEAMS, window, K)
        by_structure = 2.0 * torch.einsum("mij,pij->mp", gradient, d_coupling.to(gradient)).real
        by_tilt = 2.0 * torch.einsum("mn,xn->mx", diagonal[step].real, d_diagonal[step])
        expected = torch.cat([by_structure, by_tilt], dim=1)
        torch.testing.assert_close(found[step], expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


def test_without_structure_only_the_tilts_are_left(matrices):
    a, d_coupling, d_diagonal = matrices
    p = torch.ones(len(BEAMS), len(THICKNESS), dtype=torch.float64)
    arguments = eigen.solve(a, K), THICKNESS, p, BEAMS
    both = tangents(*arguments, d_coupling, d_diagonal, K)
    tilts = tangents(*arguments, d_coupling[:0], d_diagonal, K)
    torch.testing.assert_close(tilts, both[..., P:])
