from __future__ import annotations

import pytest
import torch
from matrices import (
    CASES,
    THICKNESS,
    WAVE_NUMBER,
    Matrices,
    exponentials,
    matrices,
    random_weights,
    relative,
)
from synthetic import central_differences, double, largest_error

from dials_hybrid.bloch import waves
from dials_hybrid.bloch.waves import amplitudes, derivatives

ALGORITHMS = waves.AMPLITUDES


def gradients(function, *arguments):
    """psi, and the gradients of a weighted sum of |psi|^2 and of psi."""
    arguments = [x.detach().clone().requires_grad_() for x in arguments]
    psi = function(*arguments)
    weights = random_weights(*psi.shape).to(psi.real)
    loss = (weights * psi.abs() ** 2).sum() + (weights * psi.real).sum()
    return psi.detach(), torch.autograd.grad(loss, arguments)


def propagate(algorithm, beams=None):
    return lambda a, d, t: amplitudes(a, d, t, WAVE_NUMBER, beams=beams, algorithm=algorithm)


@pytest.fixture(params=CASES)
def segment(request) -> Matrices:
    return matrices(request.param)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_waves_and_gradients_are_those_of_the_matrix_exponential(segment, algorithm):
    arguments = segment.coupling, segment.diagonal, THICKNESS
    psi, found = gradients(propagate(algorithm), *arguments)
    kind = torch.complex128
    expected_psi, expected = gradients(lambda a, d, t: exponentials(a.to(kind), d, t), *arguments)
    torch.testing.assert_close(psi, expected_psi, rtol=0, atol=1e-11)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        assert relative(x, y) < 1e-11


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_are_the_slopes_of_intensities(segment, algorithm):
    beams = torch.tensor([0, 3, 5, 3])
    weights = random_weights(len(segment.diagonal), 3, 4)
    direction = torch.linalg.qr(random_weights(*segment.coupling.shape))[0]
    da = 0.01 * (direction + direction.T)
    dd = 0.05 * random_weights(*segment.diagonal.shape)
    arguments = [x.clone().requires_grad_() for x in (segment.coupling, segment.diagonal, THICKNESS)]

    def total(a, d, t):
        return (weights * propagate(algorithm, beams)(a, d, t).abs() ** 2).sum()

    by_a, by_d, by_t = torch.autograd.grad(total(*arguments), arguments)
    found = torch.stack([(by_a.conj() * da).sum().real, (by_d * dd).sum(), by_t.sum()])

    def shifted(x):
        return total(segment.coupling + x[0] * da, segment.diagonal + x[1] * dd, THICKNESS + x[2])

    steps = double([1e-3, 1e-3, 1e-2])
    expected = central_differences(shifted, torch.zeros(3, dtype=torch.float64), steps)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case, g_max", [(case, 1.6) for case in CASES] + [("centrosymmetric", 2.6)])
@pytest.mark.parametrize("largest", [200.0, 1000.0, 3000.0])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_single_precision(case, g_max, largest, algorithm):
    segment = matrices(case, g_max=g_max)
    thickness = largest * double([0.25, 0.5, 1.0])
    psi, found = gradients(propagate(algorithm), *segment.single(), thickness.float())
    exact, expected = gradients(propagate("eigen"), *segment.double(), thickness)
    assert relative(psi.abs() ** 2, exact.abs() ** 2) < 3e-5
    for x, y in zip(found, expected, strict=True):
        assert relative(x, y) < 1e-4


def test_absorption():
    """Neither algorithm has to know: the matrix and the diagonal say it."""
    segment = matrices("general", absorption=0.1)
    arguments = segment.coupling, segment.diagonal, THICKNESS
    psi, found = gradients(propagate(None), *arguments)
    expected_psi, expected = gradients(exponentials, *arguments)
    assert expected_psi[:, -1].abs().square().sum(-1).max() < 0.9
    torch.testing.assert_close(psi, expected_psi, rtol=0, atol=1e-11)
    for x, y in zip(found, expected, strict=True):
        assert relative(x, y) < 1e-11
    a, d = segment.coupling.to(torch.complex64), segment.diagonal.to(torch.complex64)
    psi, found = gradients(propagate(None), a, d, THICKNESS.float())
    assert relative(psi, expected_psi) < 1e-5
    for x, y in zip(found, expected, strict=True):
        assert relative(x, y) < 1e-4


