"""Measurements that a known crystal would give: a model's intensities with the noise of counting.

The noise is that of electrons: n follows a Poisson distribution with mean (I_calc + b) / q, where b is
the background under the reflection and q the number of detector counts an electron makes. An integrator
that knows b and q reports

    I = q n - b,     sigma^2 = q^2 max(n, 1).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from dials_hybrid.data import Observations
from dials_hybrid.model.hybrid import Hybrid


def simulate_observations(
    hybrid: Hybrid, *, background: float = 0.0, gain: float = 1.0, seed: int = 0
) -> Observations:
    """The observations of `hybrid` with intensities counted instead of measured.

    Args:
        hybrid: the truth: structure, orientation, thickness, and a scale that makes intensities counts.
        background: b, expected counts under each reflection.
        gain: q, counts an electron.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    expected = (hybrid.evaluate().intensity.cpu() + background) / gain
    electrons = torch.poisson(expected, generator=generator)
    observations = hybrid.dataset.observations
    return replace(
        observations,
        intensity=(gain * electrons - background).to(observations.intensity),
        sigma=(gain * electrons.clamp(min=1.0).sqrt()).to(observations.sigma),
    )
