"""How the derivatives are computed; whether they are right is tested in test_waves.py."""

from __future__ import annotations

import pytest
import torch
from matrices import CASES, THICKNESS, WAVE_NUMBER, matrices, random_weights

from dials_hybrid.bloch import chebyshev, jacobian

BEAMS = torch.tensor([0, 3, 5, 3, 1])
STEPS, PARAMETERS = 4, 7


@pytest.fixture(params=[(case, 0.0) for case in CASES] + [("general", 0.1)], ids=lambda x: f"{x[0]}-{x[1]}")
def derivatives(request):
    """All three kinds of derivatives, as a function without arguments."""
    case, absorption = request.param
    segment = matrices(case, g_max=0.8, steps=STEPS, absorption=absorption)
    n = len(segment.coupling)
    kind, p = segment.coupling.dtype, 0.1 + random_weights(len(BEAMS), 3).abs()
    hermitian, window = not absorption, random_weights(len(BEAMS), STEPS).abs()
    x = 0.05 * random_weights(PARAMETERS, n, n).to(kind)
    da, dd = x + x.mH, 0.1 * random_weights(STEPS, 2, n)

    def function():
        expansion = jacobian.Expansion.of_matrices(
            segment.coupling.to(kind), segment.diagonal, THICKNESS, p, BEAMS, WAVE_NUMBER, hermitian=hermitian
        )
        return (
            jacobian.forward(expansion, da, window, 2**20),
            jacobian.forward_diagonal(expansion, dd),
            *jacobian.adjoint(expansion, window, 2**20),
        )

    return function


def test_vectors_that_are_too_large_to_keep_are_made_again(monkeypatch, derivatives):
    expected, made, vectors = derivatives(), [], chebyshev.Operator.vectors

    def spy(self, count, buffer):
        made.append(count)
        return vectors(self, count, buffer)

    monkeypatch.setattr(chebyshev.Operator, "vectors", spy)
    derivatives()
    assert len(made) == 1
    monkeypatch.setattr(chebyshev, "_KEPT", 0)
    found = derivatives()
    assert len(made) == 1 + 4 and made[0] > chebyshev.RING
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_parameters_go_in_parts_of_equal_size(monkeypatch, derivatives):
    expected, sizes, tangents = derivatives(), [], jacobian._tangents

    def spy(expansion, count, ask):
        sizes.append(count)
        return tangents(expansion, count, ask)

    monkeypatch.setattr(jacobian, "_tangents", spy)
    monkeypatch.setattr(jacobian, "_ROWS", 6 * STEPS)
    found = derivatives()
    assert sizes == [4, 3, 2]  # the last are those by the diagonal
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
