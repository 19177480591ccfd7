"""Least squares over the blocks of a `Hybrid` model, and the figures of each cycle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dials_hybrid.data import Restraints
from dials_hybrid.model.hybrid import BLOCKS, Evaluation, Hybrid
from dials_hybrid.model.simulation import RockingSums
from dials_hybrid.refine.contributions import Contribution, contributions
from dials_hybrid.refine.error_model import ErrorModel
from dials_hybrid.refine.least_squares import (
    Linearisation,
    Prior,
    Step,
    covariance,
    minimise,
    no_smaller,
    sandwich,
)
from dials_hybrid.refine.restraints import restraint_rows
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.target import Target, Weighting

_RELAXING = 5  # cycles
_SMALL_GAIN = 0.99  # of the objective that is left
_SMALL_SHIFT = 0.05  # in s.u.s: what is left to do does not count


@dataclass(frozen=True)
class Cycle:
    """One line of the table that a refinement prints."""

    stage: str
    number: int
    r1_obs: float
    r1_all: float
    wr_all: float
    r1_free: float  # observed reflections of the free set; nan without one
    goodness_of_fit: float
    thickness_mean: float  # [A]
    largest_shift: float  # in s.u.s; of the structure where it is refined, else of all parameters


@dataclass(frozen=True)
class Fit:
    """Where a stage ended."""

    evaluation: Evaluation  # without derivatives
    covariance: Tensor  # (P, P), from the scatter of the residuals
    goodness_of_fit: float  # 1 where the error model describes the residuals
    n_parameters: float  # effective number: a parameter held by its prior counts less than one
    converged: bool  # another cycle would shift nothing by more than a twentieth of its s.u.
    shift_left: float  # that of another cycle, as `Cycle.largest_shift`
    target: Target
    log_likelihood: float  # of the work reflections, under the error model
    contributions: tuple[Contribution, ...] = ()  # of each crystal; none where the structure waits


class JointFit:
    """Refines a hybrid model in place.

    Args:
        hybrid: the model.
        weighting: what decides the weights.
        origin_shifts: directions (D, P_crystal) of the crystal's parameters that are not determined.
        restraints: on the atoms.
    """

    def __init__(
        self,
        hybrid: Hybrid,
        weighting: Weighting,
        origin_shifts: Tensor,
        restraints: Restraints | None = None,
    ):
        self.hybrid = hybrid
        self.weighting = weighting
        self.target = Target.of(hybrid.dataset.observations, ErrorModel())
        self.origin_shifts = origin_shifts
        self.restraints = restraints

    def set_scale(self) -> RockingSums:
        """Start the scale at its best common value, in closed form; gives the sums it was found with.

        Raises:
            ValueError: there is no positive one.
        """
        evaluation = self.hybrid.evaluate()
        factor = float(self.target.best_scale(evaluation.intensity))
        if not (math.isfinite(factor) and factor > 0.0):
            raise ValueError(
                "calculated and observed intensities do not correlate: is this the right structure?"
            )
        with torch.no_grad():
            self.hybrid.scale.constant.add_(math.log(factor))
        return evaluation.sums

    def refine(
        self,
        blocks: tuple[str, ...] = BLOCKS,
        *,
        stage: str,
        max_cycles: int,
        tolerance: float,
        on_cycle: Callable[[Cycle], None],
        small_cycles: float = math.inf,
    ) -> Fit:
        """Refine these blocks together; `on_cycle` is called after each cycle.

        It ends with a cycle that gains little, where another would shift nothing by a twentieth of its s.u.
        """

        structure = "crystal" in blocks
        sums: RockingSums | None = None

        def evaluate(fresh: bool) -> Evaluation:
            nonlocal sums
            if fresh:
                evaluation = self.hybrid.evaluate(derivatives=True, structure=structure)
                sums = evaluation.sums
                return evaluation
            assert sums is not None  # the first call is a fresh one
            intensity = self.hybrid.evaluate().sums.intensity
            return self.hybrid.recombine(replace(sums, intensity=intensity), derivatives=True)

        return self._minimise(
            evaluate,
            blocks,
            stage,
            on_cycle,
            max_cycles=max_cycles,
            tolerance=tolerance,
            small_cycles=small_cycles,
        )

    def refine_thickness(
        self, sums: RockingSums, target: Target | None = None, *, max_cycles: int, tolerance: float
    ) -> Fit:
        """Refine thickness and scale without propagation: intensities are linear in p(t).

        Args:
            sums: with the structure and orientation that are held.
            target: None for one by the weighting, at the start.
        """
        return self._minimise(
            lambda fresh: self.hybrid.recombine(sums, derivatives=True),
            ("thickness", "scale"),
            "thickness",
            lambda cycle: None,
            target,
            max_cycles=max_cycles,
            tolerance=tolerance,
        )

    def _prior(self, start: Linearisation) -> Prior:
        """The priors of all blocks, on the scale of the residuals.

        Sigmas of electron data are too small and residuals too large; priors must not pay for that.
        """
        variance = float((start.residuals**2).sum()) / max(1, self.target.n_work)
        centre, sigma = self.hybrid.prior()
        directions = centre.new_zeros(len(self.origin_shifts), len(centre))
        directions[:, self.hybrid.structure] = self.origin_shifts.to(directions)
        restraints = self._restrained(self.restraints, variance) if self.restraints else None
        return Prior(centre, sigma / math.sqrt(variance), directions, restraints)

    def _restrained(self, restraints: Restraints, variance: float) -> Callable[[Tensor], Linearisation]:
        """Residuals of restraints and their derivatives by all parameters."""
        crystal, part = self.hybrid.crystal, self.hybrid.structure

        def restrained(x: Tensor) -> Linearisation:
            rows = restraint_rows(restraints, crystal.atoms_at(x[part]))
            jacobian = x.new_zeros(len(rows.residuals), len(x))
            jacobian[:, part] = rows.by(crystal.jacobian)
            return Linearisation(math.sqrt(variance) * rows.residuals, math.sqrt(variance) * jacobian)

        return restrained

    def _minimise(
        self,
        evaluate: Callable[[bool], Any],
        blocks: tuple[str, ...],
        stage: str,
        on_cycle: Callable[[Cycle], None],
        target: Target | None = None,
        *,
        max_cycles: int,
        tolerance: float,
        small_cycles: float = math.inf,
    ) -> Fit:
        active = torch.zeros_like(self.hybrid.vector(), dtype=torch.bool)
        for name, part in self.hybrid.slices().items():
            active[part] = name in blocks

        start, costly = self.hybrid.vector(), "orientation" in blocks

        def linearise(x: Tensor, fresh: bool) -> Linearisation:
            self.hybrid.load_vector(x)
            evaluation = evaluate(fresh)
            if x is start:
                observations = self.hybrid.dataset.observations
                self.target = target or self.weighting.target(observations, evaluation.intensity)
            return self._weighted(evaluation)

        steps = minimise(
            linearise,
            start,
            self._prior,
            active=active,
            max_cycles=max_cycles,
            small_cycles=small_cycles,
            tolerance=tolerance,
            relax=self._relaxed if costly else self._rescaled,
        )
        before = math.inf
        for number, step in enumerate(steps, start=1):
            fit = self._fit(step, active)
            if number == 1 or step.shift.any():
                self.hybrid.load_vector(step.x)  # the last one tried may have been worse
                on_cycle(self._cycle(stage, number, step, fit))
            if costly and fit.converged and before > step.objective > _SMALL_GAIN * before:
                break
            before = step.objective
        self.hybrid.load_vector(step.x)
        if "crystal" in blocks:
            fit = replace(fit, contributions=self._contributions(step, active))
        return fit

    def _weighted(self, evaluation: Evaluation) -> Linearisation:
        assert evaluation.jacobian is not None
        return Linearisation(
            self.target.residuals(evaluation.intensity),
            evaluation.jacobian.weighted(self.target.root_weight),
            evaluation,
        )

    def _relaxed(self, x: Tensor, at: Linearisation, prior: Prior) -> tuple[Tensor, Linearisation]:
        """Thickness and scale at their best, all else at x: no propagation is needed for that."""
        sums = RockingSums(at.model.sums.intensity)

        def linearise(x: Tensor, fresh: bool) -> Linearisation:
            self.hybrid.load_vector(x)
            return self._weighted(self.hybrid.recombine(sums, derivatives=True))

        active = torch.zeros_like(x, dtype=torch.bool)
        for name in ("thickness", "scale"):
            active[self.hybrid.slices()[name]] = True
        *_, step = minimise(
            linearise,
            x,
            lambda start: prior,
            active=active,
            max_cycles=_RELAXING,
            relax=self._rescaled,
        )
        self.hybrid.load_vector(step.x)
        return step.x, self._weighted(self.hybrid.recombine(at.model.sums, derivatives=True))

    def _rescaled(self, x: Tensor, at: Linearisation, prior: Prior) -> tuple[Tensor, Linearisation]:
        """One scale for all at its best, all else at x."""
        factor = float(self.target.best_scale(at.model.intensity))
        if not factor > 0.0:
            return x, at
        self.hybrid.load_vector(x)
        with torch.no_grad():
            self.hybrid.scale.constant.add_(math.log(factor))
        return self.hybrid.vector(), self._weighted(self.hybrid.recombine(at.model.sums, derivatives=True))

    def _contributions(self, step: Step, active: Tensor) -> tuple[Contribution, ...]:
        hybrid, prior = self.hybrid, step.normal_matrix - step.data_matrix
        inverse = covariance(step.normal_matrix, active)
        crystal = hybrid.dataset.observations.crystal
        return contributions(step.linearisation, crystal, self.target, inverse, prior, hybrid.structure)

    def _fit(self, step: Step, active: Tensor) -> Fit:
        assert step.remaining is not None  # of the steps that `minimise` gives
        evaluation, at = step.linearisation.model, step.linearisation
        data, prior = step.data_matrix, step.normal_matrix - step.data_matrix
        inverse = covariance(step.normal_matrix, active)
        n_parameters = float((inverse * data).sum())
        freedom = max(1.0, self.target.n_work - n_parameters)
        variance = step.chi_squared / freedom / self.target.expected()
        inverse = covariance(self.target.slope() * data + prior, active)
        robust = sandwich(inverse, at, self.target.share, variance * prior)
        uncertainties = no_smaller(robust, variance * self.target.score_variance() * inverse)
        shift_left = self._largest(step.remaining, uncertainties)
        return Fit(
            evaluation=replace(evaluation, sums=RockingSums(evaluation.sums.intensity), jacobian=None),
            covariance=uncertainties,
            goodness_of_fit=math.sqrt(variance),
            n_parameters=n_parameters,
            converged=step.converged or shift_left < _SMALL_SHIFT,
            shift_left=shift_left,
            target=self.target,
            log_likelihood=self.target.log_likelihood(evaluation.intensity),
        )

    def _largest(self, shift: Tensor, uncertainties: Tensor) -> float:
        """Largest shift in s.u.s; of the structure where it is refined, else of all parameters."""
        uncertainty = torch.diagonal(uncertainties).clamp(min=0.0).sqrt()
        ratio = torch.where(uncertainty > 0.0, shift.abs() / uncertainty, 0.0)
        of_structure = ratio[self.hybrid.structure]
        return float((of_structure if of_structure.any() else ratio).max())

    def _cycle(self, stage: str, number: int, step: Step, fit: Fit) -> Cycle:
        observations = self.hybrid.dataset.observations
        calculated = fit.evaluation.intensity
        pooled = r_values(observations.intensity, observations.sigma, calculated)
        free = observations.free
        held_out = r_values(observations.intensity[free], observations.sigma[free], calculated[free])
        return Cycle(
            stage=stage,
            number=number,
            r1_obs=pooled.r1_obs,
            r1_all=pooled.r1_all,
            wr_all=pooled.wr_all,
            r1_free=held_out.r1_obs,
            goodness_of_fit=fit.goodness_of_fit,
            thickness_mean=self.hybrid.mean_thickness(fit.evaluation),
            largest_shift=self._largest(step.shift, fit.covariance),
        )