def test_diagonalisation_refuses_absorption():
    segment = matrices("general", absorption=0.1)
    with pytest.raises(ValueError, match="absorption"):
        propagate("eigen")(segment.coupling, segment.diagonal, THICKNESS)


def test_an_unknown_algorithm_is_refused():
    segment = matrices("general")
    with pytest.raises(ValueError, match="eigen, chebyshev"):
        propagate("lanczos")(segment.coupling, segment.diagonal, THICKNESS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_padded_segments_go_together(algorithm):
    """A batch (2, 1, ...) of segments of different size gives what each gives alone."""
    segments = [matrices("general", g_max=g_max) for g_max in (1.0, 1.3)]
    n = max(len(x.coupling) for x in segments)
    a, d = segments[0].coupling.new_zeros(2, 1, n, n), torch.zeros(2, 1, 3, n, dtype=torch.float64)
    for i, segment in enumerate(segments):
        size = len(segment.coupling)
        a[i, 0, :size, :size], d[i, 0, :, :size] = segment.coupling, segment.diagonal
    psi, (by_a, by_d, by_t) = gradients(propagate(algorithm), a, d, THICKNESS)
    assert psi.shape == (2, 1, 3, 3, n)
    weights, total = random_weights(*psi.shape), 0.0
    for i, segment in enumerate(segments):
        size = len(segment.coupling)
        assert (psi[i, ..., size:] == 0).all()

        def loss(a, d, t, w=weights[i, 0, ..., :size]):
            x = exponentials(a, d, t)
            return (w * x.abs() ** 2).sum() + (w * x.real).sum()

        arguments = [x.clone().requires_grad_() for x in (segment.coupling, segment.diagonal, THICKNESS)]
        expected = torch.autograd.grad(loss(*arguments), arguments)
        assert relative(by_a[i, 0, :size, :size], expected[0]) < 1e-11
        assert relative(by_d[i, 0, :, :size], expected[1]) < 1e-11
        total = total + expected[2]
    assert relative(by_t, total) < 1e-11


@pytest.mark.parametrize(
    "g_max, thickness, expected",
    [(0.7, 3000.0, "eigen"), (2.6, 300.0, "chebyshev")],
)
def test_few_beams_and_thick_crystals_are_diagonalised(monkeypatch, g_max, thickness, expected):
    used = []
    for module in (waves.eigen, waves.chebyshev):
        name, original = module.__name__.rpartition(".")[2], module.amplitudes

        def spy(*arguments, name=name, original=original, **options):
            used.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(module, "amplitudes", spy)
    a, d = matrices("centrosymmetric", g_max=g_max).single()
    propagate(None)(a.to(torch.complex64), d, torch.tensor([thickness]))
    assert used == [expected]


def averages(segment, p, beams, window, *, by, other):
    """Averages (m,) and (m, K) as functions of changes of the coupling or of the diagonals."""

    def function(x):
        a, d = segment.coupling, segment.diagonal
        if by == "structure":
            a = a + torch.einsum("p,pij->ij", x.to(a.dtype), other)
        else:
            d = d + torch.einsum("x,kxn->kn", x, other)
        intensity = exponentials(a.to(torch.complex128), d, THICKNESS)[..., beams].abs() ** 2
        steps = torch.einsum("mt,ktm,mk->mk", p, intensity, window)
        return steps.sum(1) if by == "structure" else steps

    return function


@pytest.fixture(params=[(case, 0.0) for case in CASES] + [("general", 0.1)], ids=lambda x: f"{x[0]}-{x[1]}")
def observed(request):
    """A segment, five beams of which two are the same, their windows and what to differentiate by."""
    case, absorption = request.param
    segment = matrices(case, g_max=0.8, steps=4, absorption=absorption)
    n, k = len(segment.coupling), 4
    beams = torch.tensor([0, 3, 5, 3, 1])
    window = random_weights(5, k).abs()
    window[1, :2] = window[2, 3:] = window[3] = 0.0
    x = random_weights(3, n, n).to(segment.coupling.dtype)
    if x.is_complex():
        x = x + 1j * random_weights(1, 3, n, n)[0]
    da = 0.05 * (x if absorption else x + x.mH)
    return segment, 0.1 + random_weights(5, 3).abs(), beams, window, da, 0.1 * random_weights(k, 2, n)


@pytest.mark.parametrize("algorithm", waves.DERIVATIVES)
def test_derivatives_against_central_differences(observed, algorithm):
    segment, p, beams, window, da, dd = observed
    arguments = segment.coupling, segment.diagonal, da, dd, THICKNESS, p, beams, window, WAVE_NUMBER
    if segment.diagonal.is_complex() and algorithm.startswith("eigen"):
        with pytest.raises(ValueError, match="absorption"):
            derivatives(*arguments, algorithm=algorithm)
        return
    found = derivatives(*arguments, algorithm=algorithm)
    waves_ = exponentials(segment.coupling.to(torch.complex128), segment.diagonal, THICKNESS)
    expected = torch.einsum("mk,ktm->mt", window, waves_[..., beams].abs() ** 2)
    torch.testing.assert_close(found.intensity, expected, rtol=0, atol=1e-11)

    function = averages(segment, p, beams, window, by="structure", other=da)
    expected = central_differences(function, torch.zeros(3, dtype=torch.float64), 1e-3)
    assert largest_error(found.by_structure, expected) < 1e-6

    function = averages(segment, p, beams, window, by="diagonal", other=dd)
    expected = central_differences(function, torch.zeros(2, dtype=torch.float64), 1e-3)
    assert largest_error(found.by_diagonal.flatten(0, 1), expected.flatten(0, 1)) < 1e-6
    assert (found.by_structure[3] == 0).all()


def test_derivatives_do_not_depend_on_the_workspace(observed):
    segment, p, beams, window, da, dd = observed
    arguments = segment.coupling, segment.diagonal, da, dd, THICKNESS, p, beams, window, WAVE_NUMBER
    for algorithm in waves.DERIVATIVES:
        if segment.diagonal.is_complex() and algorithm.startswith("eigen"):
            continue
        expected = derivatives(*arguments, algorithm=algorithm)
        found = derivatives(*arguments, 2000, algorithm=algorithm)
        torch.testing.assert_close(found.by_structure, expected.by_structure, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(found.by_diagonal, expected.by_diagonal, rtol=1e-11, atol=1e-11)


def test_derivatives_in_single_precision(observed):
    segment, p, beams, window, da, dd = observed
    if segment.diagonal.is_complex():
        return
    rest = p, beams, window
    (a, d), (a64, d64) = segment.single(), segment.double()
    expected = derivatives(a64, d64, da, dd, THICKNESS, *rest, WAVE_NUMBER, algorithm="eigen adjoint")
    rest = p.float(), beams, window.float()
    for algorithm in waves.DERIVATIVES:
        found = derivatives(
            a, d, da.to(a.dtype), dd.float(), THICKNESS.float(), *rest, WAVE_NUMBER, algorithm=algorithm
        )
        assert relative(found.by_structure, expected.by_structure) < 1e-4
        assert relative(found.by_diagonal, expected.by_diagonal) < 1e-4


def test_derivatives_without_structure(observed):
    segment, p, beams, window, _, dd = observed
    found = derivatives(
        segment.coupling, segment.diagonal, None, dd, THICKNESS, p, beams, window, WAVE_NUMBER
    )
    assert found.by_structure is None
    assert found.by_diagonal.shape == (5, 4, 2)


def test_more_to_do_is_expected_to_take_longer():
    segment = matrices("general", steps=4)
    a, d = segment.single()
    window = torch.ones(12, 4)

    def seconds(count, observed=12, weak=0, rows=slice(None)):
        matrices = a[rows][:, rows], d[:, rows]
        return waves.derivatives_seconds(*matrices, THICKNESS, WAVE_NUMBER, count, window[:observed], weak)

    assert 0.0 < seconds(10) < seconds(100) < seconds(100, weak=200)
    assert seconds(10**5, observed=6) < seconds(10**5)
    assert seconds(10, rows=slice(10)) < seconds(10)
