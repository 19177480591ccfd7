r"""Observed amplitudes freed of dynamical effects, for maps.

What the dynamical calculation gets wrong is carried over to the kinematical structure factor:

    |F_obs| = |F_g| sqrt(q),     q = sum w I_obs I_calc / sum w I_calc^2

with the sums over all observations of a unique reflection (symmetry equivalents, Friedel mates and
repeated measurements, each with its own dynamical intensity): q is the factor that scales the calculated
intensities best to the observed ones. The weights are w = 1 / (sigma^2 + (a max(I_obs, I_calc))^2), times
the share of rows that repeat a measurement; a = 0.2 stands for the errors of the calculation. So an
observation whose I_calc is almost zero hardly counts, however large the ratio I_obs / I_calc, and a
negative I_obs is a datum like any other. What is left is cut to 0 <= q <= 4. The standard uncertainty of q
is 1 / sqrt(sum w I_calc^2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.bloch.scattering import structure_factors
from dials_hybrid.data import AtomicModel, Observations
from dials_hybrid.refine.free_set import unique_reflections

_MODEL_ERROR = 0.2  # a
_LARGEST_RATIO = 4.0


@dataclass(frozen=True)
class Amplitudes:
    """U unique reflections."""

    hkl: Tensor  # (U, 3) int, one of the equivalents that were measured
    calculated: Tensor  # (U,) complex F_g [A], kinematical, sign convention of `bloch.scattering`
    observed: Tensor  # (U,) |F_obs| [A]
    sigma: Tensor  # (U,) standard uncertainty of |F_obs| [A]
    free: Tensor  # (U,) bool


def observed_amplitudes(observations: Observations, calculated: Tensor, atoms: AtomicModel) -> Amplitudes:
    """Merged amplitudes of all reflections measured.

    Args:
        calculated: I_calc (M,) on the scale of the data.
        atoms: the refined structure.
    """
    group = unique_reflections(observations.hkl, atoms.rotations)
    n = int(group.max()) + 1
    q, sigma = _merged_ratio(group, n, observations, calculated)
    # the uncertainty of sqrt(q) also where q is small
    spread = ((q + sigma).sqrt() - (q - sigma).clamp(min=0.0).sqrt()) / 2.0
    first = torch.full((n,), len(group)).scatter_reduce(0, group, torch.arange(len(group)), "amin")
    hkl = observations.hkl[first]
    f = structure_factors(atoms, hkl)
    return Amplitudes(hkl, f, f.abs() * q.sqrt(), f.abs() * spread, observations.free[first])


def _merged_ratio(group: Tensor, n: int, observations: Observations, calculated: Tensor):
    """q and its standard uncertainty (U,)."""
    i_o, i_c = observations.intensity, calculated.clamp(min=0.0)
    w = observations.share / (observations.sigma**2 + (_MODEL_ERROR * torch.maximum(i_o, i_c)) ** 2)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(n).index_add(0, group, values)

    norm = total(w * i_c**2).clamp(min=1e-30)
    return (total(w * i_o * i_c) / norm).clamp(0.0, _LARGEST_RATIO), norm.rsqrt()
