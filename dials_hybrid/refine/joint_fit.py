"""Least squares over the blocks of a `Hybrid` model, and the figures of each cycle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.model.hybrid import BLOCKS, Evaluation, Hybrid
from dials_hybrid.model.simulation import RockingSums
from dials_hybrid.refine.least_squares import Linearisation, Prior, Step, covariance, minimise
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.target import Target


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

    evaluation: Evaluation
    covariance: Tensor  # (P, P), scaled by the square of the goodness of fit
    goodness_of_fit: float
    n_parameters: float  # effective number: a parameter held by its prior counts less than one
    converged: bool


class JointFit:
    """Refines a hybrid model in place.

    Args:
        hybrid: the model.
        instability: of the weights, see `Target`.
        outlier_cutoff: of its robust weights; None for none.
        origin_shifts: directions (D, P_crystal) of the crystal's parameters that are not determined.
    """

    def __init__(
        self,
        hybrid: Hybrid,
        instability: float,
        outlier_cutoff: float | None,
        origin_shifts: Tensor,
    ):
        self.hybrid = hybrid
        self.plain_target = Target.of(hybrid.dataset.observations, instability)
        self.target = self.plain_target
        self.outlier_cutoff = outlier_cutoff
        self.origin_shifts = origin_shifts

    def set_scale(self) -> None:
        """Start the scale at its best common value, in closed form.

        Raises:
            ValueError: there is no positive one.
        """
        intensity = self.hybrid.evaluate().intensity
        factor = float(self.target.best_scale(intensity))
        if not (math.isfinite(factor) and factor > 0.0):
            raise ValueError(
                "calculated and observed intensities do not correlate: is this the right structure?"
            )
        with torch.no_grad():
            self.hybrid.scale.log_scale += math.log(factor)

    def refine(
        self,
        blocks: tuple[str, ...] = BLOCKS,
        *,
        stage: str,
        max_cycles: int,
        tolerance: float,
        on_cycle: Callable[[Cycle], None],
    ) -> Fit:
        """Refine these blocks together; `on_cycle` is called after each cycle."""

        structure = "crystal" in blocks
        sums: RockingSums | None = None

        def evaluate(fresh: bool) -> Evaluation:
            nonlocal sums
            if fresh:
                evaluation = self.hybrid.evaluate(derivatives=True, structure=structure)
                sums = evaluation.sums
                return evaluation
            intensity = self.hybrid.evaluate().sums.intensity
            return self.hybrid.recombine(replace(sums, intensity=intensity))

        return self._minimise(evaluate, blocks, stage, max_cycles, tolerance, on_cycle)

    def refine_without_propagation(self, *, stage: str, max_cycles: int, tolerance: float) -> Fit:
        """Refine thickness and scale, the rest held: intensities are linear in p(t)."""
        sums = self.hybrid.evaluate(derivatives=True, structure=False).sums
        return self._minimise(
            lambda fresh: self.hybrid.recombine(sums),
            ("thickness", "scale"),
            stage,
            max_cycles,
            tolerance,
            lambda cycle: None,
        )

    def _prior(self, start: Linearisation) -> Prior:
        """The priors of all blocks, on the scale of the residuals.

        Sigmas of electron data are too small and residuals too large; priors must not pay for that.
        """
        variance = float((start.residuals**2).sum()) / max(1, self.target.n_work)
        centre, sigma = self.hybrid.prior()
        directions = centre.new_zeros(len(self.origin_shifts), len(centre))
        directions[:, self.hybrid.slices()["crystal"]] = self.origin_shifts.to(directions)
        return Prior(centre, sigma / math.sqrt(variance), directions)

    def _minimise(self, evaluate, blocks, stage, max_cycles, tolerance, on_cycle) -> Fit:
        active = torch.zeros_like(self.hybrid.vector(), dtype=torch.bool)
        for name, part in self.hybrid.slices().items():
            active[part] = name in blocks

        start = self.hybrid.vector()

        def linearise(x: Tensor, fresh: bool) -> Linearisation:
            self.hybrid.load_vector(x)
            evaluation = evaluate(fresh)
            if x is start and self.outlier_cutoff is not None:
                self.target = self.plain_target.robust(evaluation.intensity, self.outlier_cutoff)
            weight = self.target.root_weight
            return Linearisation(
                self.target.residuals(evaluation.intensity),
                weight[:, None] * evaluation.jacobian,
                evaluation,
            )

        steps = minimise(
            linearise,
            start,
            self._prior,
            active=active,
            max_cycles=max_cycles,
            tolerance=tolerance,
        )
        for number, step in enumerate(steps, start=1):
            fit = self._fit(step, active)
            if number == 1 or step.shift.any():
                on_cycle(self._cycle(stage, number, step, fit))
        self.hybrid.load_vector(step.x)
        return fit

    def _fit(self, step: Step, active: Tensor) -> Fit:
        inverse = covariance(step.normal_matrix, active)
        j = step.linearisation.jacobian
        n_parameters = float((inverse * (j.T @ j)).sum())
        freedom = max(1.0, self.target.n_work - n_parameters)
        variance = step.chi_squared / freedom
        return Fit(
            evaluation=step.linearisation.model,
            covariance=variance * inverse,
            goodness_of_fit=math.sqrt(variance),
            n_parameters=n_parameters,
            converged=step.converged,
        )

    def _cycle(self, stage: str, number: int, step: Step, fit: Fit) -> Cycle:
        observations = self.hybrid.dataset.observations
        calculated = fit.evaluation.intensity
        pooled = r_values(observations.intensity, observations.sigma, calculated)
        free = observations.free
        held_out = r_values(observations.intensity[free], observations.sigma[free], calculated[free])
        uncertainty = torch.diagonal(fit.covariance).clamp(min=0.0).sqrt()
        ratio = torch.where(uncertainty > 0.0, step.shift.abs() / uncertainty, 0.0)
        of_structure = ratio[self.hybrid.slices()["crystal"]]
        return Cycle(
            stage=stage,
            number=number,
            r1_obs=pooled.r1_obs,
            r1_all=pooled.r1_all,
            wr_all=pooled.wr_all,
            r1_free=held_out.r1_obs,
            goodness_of_fit=fit.goodness_of_fit,
            thickness_mean=self.hybrid.mean_thickness(fit.evaluation),
            largest_shift=float((of_structure if of_structure.any() else ratio).max()),
        )
