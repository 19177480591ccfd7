from __future__ import annotations

import math

import pytest
import torch
from matrices import exponentials
from synthetic import (
    BEAM,
    WAVELENGTH,
    central_differences,
    double,
    fourfold,
    largest_error,
    triclinic,
    turned,
)

from dials_hybrid.bloch import eigen
from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.bloch.matrix import DifferenceTable, coupling
from dials_hybrid.bloch.scattering import potential_scale, structure_factors

K = 1 / WAVELENGTH
THICKNESS = double([50.0, 210.0, 700.0])
ORIENTATIONS = {
    "general": (triclinic, (0.3, -0.5, 0.2)),
    "zone_axis": (fourfold, (0.0, 0.0, 0.0)),
}


@pytest.fixture(params=ORIENTATIONS)
def a(request):
    """A structure matrix (N, N)."""
    crystal, rotation = ORIENTATIONS[request.param]
    atoms = crystal()
    basis = turned(atoms, *rotation)
    hkl = reflections_within(atoms.cell, 1.0)
    s_g = excitation_errors(hkl.to(torch.float64) @ basis.T, BEAM, K)
    hkl = torch.cat([torch.zeros_like(hkl[:1]), hkl[s_g.abs() < 0.02]])
    s_g = excitation_errors(hkl.to(torch.float64) @ basis.T, BEAM, K)
    table = DifferenceTable.of_beams([hkl])
    u = potential_scale(atoms.cell, WAVELENGTH) * structure_factors(atoms, table.hkl)
    return coupling(u, table.pairs(hkl, hkl).positions, torch.ones_like(s_g)) + torch.diag(2 * K * s_g)


def intensities(a, thickness=THICKNESS):
    """All |psi|^2 (N, T)."""
    return eigen.solve(a[None], K).amplitudes(thickness, torch.arange(len(a)))[0].abs() ** 2


def random_hermitian(count, n):
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, n, n, generator=generator, dtype=torch.complex128)
    return 0.05 * (x + x.mH)


def differences(a, p, da):
    """Central differences (N, P) of intensities averaged over thickness, for da (P, N, N)."""

    def averages(x):
        return (p * intensities(a + torch.einsum("p,pij->ij", x.to(da.dtype), da))).sum(1)

    return central_differences(averages, torch.zeros(len(da), dtype=torch.float64), 3e-4)


def derivatives(a, p, da):
    """Derivatives (N, P) by da (P, N, N) of the same."""
    waves, window = eigen.solve(a[None], K), torch.ones(len(a), 1, dtype=a.real.dtype)
    thickness = THICKNESS.to(window.dtype)
    gradient, _ = eigen.gradients(waves, thickness, p, torch.arange(len(a)), window, K)
    return 2 * torch.einsum("mij,pij->mp", gradient, da).real


