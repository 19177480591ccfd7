"""The stages of a refinement, from a thickness scan to the final cycles.

    scan         plates, wedges and normal distributions of thickness; nothing is refined
    orientation  tilts, mosaic spread, thickness and scale; the structure waits
    joint        everything together
    neural       the network takes over the thickness distribution; everything together
    final        the last cycles in double precision, and the covariance matrix

Each stage starts from the numbers in `State` alone, so that a run resumed from a checkpoint ends
where an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dials_hybrid.data import Dataset
from dials_hybrid.model.hybrid import BLOCKS, Hybrid
from dials_hybrid.model.simulation import Progress, silent
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.joint_fit import Cycle, Fit, JointFit
from dials_hybrid.refine.state import STAGES, Inputs, Settings, State
from dials_hybrid.refine.target import Target
from dials_hybrid.refine.thickness_scan import ThicknessScan, scan_thickness

_BLOCKS = {"orientation": ("orientation", "thickness", "scale")}
_CYCLES = {"orientation": 4, "final": 2}
_TOLERANCE = {"final": 0.05}  # times that of the other stages


@dataclass(frozen=True)
class Outcome:
    """The refined model."""

    state: State
    hybrid: Hybrid
    fit: Fit


class Protocol:
    """Runs the stages.

    Args:
        inputs: data and structure.
        settings: see `Settings`.
        on_stage: called with the name of a stage as it starts.
        on_model: called once with the model, before anything is refined.
        on_cycle: called after each cycle.
        on_checkpoint: called with the state after each stage.
        progress: wraps long loops, to show them.
    """

    def __init__(
        self,
        inputs: Inputs,
        settings: Settings,
        *,
        on_stage: Callable[[str], None] = lambda stage: None,
        on_model: Callable[[Hybrid], None] = lambda hybrid: None,
        on_cycle: Callable[[Cycle], None] = lambda cycle: None,
        on_checkpoint: Callable[[State], None] = lambda state: None,
        progress: Progress = silent,
    ):
        self.inputs = inputs
        self.settings = settings
        self.build = Builder(inputs, settings, progress)
        self.on_stage = on_stage
        self.on_model = on_model
        self.on_cycle = on_cycle
        self.on_checkpoint = on_checkpoint

    def run(self, state: State | None = None) -> Outcome:
        """Run the stages that `state` has not been through."""
        if state is None:
            self.on_stage("scan")
            state = self._scan()
            self.on_checkpoint(state)
        dataset = self.build.dataset(state.grid[0], self.settings.mosaic_points)
        hybrid = self.build.hybrid(dataset, state)
        self.on_model(hybrid)
        if state.vector is None:
            self._joint_fit(hybrid).set_scale()
        fit = None
        for stage in self._remaining(state.stage):
            self.on_stage(stage)
            if stage == "neural":
                hybrid, state = self._hand_over_to_network(hybrid, state)
            fit, cycles = self._refine(hybrid, stage)
            state = replace(
                state,
                stage=stage,
                vector=hybrid.vector().tolist(),
                history=[*state.history, *cycles],
            )
            self.on_checkpoint(state)
        if fit is None:
            fit, _ = self._refine(hybrid, "final", max_cycles=0)
        return Outcome(state, hybrid, fit)

    def _remaining(self, done: str) -> list[str]:
        neural = self.settings.thickness_model == "neural"
        later = STAGES[STAGES.index(done) + 1 :]
        return [stage for stage in later if neural or stage != "neural"]

    def _joint_fit(self, hybrid: Hybrid) -> JointFit:
        settings = self.settings
        return JointFit(hybrid, settings.instability, settings.outlier_cutoff, self.inputs.origin_shifts)

    def _refine(self, hybrid: Hybrid, stage: str, max_cycles: int | None = None) -> tuple[Fit, list[Cycle]]:
        hybrid.dtype = torch.float64 if stage == "final" else torch.float32
        hybrid.update_beams()
        cycles: list[Cycle] = []

        def on_cycle(cycle: Cycle) -> None:
            cycles.append(cycle)
            self.on_cycle(cycle)

        if max_cycles is None:
            max_cycles = min(_CYCLES.get(stage, math.inf), self.settings.max_cycles)
        fit = self._joint_fit(hybrid).refine(
            _BLOCKS.get(stage, BLOCKS),
            stage=stage,
            max_cycles=max_cycles,
            tolerance=self.settings.tolerance * _TOLERANCE.get(stage, 1.0),
            on_cycle=on_cycle,
        )
        return fit, cycles

    def _hand_over_to_network(self, hybrid: Hybrid, state: State) -> tuple[Hybrid, State]:
        """Put the network in place of the model refined so far, which becomes its p_0(t)."""
        start = [model(hybrid.conditions[0]).detach().tolist() for model in hybrid.thickness]
        blocks = hybrid.slices()
        before = hybrid.vector()
        blank = replace(state, thickness_model="neural", thickness_start=start, vector=None)
        network = self.build.hybrid(hybrid.dataset, blank)
        x = network.vector()
        for name, part in network.slices().items():
            if name != "thickness":
                x[part] = before[blocks[name]]
        state = replace(blank, vector=x.tolist())
        network.load_vector(x)
        self._joint_fit(network).refine_without_propagation(stage="neural", max_cycles=30, tolerance=1e-4)
        return network, state

    def _scan(self) -> State:
        """Scan up to 2000 A, or twice as far when the data ask for more."""
        maximum = self.settings.thickness_maximum
        for limit in [maximum] if maximum else [2000.0, 4000.0]:
            dataset = self.build.dataset(limit, 1)
            scan = self._scan_up_to(limit, dataset)
            if not scan.at_bound:
                break
        if maximum is None:
            maximum = min(limit, 50.0 * math.ceil(1.6 * scan.best["wedge"][0] / 50.0))
        name = self.settings.thickness_model
        name = "normal" if name == "neural" else name
        return State(
            stage="scan",
            scan=scan,
            grid=(maximum, self.build.n_nodes(dataset, maximum)),
            thickness_model=name,
            thickness_start=[scan.best[name]] * dataset.steps.n_crystals,
        )

    def _scan_up_to(self, maximum: float, dataset: Dataset) -> ThicknessScan:
        blank = State(
            stage="scan",
            scan=None,
            grid=(maximum, self.build.n_nodes(dataset, maximum)),
            thickness_model="flat",
            thickness_start=[[maximum / 2.0]] * dataset.steps.n_crystals,
        )
        hybrid = self.build.hybrid(dataset, blank, mosaic=False)
        target = Target.of(dataset.observations, self.settings.instability)
        return scan_thickness(hybrid.evaluate().sums.intensity, hybrid.grid, target)
