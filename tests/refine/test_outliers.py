"""Observations that the model does not explain are listed, the others are not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_target import observations

from dials_hybrid.refine.error_model import ErrorModel
from dials_hybrid.refine.outliers import goodness_of_input_sigmas, outliers
from dials_hybrid.refine.target import Target

N = 400


@pytest.fixture
def fitted():
    """Residuals of 3 sigmas of the table throughout; 5 and 8 are spoilt, 9 is spoilt and free."""
    generator = torch.Generator().manual_seed(0)
    calculated = 100.0 + 100.0 * torch.rand(N, generator=generator, dtype=torch.float64)
    noise = 6.0 * torch.randn(N, generator=generator, dtype=torch.float64)
    intensity = calculated + noise
    intensity[5], intensity[8], intensity[9] = 900.0, 20.0, 900.0
    data = observations(intensity.tolist(), [2.0] * N, free=[9])
    target = Target.of(data, ErrorModel(gain=3.0, instability=0.0), calculated).robust(calculated, 3.0)
    evaluation = SimpleNamespace(intensity=calculated)
    return data, SimpleNamespace(target=target, evaluation=evaluation, n_parameters=5.0)


def test_outliers_are_listed_from_the_worst(fitted):
    data, fit = fitted
    found = outliers(data, fit)
    assert [item["row"] for item in found] == [5, 8]
    first = found[0]
    assert first["intensity"] == 900.0 and first["sigma"] == pytest.approx(6.0)
    assert first["calculated"] == fit.evaluation.intensity[5].item()
    assert first["weight"] < found[1]["weight"] < 0.25


def test_too_small_sigmas_show(fitted):
    assert goodness_of_input_sigmas(*fitted) == pytest.approx(3.0, rel=0.12)
