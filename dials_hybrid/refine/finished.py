"""A finished refinement without the waves: what another machine sends back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.data import Observations
from dials_hybrid.model.simulation import RockingSums, silent
from dials_hybrid.refine.absolute_structure import Hands
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.joint_fit import Fit
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.state import Inputs, Settings, State

_SAME_INPUTS = ("hkl", "row", "intensity", "sigma", "angle")


@dataclass(frozen=True)
class Finished:
    """An `Outcome`, its model as the numbers in `state`, and how it was reached."""

    state: State
    fit: Fit
    names: tuple[str, ...]  # of the independent parameters of the structure
    start: Tensor  # of the inputs, see `Inputs.start`
    observations: Observations
    settings: Settings
    seconds: dict[str, float]  # stage -> time
    versions: dict[str, str]  # program -> version
    figures: dict  # R values and counts, for those who open the file
    hands: Hands | None

    @classmethod
    def of(cls, outcome: Outcome, inputs: Inputs, **others) -> Finished:
        """What `outcome` of a refinement of `inputs` holds, without the sums over rocking steps."""
        evaluation = outcome.fit.evaluation
        sums = RockingSums(evaluation.sums.intensity[:0])
        return cls(
            state=outcome.state,
            fit=replace(outcome.fit, evaluation=replace(evaluation, sums=sums)),
            names=tuple(inputs.names),
            start=inputs.start(),
            observations=outcome.hybrid.dataset.observations,
            hands=outcome.hands,
            **others,
        )

    def differs_from(self, inputs: Inputs) -> str | None:
        """What makes `inputs` others than those that were refined; None: nothing."""
        used, given = self.observations, inputs.measurement.dataset(1.0, 1).observations
        if self.names != tuple(inputs.names):
            return "another structure"
        start = inputs.start()
        if self.start.shape != start.shape or not torch.allclose(self.start, start):
            return "another start model or orientation"
        if len(used) != len(given) or not all(
            torch.allclose(getattr(used, name).double(), getattr(given, name).double())
            for name in _SAME_INPUTS
        ):
            return "other reflections"
        return None

    def outcome(self, inputs: Inputs) -> Outcome:
        """The outcome again, on this machine's CPU; `inputs` are those that were refined."""
        build = Builder(inputs, replace(self.settings, device="cpu", nproc=1), silent)
        dataset = build.dataset(self.state.thickest, self.settings.mosaic_points)
        rose = self.figures.get("r1_free_rose")
        hybrid = build.hybrid(dataset, self.state)
        return Outcome(self.state, hybrid, self.fit, self.hands, tuple(rose) if rose else None)
