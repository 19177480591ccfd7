"""Derivatives by rows, against the matrix written out."""

from __future__ import annotations

import pytest
import torch

from dials_hybrid.model.held import Held
from dials_hybrid.model.jacobian import Jacobian

M, P = 7, 6


@pytest.fixture(params=[False, True], ids=["in memory", "in a file"])
def both(request):
    """A Jacobian with a gap in its columns, one block held, and the same as one matrix."""
    torch.manual_seed(3)
    first, last, factor, other = (torch.randn(M, n, dtype=torch.float64) for n in (2, 3, 1, 1))
    held = Held((M, 2), torch.device("cpu"), request.param)
    held.add(torch.arange(M), first)
    blocks = (slice(0, 2), factor[:, 0], held), (slice(3, 6), other[:, 0], last)
    gap = torch.zeros(M, 1, dtype=torch.float64)
    return Jacobian((M, P), blocks), torch.cat([factor * first, gap, other * last], 1)


@pytest.mark.parametrize("rows", [slice(None), slice(2, 5), slice(5, 99), slice(3, 3)])
def test_rows_are_those_of_the_whole_matrix(both, rows):
    jacobian, whole = both
    assert len(jacobian) == M and jacobian.shape == whole.shape
    assert torch.allclose(jacobian[rows], whole[rows], rtol=1e-14, atol=0.0)
    assert jacobian[rows].shape == whole[rows].shape


def test_weights_multiply_rows_and_leave_the_first_alone(both):
    jacobian, whole = both
    weight = torch.arange(1.0, M + 1.0, dtype=torch.float64)
    assert torch.allclose(jacobian.weighted(weight)[1:4], (weight[:, None] * whole)[1:4], rtol=1e-14)
    assert torch.allclose(jacobian[:], whole, rtol=1e-14)
