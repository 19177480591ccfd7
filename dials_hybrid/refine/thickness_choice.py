r"""Which thickness model the data pay for: cross-validated likelihood, without new wave propagation.

With structure and orientation held, intensities are linear in p(t), so that each model's thickness and
scale can be refined anew against four fifths of the reflections and judged by the others:

    L = sum_m ln p(I_m | model refined without the fold of m),

p being Student's density of the error model, with the same sigma' for all models. Symmetry equivalents
stay in one fold; the free set takes no part. The standard error of a difference in L comes from the
differences of single unique reflections. Of the distributions of one or two numbers the simplest within
one standard error of the best is chosen. A network has to earn its freedom: it takes the place of that
one where it predicts reflections that it has not seen better than each of them, by two standard errors.
A wedge or a normal distribution, whichever is chosen of these two, is what a network or a histogram
starts from. Where the refined structure is asked again, a model less simple than the first choice takes
its place only if that is two standard errors behind the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.simulation import RockingSums
from dials_hybrid.refine.error_model import log_likelihood
from dials_hybrid.refine.joint_fit import Fit, JointFit
from dials_hybrid.refine.prior_widths import learn_widths
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.target import Target

_FOLDS = 5
_NETWORK = "neural"
_CLEARLY = 2.0  # standard errors; with one, networks were now and then chosen for plates
_HARDLY = 0.5  # standard errors by which a network has to be ahead to be worth another look
_ROUNDS = 3  # of weights and priors
_CYCLES, _TOLERANCE = 30, 1e-4


@dataclass(frozen=True)
class Candidate:
    """One line of the comparison."""

    model: str
    n_parameters: float  # effective number, the scale's included
    r1_obs: float  # of reflections as predicted by the fits without them
    r1_free: float  # of the free set, which has no say
    behind: float  # cross-validated log-likelihood of the best model minus this one's
    standard_error: float  # of this difference
    chosen: bool = False


def in_doubt(comparison: list[Candidate]) -> bool:
    """Whether the refined structure may tell another model.

    While atoms are off, a wedge and a normal distribution look alike. So it may where a distribution that
    was not chosen is not clearly behind, or a network ahead, but not clearly.
    """
    if not comparison:
        return False
    best = min(comparison, key=lambda candidate: candidate.behind)
    chosen = next(candidate for candidate in comparison if candidate.chosen)
    if best.model == _NETWORK != chosen.model and chosen.behind > _HARDLY * chosen.standard_error:
        return True
    others = [candidate for candidate in comparison if candidate.model not in (chosen.model, _NETWORK)]
    return any(other.behind <= _CLEARLY * other.standard_error for other in others)


def folds(group: Tensor, seed: int) -> Tensor:
    """Fold (M,) of each observation, the same for all of a group (M,)."""
    order = torch.randperm(int(group.max()) + 1, generator=torch.Generator().manual_seed(seed))
    return order.to(group.device)[group] % _FOLDS


def fit_thickness(fit: JointFit, sums: RockingSums, reference: Target, learn: bool) -> Target:
    """Refine thickness and scale of a new model in place, and the widths of their priors.

    Args:
        reference: gives sigma', and the first robust weights; later ones are those of the model's own fit.
        learn: whether the prior of a network may change too.

    Returns:
        The target that the model was fitted to.
    """
    target = reference
    for _ in range(_ROUNDS):
        found = fit.refine_thickness(sums, target, max_cycles=_CYCLES, tolerance=_TOLERANCE)
        if reference.cutoff is not None:
            target = reference.robust(found.evaluation.intensity, reference.cutoff)
        learn_widths(fit.hybrid, found, learn)
    fit.refine_thickness(sums, target, max_cycles=_CYCLES, tolerance=_TOLERANCE)
    return target


def cross_validate(fit: JointFit, sums: RockingSums, target: Target, fold: Tensor) -> Tensor:
    """Intensities (M,) as predicted by fits that have not seen them; the model is left as it was."""
    start = fit.hybrid.vector()
    predicted = torch.zeros_like(target.intensity)
    for number in range(_FOLDS):
        held_out = fold == number
        fit.hybrid.load_vector(start)
        found = fit.refine_thickness(sums, target.without(held_out), max_cycles=_CYCLES, tolerance=_TOLERANCE)
        predicted[held_out] = found.evaluation.intensity[held_out]
    fit.hybrid.load_vector(start)
    return predicted


@dataclass(frozen=True)
class Trial:
    """A model fitted with structure and orientation held."""

    model: Hybrid
    fit: Fit
    predicted: Tensor  # (M,) intensities, each from a fit that has not seen it


@dataclass(frozen=True)
class Comparison:
    """How models are tried.

    Args:
        joint_fit: makes the fit of a model.
        sums: rocking sums of the structure and orientation that are held.
        reference: gives sigma', and the first robust weights.
        group: unique reflection (M,) of each observation.
        seed: of the folds.
        learn: see `fit_thickness`.
        present: the model chosen before, which the structure was refined with; None: none was.
    """

    joint_fit: Callable[[Hybrid], JointFit]
    sums: RockingSums
    reference: Target
    group: Tensor
    seed: int
    learn: bool
    present: str | None = None

    def trial(self, model: Hybrid) -> Trial:
        """Fit a model in place, and cross-validate it."""
        fit = self.joint_fit(model)
        target = fit_thickness(fit, self.sums, self.reference, self.learn)
        found = fit.refine_thickness(self.sums, target, max_cycles=0, tolerance=0.0)
        return Trial(model, found, cross_validate(fit, self.sums, target, folds(self.group, self.seed)))

    def choose(self, trials: dict[str, Trial]) -> str:
        """The name of the simplest that is good enough; they go from simple to complex.

        One less simple than what was chosen before has to be clearly better.
        """
        chosen, names = self._simplest(trials), list(trials)
        if self.present in trials and names.index(chosen) > names.index(self.present):
            value, error = self._behind(trials)[self.present]
            return self.present if value <= _CLEARLY * error else chosen
        return chosen

    def _simplest(self, trials: dict[str, Trial]) -> str:
        behind = self._behind({name: trial for name, trial in trials.items() if name != _NETWORK})
        chosen = next(name for name, (value, error) in behind.items() if value <= error)
        if _NETWORK in trials:
            behind = self._behind(trials)
            others = [found for name, found in behind.items() if name != _NETWORK]
            if not behind[_NETWORK][0] and all(value > _CLEARLY * error for value, error in others):
                return _NETWORK
        return chosen

    def table(self, trials: dict[str, Trial]) -> list[Candidate]:
        """One line for each."""
        chosen, observations = self.choose(trials), next(iter(trials.values())).model.dataset.observations
        candidates = []
        for name, (value, error) in self._behind(trials).items():
            fit, predicted = trials[name].fit, trials[name].predicted
            parts = (self.reference.work, predicted), (observations.free, fit.evaluation.intensity)
            r1_obs, r1_free = (
                r_values(observations.intensity[part], observations.sigma[part], intensity[part]).r1_obs
                for part, intensity in parts
            )
            candidates.append(
                Candidate(name, fit.n_parameters, r1_obs, r1_free, value, error, chosen=name == chosen)
            )
        return candidates

    def _behind(self, trials: dict[str, Trial]) -> dict[str, tuple[float, float]]:
        """How far each is behind the best of them, and the standard error of that."""
        work = self.reference.work
        likelihood = {name: self._likelihood(trial.predicted)[work] for name, trial in trials.items()}
        best = max(likelihood.values(), key=lambda values: float(values.sum()))
        _, unique = torch.unique(self.group[work], return_inverse=True)
        found = {}
        for name, values in likelihood.items():
            difference = best - values
            of_group = difference.new_zeros(int(unique.max()) + 1).index_add(0, unique, difference)
            error = float(of_group.std()) * math.sqrt(len(of_group))
            found[name] = float(difference.sum()), error
        return found

    def _likelihood(self, predicted: Tensor) -> Tensor:
        """Its logarithm (M,) of each observation."""
        reference = self.reference
        residual = predicted - reference.intensity
        return reference.share * log_likelihood(residual, reference.sigma, reference.cutoff)