def weights(n):
    return 0.2 + torch.rand(
        n, len(THICKNESS), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


@pytest.mark.parametrize("s_g", [0.0, 1e-4, -3e-3, 0.02])
@pytest.mark.parametrize("u", [0.08, 0.03 + 0.05j])
def test_two_beams_follow_the_analytic_formula(s_g, u):
    a = torch.tensor([[0.0, complex(u).conjugate()], [u, 2 * K * s_g]], dtype=torch.complex128)
    thickness = torch.linspace(0.0, 2000.0, 41, dtype=torch.float64)
    effective = math.hypot(s_g, abs(u) / K)
    expected = (abs(u) / K / effective) ** 2 * torch.sin(math.pi * effective * thickness) ** 2
    direct, diffracted = intensities(a, thickness)
    torch.testing.assert_close(diffracted, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(direct, 1 - expected, rtol=0, atol=1e-10)


def test_waves_are_those_of_the_matrix_exponential(a):
    for t in THICKNESS:
        expected = torch.linalg.matrix_exp(1j * math.pi * t / K * a)[:, 0]
        psi = eigen.solve(a[None], K).amplitudes(t[None], torch.arange(len(a)))[0, :, 0]
        torch.testing.assert_close(psi, expected, rtol=0, atol=1e-10)


def test_phases_that_the_diagonalisation_gives_to_its_vectors_do_not_matter(a, monkeypatch):
    expected = eigen.solve(a[None], K).amplitudes(THICKNESS, torch.arange(len(a)))
    eigh = torch.linalg.eigh

    def other_phases(matrices):
        values, vectors = eigh(matrices)
        return values, vectors * torch.exp(1j * torch.arange(len(a), dtype=torch.float64))

    monkeypatch.setattr(torch.linalg, "eigh", other_phases)
    found = eigen.solve(a[None], K).amplitudes(THICKNESS, torch.arange(len(a)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_intensities_add_up_to_one(a):
    assert (intensities(a).sum(0) - 1).abs().max() < 1e-10
    assert (intensities(a)[0] < 0.999).all()


def test_single_precision(a):
    single = intensities(a.to(torch.complex64), THICKNESS.to(torch.float32))
    assert (single - intensities(a)).abs().max() < 1e-5


def test_derivatives_against_central_differences(a):
    da, p = random_hermitian(4, len(a)), weights(len(a))
    found, expected = derivatives(a, p, da), differences(a, p, da)
    assert largest_error(found, expected) < 1e-8


@pytest.mark.parametrize("a", ["zone_axis"], indirect=True)
def test_the_zone_axis_has_degenerate_waves_that_take_part(a):
    waves = eigen.solve(a[None], K)
    degenerate = waves.eigenvalues[0].diff() * THICKNESS.max() < 1e-9
    assert degenerate.sum() >= 4


# The two thresholds below which eigenvalues count as equal lie at 1e-5 and 1e-2.
@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, 0.99e-5, 1.01e-5, 0.99e-2, 1.01e-2, 0.1])
@pytest.mark.parametrize("dtype, tolerance", [(torch.complex128, 1e-8), (torch.complex64, 1e-4)])
def test_derivatives_where_eigenvalues_nearly_meet(gap, dtype, tolerance):
    """Two of three waves get out of step by no more than `gap` [radian]; all take part."""
    e = double([-2.0, 1.0, 1.0 + gap]) / THICKNESS.max()
    vectors = torch.linalg.eigh(random_hermitian(1, 3)[0])[1]
    a = vectors @ torch.diag(e * K / math.pi).to(vectors.dtype) @ vectors.mH
    da, p = random_hermitian(2, 3), weights(3)
    found = derivatives(a.to(dtype), p.to(dtype.to_real()), da.to(dtype))
    assert largest_error(found, differences(a, p, da)) < tolerance


def test_single_precision_derivatives(a):
    da, p = random_hermitian(4, len(a)), weights(len(a))
    single = derivatives(a.to(torch.complex64), p.to(torch.float32), da.to(torch.complex64))
    assert largest_error(single, derivatives(a, p, da)) < 1e-4


def test_gradients_of_several_steps_add_up_with_their_weights(a):
    matrices = torch.stack([a, a + random_hermitian(1, len(a))[0]])
    beams, p = torch.tensor([0, 3, 3, 5]), weights(4)
    window = double([[1.0, 0.0], [0.3, 0.7], [0.0, 2.0], [1.0, 1.0]])
    gradient, diagonal = eigen.gradients(eigen.solve(matrices, K), THICKNESS, p, beams, window, K)
    expected = torch.zeros_like(gradient)
    for step, matrix in enumerate(matrices):
        one = eigen.gradients(eigen.solve(matrix[None], K), THICKNESS, p, beams, window[:, [step]], K)
        expected += one[0]
        torch.testing.assert_close(diagonal[step], torch.diagonal(one[0], dim1=1, dim2=2))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-5])
def test_amplitudes_where_eigenvalues_of_several_steps_meet(kind, gap):
    """Value and gradient of the differentiable waves, also at the entrance surface."""
    generator = torch.Generator().manual_seed(3)
    n, steps = 7, 3
    x = torch.randn(n, n, generator=generator, dtype=kind)
    values, vectors = torch.linalg.eigh(0.05 * (x + x.mH))
    values[1:4] = values[1] + gap * torch.arange(3)
    full = vectors @ torch.diag(values).to(kind) @ vectors.mH
    diagonal = full.diagonal().real.expand(steps, n).clone()
    diagonal[1] += 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    thickness = double([0.0, 90.0, 400.0])
    weights = torch.randn(steps, 3, n, generator=generator, dtype=torch.float64)
    results = []
    for function in (lambda *x: eigen.amplitudes(x[0][None], x[1][None], x[2], K)[0], exponentials):
        arguments = [x.clone().requires_grad_() for x in (full - torch.diag(full.diagonal()), diagonal)]
        arguments.append(thickness.clone().requires_grad_())
        psi = function(*arguments)
        loss = (weights * (psi.abs() ** 2 + psi.real)).sum()
        results.append([psi.detach(), *torch.autograd.grad(loss, arguments)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


def test_amplitudes_of_no_thickness():
    a = random_hermitian(1, 5)
    diagonal = torch.zeros(1, 2, 5, dtype=torch.float64, requires_grad=True)
    psi = eigen.amplitudes(a, diagonal, double([0.0]), K)
    assert (psi - torch.eye(5)[0]).abs().max() < 1e-14
    (by_diagonal,) = torch.autograd.grad(psi.abs().square().sum(), diagonal)
    assert by_diagonal.abs().max() < 1e-12
