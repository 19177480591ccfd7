"""Observations that the model does not explain, and how well the sigmas describe the rest."""

from __future__ import annotations

from dials_hybrid.data import Observations
from dials_hybrid.refine.joint_fit import Fit

_SMALL_WEIGHT = 0.25  # with the default cutoff, residuals beyond 5 robust standard deviations


def outliers(observations: Observations, fit: Fit) -> list[dict]:
    """Work reflections with a robust weight below a quarter, the worst first."""
    target = fit.target
    calculated = fit.evaluation.intensity
    weight = target.robust_weight
    index = (target.work & (weight < _SMALL_WEIGHT)).nonzero().flatten()
    index = index[weight[index].argsort()]
    return [
        {
            "row": int(observations.row[i]),
            "hkl": observations.hkl[i].tolist(),
            "crystal": int(observations.crystal[i]),
            "angle": float(observations.angle[i]),
            "intensity": float(observations.intensity[i]),
            "calculated": float(calculated[i]),
            "sigma": float(target.sigma[i]),
            "weight": float(weight[i]),
        }
        for i in index.tolist()
    ]


def goodness_of_input_sigmas(observations: Observations, fit: Fit) -> float:
    """The goodness of fit that the sigmas of the reflection table alone would give, same weights w."""
    target, calculated = fit.target, fit.evaluation.intensity
    square = ((calculated - observations.intensity) / observations.sigma) ** 2
    freedom = max(1.0, target.n_work - fit.n_parameters)
    return float(((target.weight * square).sum() / freedom / target.expected()).sqrt())
