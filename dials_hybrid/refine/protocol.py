"""The stages of a refinement, from a thickness scan to the final cycles.

    scan         plates, wedges and normal distributions of thickness; nothing is refined
    orientation  tilts, mosaic spread, thickness and scale; the structure waits
    joint        everything together; once more with the mosaic spread back at its start where that fits
                 better, and with U made isotropic where they are not positive
    thickness    another model takes over the thickness distribution; all else waits
    final        everything together, in finer rocking steps and with absorption where that is wanted, which
                 the stages before do without; the covariance matrix, and intensities in double precision
    hand         of a chiral structure: the other hand, to see which one the data prefer

With atoms that are far off, the scan finds a wrong thickness, often the thickest, which blurs everything.
Where the structure after "joint" or "final" prefers another, all begins anew with it, from the scan.

Each stage starts from the numbers in `State` alone, so that a run resumed from a checkpoint ends
where an uninterrupted one does. There is no checkpoint after the last stage: a finished run that is
resumed repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.data import Dataset
from dials_hybrid.model.hybrid import BLOCKS, Hybrid
from dials_hybrid.model.simulation import Progress, silent
from dials_hybrid.refine.absolute_structure import Hands, compare, is_chiral, other_hand
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.displacements import isotropic_instead
from dials_hybrid.refine.error_model import ErrorModel
from dials_hybrid.refine.free_set import unique_reflections
from dials_hybrid.refine.joint_fit import Cycle, Fit, JointFit
from dials_hybrid.refine.rvalues import observed
from dials_hybrid.refine.state import STAGES, Inputs, Settings, State
from dials_hybrid.refine.target import Target, Weighting
from dials_hybrid.refine.thickness_choice import Candidate, in_doubt
from dials_hybrid.refine.thickness_scan import ThicknessScan, grid_maximum, scan_thickness
from dials_hybrid.refine.thickness_stage import TRIAL_CYCLES, change_model, prefers_another, starts, widened

_BLOCKS = {"orientation": ("orientation", "thickness", "scale")}
_CYCLES = {"orientation": 4, "hand": 5, "given": 0}
_SMALL_CYCLES = {"orientation": 1, "joint": 1, "final": 3, "hand": 1}  # which gain little
_MOST_STARTS = 4  # the first included
_GROWN = 2.0  # times the start: a mosaic spread worth a look at the start again
_POOR, _MORE_ROUNDS = 0.12, 3  # R1_obs of the joint stage with which it goes on
_TOLERANCE = {"joint": 10.0, "final": 0.05}  # times that of the settings: `final` goes on where `joint` ends
_DESCRIBED = (0.8, 1.25)  # goodness of fit where the error model is right


@dataclass(frozen=True)
class Outcome:
    """The refined model."""

    state: State
    hybrid: Hybrid
    fit: Fit
    hands: Hands | None = None  # of a chiral structure, where wanted
    # R1_free before and after the structure was refined, where that made it worse: this is the model before.
    rose: tuple[float, float] | None = None


class Protocol:
    """Runs the stages.

    Args:
        inputs: data and structure.
        settings: see `Settings`.
        on_stage: called with the name of a stage as it starts.
        on_model: called once with the model, before anything is refined.
        on_cycle: called after each cycle.
        on_comparison: called with the thickness models that were compared.
        on_checkpoint: called with the state after each stage but the last.
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
        on_comparison: Callable[[list[Candidate]], None] = lambda candidates: None,
        on_checkpoint: Callable[[State], None] = lambda state: None,
        progress: Progress = silent,
    ):
        self.inputs = inputs
        self.settings = settings
        self.build = Builder(inputs, settings, progress)
        self.rough = Builder(inputs, settings, progress, rough=True)
        self.on_stage = on_stage
        self.on_model = on_model
        self.on_cycle = on_cycle
        self.on_comparison = on_comparison
        self.on_checkpoint = on_checkpoint
        self.reached: list[float] = []  # parameters after the last cycle

    def run(self, state: State | None = None) -> Outcome:
        """Run the stages that `state` has not been through."""
        if state is None:
            self.on_stage("scan")
            state = self._scan()
            self.on_checkpoint(state)
        fit = None
        hybrid = self._model(self.rough, state)
        self.on_model(hybrid)
        stages = list(STAGES[STAGES.index(state.stage) + 1 :])
        while stages:
            stage = stages.pop(0)
            if stage == "thickness" and not self._changes_model:
                continue
            self.on_stage(stage)
            if stage == "final":
                state = replace(state, reach=hybrid.reach())
                hybrid = self._model(self.build, state)
            if stage == "orientation":
                hybrid, state, fit, cycles = self._orientation(hybrid, state)
            elif stage == "thickness":
                hybrid, state, candidates = change_model(
                    self.rough, self._joint_fit, hybrid, state, self.settings.thickness_model
                )
                cycles = []
                if candidates:
                    self.on_comparison(candidates)
            else:
                fit, cycles = self._interruptible(hybrid, state, stage)
            state = replace(
                state,
                stage=stage,
                vector=hybrid.vector().tolist(),
                history=[*state.history, *cycles],
            )
            if stage == "orientation" and state.given is None:
                state = replace(state, given=state)
            anew = self._anew(hybrid, state, fit) if stage in ("joint", "final") and fit else None
            if anew:
                hybrid, state = anew
                stages = list(STAGES[1:])
            elif stage == "joint" and fit:
                hybrid, state = widened(self.rough, hybrid, fit, state)
            elif stage == "final" and fit and not state.chosen_again and in_doubt(state.comparison):
                hybrid, state = self._choose_again(hybrid, fit, replace(state, chosen_again=True))
                stages = [] if state.stage == stage else [stage]
            if state.stage != STAGES[-1]:
                self.on_checkpoint(state)
        assert fit is not None  # of the last stage
        rose = _risen(state, hybrid)
        if rose and state.given:
            state = replace(state.given, stage=state.stage, history=state.history, reach=state.reach)
            hybrid = self._model(self.build, state)
            self.on_stage("given")
            fit, _ = self._refine(hybrid, "given")
            return Outcome(state, hybrid, fit, rose=rose)
        return Outcome(state, hybrid, fit, self._compare_hands(hybrid, state, fit))

    def _choose_again(self, hybrid: Hybrid, fit: Fit, state: State) -> tuple[Hybrid, State]:
        """The thickness model once more, with the refined structure; another one is for the last stage."""
        self.on_stage("thickness")
        arguments = self.settings.thickness_model, fit.evaluation
        model, after, candidates = change_model(self.build, self._joint_fit, hybrid, state, *arguments)
        self.on_comparison(candidates)
        if after.thickness_model == state.thickness_model:
            return hybrid, replace(state, comparison=candidates)
        return model, replace(after, stage="thickness")

    def _interruptible(self, hybrid: Hybrid, state: State, stage: str) -> tuple[Fit, list[Cycle]]:
        """Refine; after Ctrl-C the checkpoint has the last cycle, from which the stage begins anew."""
        self.reached = []
        try:
            return self._refine(hybrid, stage)
        except KeyboardInterrupt:
            if self.reached:
                self.on_checkpoint(replace(state, vector=self.reached))
            raise

    def _model(self, build: Builder, state: State) -> Hybrid:
        return build.hybrid(build.dataset(state.thickest, self.settings.mosaic_points), state)

    def _compare_hands(self, hybrid: Hybrid, state: State, fit: Fit) -> Hands | None:
        """Refine the other hand from where the given one ended."""
        if not (self.settings.absolute_structure and is_chiral(self.inputs.atoms)):
            return None
        self.on_stage("hand")
        other = Protocol(other_hand(self.inputs), self.settings, on_cycle=self.on_cycle)
        other_fit, _ = other._refine(other.build.hybrid(hybrid.dataset, state), "hand")
        intensities = fit.evaluation.intensity, other_fit.evaluation.intensity
        return compare(hybrid.dataset.observations, *intensities)

    @property
    def _changes_model(self) -> bool:
        return self.settings.thickness_model in ("auto", "histogram", "neural")

    def _joint_fit(self, hybrid: Hybrid) -> JointFit:
        settings = self.settings
        numbers = {"gain": settings.gain, "instability": settings.instability, "floor": settings.floor}
        fixed = {name: value for name, value in numbers.items() if value is not None}
        weighting = Weighting(fixed, settings.outlier_cutoff, settings.crystal_weights)
        inputs = self.inputs
        restraints = inputs.restraints and inputs.restraints.to(settings.device)
        return JointFit(hybrid, weighting, inputs.origin_shifts, restraints)

    def _refine(self, hybrid: Hybrid, stage: str) -> tuple[Fit, list[Cycle]]:
        # Single precision leaves 1e-5 in intensities and 1e-4 in their derivatives, and so in s.u.s.
        hybrid.dtype = torch.float32
        hybrid.update_beams()
        cycles: list[Cycle] = []

        def on_cycle(cycle: Cycle) -> None:
            cycles.append(replace(cycle, number=len(cycles) + 1))
            self.reached = hybrid.vector().tolist()
            self.on_cycle(cycles[-1])

        def refine() -> Fit:
            return self._joint_fit(hybrid).refine(
                _BLOCKS.get(stage, BLOCKS),
                stage=stage,
                max_cycles=min(_CYCLES.get(stage, self.settings.max_cycles), self.settings.max_cycles),
                tolerance=self.settings.tolerance * _TOLERANCE.get(stage, 1.0),
                on_cycle=on_cycle,
                small_cycles=_SMALL_CYCLES.get(stage, math.inf),
            )

        fit = refine()
        for _ in range(_MORE_ROUNDS):
            if stage == "joint" and cycles and cycles[-1].r1_obs > _POOR:
                fit = refine()  # slow at first from far away
        others = {"mosaicity": self._narrow, "displacements": _isotropic}
        for name, other in others.items() if stage == "joint" and cycles else ():
            start = other(hybrid, fit)
            if start is not None:
                self.on_stage(name)
                first, count = fit, len(cycles)
                fit = self._better(hybrid, first, start, refine)
                if fit is first:
                    del cycles[count:]
        if stage == "final" and not _DESCRIBED[0] < fit.goodness_of_fit < _DESCRIBED[1]:
            fit = refine()  # the weights were those of where the stage began
        if stage in ("final", "given"):
            fit = replace(fit, evaluation=hybrid.precise())
        return fit, cycles

    def _narrow(self, hybrid: Hybrid, fit: Fit) -> Tensor | None:
        """Parameters with the mosaic spread back at its start, where it has grown and that fits better.

        With wrong atoms a crystal that blurs everything is the better one, and it may stay so.
        """
        mosaic, spread = hybrid.orientation.mosaic, self.settings.mosaic_spread
        if mosaic is None or not (mosaic.abs() > _GROWN * spread).any():
            return None
        before = hybrid.vector()
        with torch.no_grad():
            mosaic.fill_(spread)
        joint_fit, sums = self._joint_fit(hybrid), hybrid.evaluate().sums
        narrow = joint_fit.refine_thickness(sums, fit.target, max_cycles=TRIAL_CYCLES, tolerance=1e-3)
        start = hybrid.vector()
        hybrid.load_vector(before)
        return start if narrow.log_likelihood > fit.log_likelihood else None

    def _better(self, hybrid: Hybrid, fit: Fit, start: Tensor, refine: Callable[[], Fit]) -> Fit:
        """Refine from other parameters, and go back if that ends worse."""
        before = hybrid.vector()
        hybrid.load_vector(start)
        after = refine()
        if after.log_likelihood > fit.log_likelihood:
            return after
        hybrid.load_vector(before)
        self.reached = before.tolist()
        return fit

    def _orientation(self, hybrid: Hybrid, state: State) -> tuple[Hybrid, State, Fit, list[Cycle]]:
        """The stage from each promising thickness; what fits best goes on."""
        sums = self._joint_fit(hybrid).set_scale()
        results = [
            (model, start, *self._refine(model, "orientation"))
            for model, start in starts(self.rough, self._joint_fit, hybrid, sums, state)
        ]
        return max(results, key=lambda result: result[2].log_likelihood)

    def _anew(self, hybrid: Hybrid, state: State, fit: Fit) -> tuple[Hybrid, State] | None:
        """A new start with the structure as refined, where that prefers another thickness.

        The scan on the sums at hand costs nothing; only where it finds one is there a scan on a new grid.
        """
        done = sum(cycle.stage == "joint" and cycle.number == 1 for cycle in state.history)
        chosen = self._changes_model and state.stage == "final"  # then among all of them
        elsewhere, beyond = prefers_another(hybrid, fit, None if chosen else state.thickness_model)
        if done >= _MOST_STARTS or not (elsewhere or beyond):
            return None
        structure = hybrid.vector()[hybrid.structure]
        start = self._scan(structure)
        if not (elsewhere or start.grid[0] > state.grid[0]):
            return None
        self.on_stage("scan")
        model = self._model(self.rough, start)
        _put_structure(model, structure)
        vector = model.vector().tolist()
        return model, replace(
            start,
            vector=vector,
            history=state.history,
            given=state.given,
            chosen_again=state.chosen_again,
        )

    def _scan(self, structure: Tensor | None = None) -> State:
        """Scan up to 2000 A, or twice as far when the data ask for more.

        Args:
            structure: its parameters; None: as given.
        """
        maximum = self.settings.thickness_maximum
        for limit in [maximum] if maximum else [2000.0, 4000.0]:
            dataset = self.rough.dataset(limit, 1)
            scan = self._scan_up_to(limit, dataset, structure)
            if not scan.at_bound:
                break
        if maximum is None:
            maximum = min(limit, grid_maximum(scan))
        name = self.settings.thickness_model
        name = "normal" if self._changes_model else name
        return State(
            stage="scan",
            scan=scan,
            grid=(maximum, self.rough.n_nodes(dataset, maximum)),
            thickness_model=name,
            thickness_start=[scan.best[name]] * dataset.steps.n_crystals,
        )

    def _scan_up_to(self, maximum: float, dataset: Dataset, structure: Tensor | None) -> ThicknessScan:
        blank = State(
            stage="scan",
            scan=None,
            grid=(maximum, self.rough.n_nodes(dataset, maximum)),
            thickness_model="flat",
            thickness_start=[[maximum / 2.0]] * dataset.steps.n_crystals,
        )
        hybrid = self.rough.hybrid(dataset, blank, mosaic=False)
        if structure is not None:
            _put_structure(hybrid, structure)
        target = Target.of(dataset.observations, ErrorModel())
        return scan_thickness(hybrid.evaluate().sums.intensity, hybrid.grid, target)


def _isotropic(hybrid: Hybrid, fit: Fit) -> Tensor | None:
    """Parameters with isotropic displacements in place of those that are not positive; None: all are."""
    shifts = isotropic_instead(hybrid.crystal)
    if shifts is None:
        return None
    x = hybrid.vector()
    x[hybrid.structure] = shifts
    return x


def _put_structure(hybrid: Hybrid, structure: Tensor) -> None:
    x = hybrid.vector()
    x[hybrid.structure] = structure
    hybrid.load_vector(x)
    hybrid.update_beams()


def _risen(state: State, hybrid: Hybrid) -> tuple[float, float] | None:
    """R1_free with the structure as given and at the end, where it has risen.

    The R1 of n unique reflections is uncertain by 1 / sqrt(n) of itself: errors of the model are those of all
    equivalents.
    """
    observations = hybrid.dataset.observations
    counted = observed(observations.intensity, observations.sigma) & observations.free
    group = unique_reflections(observations.hkl, hybrid.crystal.start.rotations)
    n = len(group[counted].unique())
    if not (n and state.given and state.given.history):
        return None
    before, after = state.given.history[-1].r1_free, state.history[-1].r1_free
    return (before, after) if after > (1.0 + 1.0 / math.sqrt(n)) * before else None
