r"""Which thickness model the data pay for: cross-validated likelihood, without new wave propagation.

With structure and orientation held, intensities are linear in p(t), so that each model's thickness and
scale can be refined anew against four fifths of the reflections and judged by the others:

    L = sum_m ln p(I_m | model refined without the fold of m),

p being Student's density of the error model, with the same sigma' for all models. Symmetry equivalents
stay in one fold; the free set takes no part. The standard error of a difference in L comes from the
differences of single unique reflections. The simplest model within two standard errors of the best is
chosen, so that a network is used only where it predicts reflections that it has not seen better than
two numbers do. In the same way a wedge or else a normal distribution is chosen for what a network or a
histogram starts from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

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
_STANDARD_ERRORS = 2.0  # by which a model may be behind: with one, networks were chosen for plates
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
    """

    joint_fit: Callable[[Hybrid], JointFit]
    sums: RockingSums
    reference: Target
    group: Tensor
    seed: int
    learn: bool

    def trial(self, model: Hybrid) -> Trial:
        """Fit a model in place, and cross-validate it."""
        fit = self.joint_fit(model)
        target = fit_thickness(fit, self.sums, self.reference, self.learn)
        found = fit.refine_thickness(self.sums, target, max_cycles=0, tolerance=0.0)
        return Trial(model, found, cross_validate(fit, self.sums, target, folds(self.group, self.seed)))

    def judge(self, trials: dict[str, Trial]) -> list[Candidate]:
        """One line for each; the simplest one that is good enough, the first, is chosen."""
        predicted = {name: trial.predicted for name, trial in trials.items()}
        fits = {name: trial.fit for name, trial in trials.items()}
        observations = next(iter(trials.values())).model.dataset.observations
        return _judge(predicted, fits, self.reference, observations, self.group)

    def best(self, trials: dict[str, Trial]) -> Hybrid:
        """The chosen model."""
        return trials[next(c.model for c in self.judge(trials) if c.chosen)].model


def _judge(
    predicted: dict[str, Tensor], fits: dict[str, Fit], reference: Target, observations, group: Tensor
) -> list[Candidate]:
    work, free = reference.work, observations.free
    likelihood = {
        name: (
            reference.share * log_likelihood(values - reference.intensity, reference.sigma, reference.cutoff)
        )[work]
        for name, values in predicted.items()
    }
    best = max(likelihood, key=lambda name: float(likelihood[name].sum()))
    _, unique = torch.unique(group[work], return_inverse=True)
    candidates = []
    for name in predicted:
        difference = likelihood[best] - likelihood[name]
        of_group = difference.new_zeros(int(unique.max()) + 1).index_add(0, unique, difference)
        fitted = fits[name].evaluation.intensity
        r1_obs, r1_free = (
            r_values(observations.intensity[part], observations.sigma[part], intensity[part]).r1_obs
            for part, intensity in ((work, predicted[name]), (free, fitted))
        )
        candidates.append(
            Candidate(
                model=name,
                n_parameters=fits[name].n_parameters,
                r1_obs=r1_obs,
                r1_free=r1_free,
                behind=float(difference.sum()),
                standard_error=float(of_group.std()) * math.sqrt(len(of_group)),
            )
        )
    first = next(i for i, c in enumerate(candidates) if c.behind <= _STANDARD_ERRORS * c.standard_error)
    candidates[first] = replace(candidates[first], chosen=True)
    return candidates
