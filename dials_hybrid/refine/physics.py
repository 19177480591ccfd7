"""What the options of the physics do to R1, and what they cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.simulation import silent
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.state import Inputs, Settings


@dataclass(frozen=True)
class Effect:
    """A calculation with one option switched off, all parameters but a common scale as they were refined."""

    without: str  # the option; "" for all as refined
    r1_obs: float
    seconds: float  # of a calculation of all intensities in single precision


def effects(inputs: Inputs, settings: Settings, outcome: Outcome) -> list[Effect]:
    """Without each option in use, the calculation as refined first; empty where none is in use."""
    off = {
        "mosaicity": replace(settings, mosaic_points=1),
        "absorption": replace(settings, absorption=0.0, absorption_restraint=None),
        "overall displacements": replace(settings, n_displacements=0),
        "inclined surface": replace(settings, surface=None),
        "form factors by Lobato & Van Dyck": replace(settings, form_factors="peng"),
    }
    used = {name: (inputs, variant) for name, variant in off.items() if variant != settings}
    if settings.mosaic_points > 1 and inputs.measurement.blurred:
        across = replace(inputs, measurement=inputs.measurement.without_blur())
        used["mosaicity about the rotation axis"] = across, settings
    if not used:
        return []
    return [
        _effect(name, variant, data, outcome)
        for name, (data, variant) in {"": (inputs, settings), **used}.items()
    ]


@torch.no_grad()
def _effect(name: str, settings: Settings, inputs: Inputs, outcome: Outcome) -> Effect:
    builder = Builder(inputs, settings, silent)
    state = replace(outcome.state, vector=None)
    hybrid = builder.hybrid(builder.dataset(state.thickest, settings.mosaic_points), state)
    _take_over(hybrid, outcome.hybrid)
    assert len(hybrid.simulation.tasks)  # the choice of beams is no part of the calculation
    start = time.perf_counter()
    calculated = hybrid.evaluate().intensity
    seconds = time.perf_counter() - start
    observations, factor = hybrid.dataset.observations, outcome.fit.target.best_scale(calculated)
    r1_obs = r_values(observations.intensity, observations.sigma, factor * calculated).r1_obs
    return Effect(name, r1_obs, seconds)


def _take_over(hybrid: Hybrid, refined: Hybrid) -> None:
    """The parameters that both models have."""
    values = dict(refined.named_parameters())
    for name, parameter in hybrid.named_parameters():
        if name in values:
            parameter.copy_(values[name])
    hybrid.update_beams()
