"""The data model."""

from __future__ import annotations

import torch

from dials_hybrid.data import Dataset, Observations, RockingSteps

M, K = 5, 12


def dataset() -> Dataset:
    steps = RockingSteps(
        basis=torch.eye(3, dtype=torch.float64).expand(K, 3, 3).clone(),
        weight=torch.full((K,), 0.1, dtype=torch.float64),
        angle=torch.linspace(0, 1, K, dtype=torch.float64),
        crystal=torch.zeros(K, dtype=torch.long),
        frame=torch.full((K,), -1),
        next_frame=torch.full((K,), -1),
        part=torch.zeros(K, dtype=torch.float64),
        mosaic=torch.zeros(K, dtype=torch.float64),
        beam=torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64),
        rotation_axis=torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64),
    )
    observations = Observations(
        hkl=torch.arange(3 * M).reshape(M, 3),
        intensity=torch.arange(M, dtype=torch.float64),
        sigma=torch.ones(M, dtype=torch.float64),
        first=torch.arange(M),
        last=torch.arange(M) + 3,
        crystal=torch.zeros(M, dtype=torch.long),
        angle=torch.linspace(0, 1, M, dtype=torch.float64),
        row=torch.arange(M),
        frame=torch.full((M,), -1),
        share=torch.ones(M, dtype=torch.float64),
        free=torch.zeros(M, dtype=torch.bool),
    )
    return Dataset(steps, observations, 0.0251, M)


def test_precision_changes_floating_point_tensors_only():
    single = dataset().to(dtype=torch.float32)
    assert single.steps.basis.dtype == single.observations.intensity.dtype == torch.float32
    assert single.observations.hkl.dtype == torch.long
    assert single.observations.free.dtype == torch.bool
    assert len(single.steps) == K and single.steps.n_crystals == 1


def test_moving_to_another_device_keeps_the_precision():
    moved = dataset().to("meta")
    assert moved.steps.basis.device.type == moved.observations.hkl.device.type == "meta"
    assert moved.steps.basis.dtype == torch.float64
