r"""How wide the priors on scale and thickness are: as wide as makes the data most likely.

Both a scale and a thickness distribution that change over the scan can explain intensities that do; how
much of either there is decides what is found for the other. The width s of the prior on n numbers x is
chosen by the evidence, the likelihood with x integrated out, in Laplace's approximation. At its maximum

    s^2 = |x|^2 / gamma,     gamma = n - sum_i C_ii / s^2,

with C the covariance of x, priors included: gamma is the number of them that the data determine (MacKay,
1992). Numbers that the data do not ask for get a narrow prior, and vanish.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.thickness_network import Tilted
from dials_hybrid.refine.joint_fit import Fit
from dials_hybrid.refine.least_squares import Linearisation, covariance

_SCALE, _NETWORK = (0.005, 1.0), (0.02, 10.0)  # limits of s


def learn_widths(hybrid: Hybrid, fit: Fit, network: bool) -> None:
    """One step towards the most likely widths, where thickness and scale were refined to `fit`.

    Args:
        network: False: what holds a network stays as it is.
    """
    variance = _variance(hybrid, fit)
    scale = hybrid.scale
    part = hybrid.slices()["scale"].start + len(scale.constant)
    scale.restraint = _width(hybrid, variance, [slice(part, part + scale.log_scale.numel())], _SCALE)
    networks = [model for model in hybrid.thickness if isinstance(model, Tilted)]
    if network and networks:
        places, stop = [], hybrid.slices()["thickness"].start
        for model in networks:
            stop += sum(parameter.numel() for parameter in model.parameters())
            places.append(slice(stop - model.n_held, stop))
        width = _width(hybrid, variance, places, _NETWORK)
        for model in networks:
            model.strength = width


def prior_widths(hybrid: Hybrid) -> dict[str, Any]:
    """The widths of a model, by the names they have in `State`."""
    widths = {"scale_prior": hybrid.scale.restraint}
    first = hybrid.thickness[0]
    if isinstance(first, Tilted):
        widths["network_prior"] = first.strength
    return widths


def _variance(hybrid: Hybrid, fit: Fit) -> Tensor:
    """Posterior variance (P,) of each number of thickness and scale, zero for the others."""
    jacobian = hybrid.recombine(fit.evaluation.sums, derivatives=True).jacobian
    assert jacobian is not None
    residuals = fit.target.residuals(fit.evaluation.intensity)
    data, _ = Linearisation(residuals, jacobian.weighted(fit.target.root_weight)).normal_equations()
    noise = float((residuals**2).sum()) / max(1, fit.target.n_work)
    _, sigma = hybrid.prior()
    active = torch.zeros_like(sigma, dtype=torch.bool)
    for name in ("thickness", "scale"):
        active[hybrid.slices()[name]] = True
    matrix = data / noise + torch.diag(sigma**-2)
    return torch.diagonal(covariance(matrix, active))


def _width(hybrid: Hybrid, variance: Tensor, places: list[slice], limits: tuple[float, float]) -> float:
    """The new width of the prior that these numbers share."""
    index = torch.cat([torch.arange(len(variance), device=variance.device)[part] for part in places])
    lower, upper = limits
    if not len(index):
        return upper
    _, sigma = hybrid.prior()
    present = float(sigma[index[0]])
    gamma = len(index) - float(variance[index].sum()) / present**2
    square = float((hybrid.vector()[index] ** 2).sum()) / max(gamma, 1e-3)
    return min(max(math.sqrt(square), lower), upper)
