r"""Which hand of a chiral structure the data prefer.

The other hand has the coordinates -x and the operations (R, -t); U* stays. Its refinement starts from
the same parameter vector, since p = p_0 + J^T x with the signs of the coordinates changed in p_0 and J.

Both refined, each reflection votes for the hand whose intensity is nearer to the observed one. Of N
votes k are for the first hand (Klar et al., Nature Chemistry 15, 848, 2023):

    z = (2 k - N) / sqrt(N),     adjusted for noise:  z' = (2 k - N) / sqrt(N - w),
    w = sum [1 - erf(|I_1 - I_2| / (2 sigma))].

The probability of the first hand is the part of fair coins, one for each reflection that noise does not
decide, that give it a smaller majority:

    P = [1 + erf(z' / sqrt(2))] / 2.

Errors of the model are no coins: hands count as told apart from z' = 3 on, not from 2.

Rows that list one measurement n times count 1 / n each. The votes of observed reflections (I > 3 sigma) are
counted apart, too, and decide: most weak ones are weaker than either hand makes them, and so vote for the
one that happens to make them weaker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.data import AtomicModel, Observations
from dials_hybrid.refine.rvalues import observed, r_values
from dials_hybrid.refine.state import Inputs

SITE = slice(0, 3)  # of ATOM_PARAMETERS
CERTAIN = 3.0  # z-score from which on the data tell the hands apart


@dataclass(frozen=True)
class Votes:
    """The comparison of two hands."""

    n: float  # number of reflections
    for_first: float
    z_score: float  # > 0: the data prefer the first hand
    z_score_noise_adjusted: float

    @property
    def probability(self) -> float:
        """P of the first hand."""
        return 0.5 * (1.0 + math.erf(self.z_score_noise_adjusted / math.sqrt(2.0)))


@dataclass(frozen=True)
class Hands:
    """Both hands, refined against the same data."""

    r1_obs: float  # of the hand given
    r1_obs_other: float
    votes: Votes
    votes_observed: Votes  # of reflections with I > 3 sigma alone

    def as_dict(self) -> dict:
        """Plain values; z-scores are those of the hand that the observed reflections prefer."""
        given = self.votes_observed.z_score >= 0.0
        sign = 1.0 if given else -1.0
        probability = self.votes_observed.probability
        return {
            "hand": "as given" if given else "other than given",
            "z_score": sign * self.votes.z_score,
            "z_score_noise_adjusted": sign * self.votes.z_score_noise_adjusted,
            "probability": probability if given else 1.0 - probability,
            "r1_obs": self.r1_obs if given else self.r1_obs_other,
            "r1_obs_other": self.r1_obs_other if given else self.r1_obs,
            "n_reflections": self.votes.n,
            "z_score_observed": sign * self.votes_observed.z_score,
            "z_score_observed_noise_adjusted": sign * self.votes_observed.z_score_noise_adjusted,
            "n_observed": self.votes_observed.n,
            "determined": sign * self.votes_observed.z_score_noise_adjusted >= CERTAIN,
        }


def is_chiral(atoms: AtomicModel) -> bool:
    """Whether all operations are proper rotations (a Sohncke group)."""
    return bool((torch.linalg.det(atoms.rotations.double()) > 0.0).all())


def other_hand(inputs: Inputs) -> Inputs:
    """The same refinement of the inverted structure."""
    atoms = inputs.atoms
    parameters, jacobian = atoms.parameters.clone(), inputs.jacobian.clone()
    parameters[:, SITE] *= -1.0
    jacobian.view(len(jacobian), *parameters.shape)[..., SITE] *= -1.0
    inverted = replace(atoms, parameters=parameters, translations=-atoms.translations)
    restraints = inputs.restraints and inputs.restraints.inverted()
    return replace(inputs, atoms=inverted, jacobian=jacobian, restraints=restraints)


def vote(observations: Observations, first: Tensor, second: Tensor) -> Votes:
    """Compare calculated intensities (M,) of two hands over all observations."""
    return _count(observations, first, second, observations.share)


def _count(observations: Observations, first: Tensor, second: Tensor, share: Tensor) -> Votes:
    i, sigma = observations.intensity, observations.sigma
    side = torch.sign((second - i).abs() - (first - i).abs())
    noise = 1.0 - torch.erf((first - second).abs() / (2.0 * sigma))
    n, majority = float(share.sum()), float((share * side).sum())
    informative = max(n - float((share * noise).sum()), 1e-12)
    return Votes(
        n=n,
        for_first=0.5 * (n + majority),
        z_score=majority / math.sqrt(max(n, 1e-12)),
        z_score_noise_adjusted=majority / math.sqrt(informative),
    )


def compare(observations: Observations, first: Tensor, second: Tensor) -> Hands:
    """Two hands by their calculated intensities (M,); the first is the one given."""
    i, sigma = observations.intensity, observations.sigma
    r1, other = (r_values(i, sigma, calculated).r1_obs for calculated in (first, second))
    strong = torch.where(observed(i, sigma), observations.share, 0.0)
    return Hands(r1, other, vote(observations, first, second), _count(observations, first, second, strong))
