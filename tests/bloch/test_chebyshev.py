from __future__ import annotations

import pytest
import torch
from matrices import THICKNESS, WAVE_NUMBER, exponentials, matrices, random_weights

from dials_hybrid.bloch import chebyshev


def gradients(segment, beams):
    arguments = [x[None].clone().requires_grad_() for x in (segment.coupling, segment.diagonal)]
    thickness = THICKNESS.clone().requires_grad_()
    psi = chebyshev.amplitudes(*arguments, thickness, WAVE_NUMBER, beams)
    loss = (random_weights(*psi.shape) * psi.abs() ** 2).sum()
    return psi.detach(), *torch.autograd.grad(loss, (*arguments, thickness))


def test_vectors_are_made_again_where_they_are_too_large_to_keep(monkeypatch):
    segment, beams = matrices("general"), torch.tensor([2, 0])
    expected = gradients(segment, beams)
    monkeypatch.setattr(chebyshev, "_KEPT", 2**15)
    made, vectors = [], chebyshev.Operator.vectors

    def spy(self, count, buffer):
        made.append(self.minus_diagonal.shape[1])
        return vectors(self, count, buffer)

    monkeypatch.setattr(chebyshev.Operator, "vectors", spy)
    found = gradients(segment, beams)
    assert made == [3, 1, 1, 1]  # all steps forward, then one after the other
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_nothing_is_kept_without_a_gradient(monkeypatch):
    segment = matrices("general")
    expected = exponentials(segment.coupling, segment.diagonal, THICKNESS)
    made, buffer = [], chebyshev.Operator.buffer

    def spy(self, degrees):
        made.append(degrees)
        return buffer(self, degrees)

    monkeypatch.setattr(chebyshev.Operator, "buffer", spy)
    psi = chebyshev.amplitudes(segment.coupling[None], segment.diagonal[None], THICKNESS, WAVE_NUMBER)
    assert made == [chebyshev.RING]
    torch.testing.assert_close(psi[0], expected, rtol=0, atol=1e-11)


def test_bounds_that_turn_out_too_narrow_are_widened(monkeypatch):
    segment = matrices("general")
    expected = exponentials(segment.coupling, segment.diagonal, THICKNESS)
    extremes, sums, widths = chebyshev.Spectrum.of_matrices, chebyshev.Series.of_spectrum, []

    def narrow(*arguments, **options):
        return extremes(*arguments, **options).widened(0.85)

    def spy(spectrum, *arguments):
        widths.append(spectrum.half_width)
        return sums(spectrum, *arguments)

    monkeypatch.setattr(chebyshev.Spectrum, "of_matrices", narrow)
    monkeypatch.setattr(chebyshev.Series, "of_spectrum", spy)
    psi = chebyshev.amplitudes(segment.coupling[None], segment.diagonal[None], THICKNESS, WAVE_NUMBER)
    assert len(widths) > 1
    torch.testing.assert_close(psi[0], expected, rtol=0, atol=1e-10)


def test_a_second_derivative_is_refused():
    """Products in inference mode would leave it out without a word."""
    segment = matrices("general")
    coupling = segment.coupling[None].clone().requires_grad_()
    psi = chebyshev.amplitudes(coupling, segment.diagonal[None], THICKNESS, WAVE_NUMBER)
    (gradient,) = torch.autograd.grad(psi.abs().square()[..., 1].sum(), coupling, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.abs().sum().backward()
