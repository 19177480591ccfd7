r"""Absorption by thermal diffuse scattering: the imaginary part U'_g of the crystal potential.

Electrons that the vibrating atoms scatter between the Bragg beams are lost to these. For atoms that
vibrate independently (Einstein model; Hall & Hirsch 1965, Bird & King 1990) the optical potential is
U_g + i U'_g with

    U'_g = gamma F'_g / (pi V),     F'_g = sum_j o_j f'_j(g) exp(-2 pi i g.r_j),

    f'(g) = 2 gamma lambda int d^2s' f(|s/2 + s'|) f(|s/2 - s'|) [T(s) - T(s/2 + s') T(s/2 - s')]

over the plane of s' across the beam; s = g/2, T is the Debye-Waller factor, so that f' contains its own.
At g = 0 the bracket is 1 - T^2 and 2 pi U'_0 / K the number of atoms per volume times their cross
section for diffuse scattering. With f(s) = sum_k a_k exp(-b_k s^2) the integral is a sum over pairs,

    f'(g) = 2 pi gamma lambda sum_kl a_k a_l { T(s) exp(-s^2 b_k b_l / beta) / beta
            - T(s)^{1/2} exp[-s^2/4 (beta - delta^2 / (beta + 2 B))] / (beta + 2 B) }

with beta = b_k + b_l and delta = b_k - b_l. T(s) is the atom's own, anisotropic factor; only under the
integral, where T(s/2 + s') T(s/2 - s') = T(s)^{1/2} exp(-2 B s'^2), is B the equivalent isotropic one.

The form factors under the integral must be right at high angles. They are those of
absorptive_form_factors.csv (made by tools/absorptive_form_factors.py); those of the elastic potential,
fitted up to s = 2 1/A, would make f' too small: by 4 % (carbon) to 12 % (lead, B = 0.5 A^2) at g = 0 and
by more beyond.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dials_hybrid.bloch.electron import relativistic_factor
from dials_hybrid.bloch.scattering import (
    _contributions,
    metric_tensor,
    potential_scale,
    squared_lengths,
)
from dials_hybrid.data import AtomicModel

_TABLE = Path(__file__).with_name("absorptive_form_factors.csv")
_CHUNK = 2**20  # reflections times atoms times the larger of operations and pairs of Gaussians


def absorption_scale(cell: Tensor, wavelength: float) -> float:
    """gamma^2 lambda / (pi V) [1/A^2], which turns F'_g of this module into U'_g [1/A^2]."""
    return relativistic_factor(wavelength) * wavelength * potential_scale(cell, wavelength)


def absorptive_structure_factors(atoms: AtomicModel, hkl: Tensor, parameters: Tensor | None = None) -> Tensor:
    """F'_g / (gamma lambda), (G,) complex, of Miller indices (G, 3); see `absorption_scale`."""
    parameters = atoms.parameters if parameters is None else parameters
    pairs = _Pairs.of(atoms)

    def factors(part: Tensor) -> Tensor:
        terms = _Terms.of(atoms, parameters, pairs, part)
        return ((terms.whole - terms.half).sum(1) * parameters[:, 10]).sum(-1)

    result = torch.zeros(len(hkl), dtype=_complex(parameters.dtype), device=hkl.device)
    return _by_length(atoms, hkl, pairs, factors, result)


def absorptive_structure_factor_derivatives(atoms: AtomicModel, hkl: Tensor, jacobian: Tensor) -> Tensor:
    """d(F'_g / (gamma lambda)) / dx, shape (P, G) complex.

    Args:
        atoms: the structure at which to differentiate.
        hkl: Miller indices (G, 3).
        jacobian: d(parameter table) / dx of P independent parameters x, shape (P, 11 n).
    """
    jacobian = jacobian.to(_complex(jacobian.dtype))
    pairs = _Pairs.of(atoms)

    def derivatives(part: Tensor) -> Tensor:
        return jacobian @ _parameter_derivatives(atoms, pairs, part).flatten(1).T

    result = torch.zeros(len(jacobian), len(hkl), dtype=jacobian.dtype, device=hkl.device)
    return _by_length(atoms, hkl, pairs, derivatives, result)


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64


def _by_length(
    atoms: AtomicModel, hkl: Tensor, pairs: _Pairs, function: Callable[[Tensor], Tensor], result: Tensor
) -> Tensor:
    """`function` of parts of hkl (G, 3), put into `result` (..., G).

    Parts are taken in the order of |g|: equivalent reflections share what depends on |g| alone.
    """
    order = squared_lengths(atoms.cell, hkl).argsort()
    size = max(1, _CHUNK // (atoms.n_atoms * max(len(atoms.rotations), len(pairs.beta))))
    for part in order.split(size):
        result[..., part] = function(hkl[part])
    return result


@cache
def _form_factors() -> tuple[dict[str, list[float]], list[float]]:
    """Amplitudes a_k of each element [A] and the exponents b_k of all of them [A^2]."""
    with _TABLE.open(encoding="ascii", newline="") as file:
        header, *rows = csv.reader(file)
    return {row[0]: [float(a) for a in row[1:]] for row in rows}, [float(b) for b in header[1:]]


@dataclass(frozen=True)
class _Pairs:
    """The products of two Gaussians of the form factors, each pair once."""

    weight: Tensor  # (n, M) 2 pi a_k a_l of each atom, twice that where k != l
    beta: Tensor  # (M,) b_k + b_l [A^2]
    delta_squared: Tensor  # (M,) (b_k - b_l)^2
    reduced: Tensor  # (M,) b_k b_l / beta

    @classmethod
    def of(cls, atoms: AtomicModel) -> _Pairs:
        amplitudes, exponents = _form_factors()
        # The charge of an ion is felt at angles far below those of diffuse scattering.
        elements = [element.rstrip("+-0123456789") for element in atoms.elements]
        unknown = sorted(set(elements) - set(amplitudes))
        if unknown:
            raise ValueError(f"there are no absorptive form factors of {', '.join(unknown)}")
        a = atoms.parameters.new_tensor([amplitudes[element] for element in elements])
        b = atoms.parameters.new_tensor(exponents)
        i, j = torch.triu_indices(len(b), len(b), device=b.device)
        return cls(
            weight=2.0 * math.pi * a[:, i] * a[:, j] * (2 - (i == j).to(b.dtype)),
            beta=b[i] + b[j],
            delta_squared=(b[i] - b[j]) ** 2,
            reduced=b[i] * b[j] / (b[i] + b[j]),
        )

    def radial(self, s_squared: Tensor, b_iso: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What multiplies T and -T^(1/2) in f' / (gamma lambda), and d/dB of the second; (G, n) each.

        Args:
            s_squared: s^2 (G,) [1/A^2].
            b_iso: B of the atoms (n,) [A^2].
        """
        s_squared = s_squared[:, None]
        first = torch.exp(-s_squared * self.reduced) @ (self.weight / self.beta).T
        width = self.beta + 2.0 * b_iso[:, None]
        ratio = self.delta_squared / width
        s_squared = s_squared[..., None]
        second = torch.exp(-0.25 * s_squared * (self.beta - ratio)) * (self.weight / width)
        slope = second * ((-2.0 - 0.5 * s_squared * ratio) / width)
        return first, second.sum(-1), slope.sum(-1)


def _b_gradient(atoms: AtomicModel) -> Tensor:
    """dB / d(parameter table), (n, 11), of the equivalent isotropic B = 8 pi^2 tr(U) / 3 [A^2]."""
    metric = metric_tensor(atoms.cell)
    i, j = torch.tensor([[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], device=metric.device)
    trace = torch.where(i == j, metric[i, j], 2.0 * metric[i, j])
    gradient = torch.zeros_like(atoms.parameters)
    gradient[~atoms.anisotropic, 3] = 8.0 * math.pi**2
    gradient[atoms.anisotropic, 4:10] = 8.0 * math.pi**2 / 3.0 * trace
    return gradient


@dataclass(frozen=True)
class _Terms:
    """F'_g / (gamma lambda) for unit occupancy, by symmetry operation and atom: whole - half."""

    whole: Tensor  # (G, S, n) the terms with T
    half: Tensor  # (G, S, n) those with T^(1/2)
    slope: Tensor  # (G, n) dB-derivative of `half` at constant T, summed over operations
    b_gradient: Tensor  # (n, 11) dB / d(parameter table)
    h: Tensor  # (G, S, 3) h R
    s_squared: Tensor  # (G,) [1/A^2]

    @classmethod
    def of(cls, atoms: AtomicModel, parameters: Tensor, pairs: _Pairs, hkl: Tensor) -> _Terms:
        # Unit form factors and half the U's leave T^(1/2) exp(-2 pi i g.r).
        one = torch.ones_like(atoms.form_factor_a[:, :1])
        points = replace(atoms, form_factor_a=one, form_factor_b=torch.zeros_like(one))
        halved = torch.cat([parameters[:, :3], 0.5 * parameters[:, 3:10], parameters[:, 10:]], dim=1)
        root, h, s_squared = _contributions(points, halved, hkl)
        b_gradient = _b_gradient(atoms)
        b_iso = (b_gradient * parameters).sum(-1)
        # A negative B has no meaning here; with B = 0 an atom does not absorb.
        b_gradient = b_gradient * (b_iso > 0.0)[:, None]
        distinct, index = torch.unique(s_squared.round(decimals=12), return_inverse=True)
        radial = pairs.radial(distinct, b_iso.clamp(min=0.0))
        first, second, slope = (values[index] for values in radial)
        return cls(
            whole=root * (root.abs() / atoms.multiplicity) * first[:, None],
            half=root * second[:, None],
            slope=root.sum(1) * slope,
            b_gradient=b_gradient,
            h=h,
            s_squared=s_squared,
        )


def _parameter_derivatives(atoms: AtomicModel, pairs: _Pairs, hkl: Tensor) -> Tensor:
    """d(F'_g / (gamma lambda)) / d(parameter table), (G, n, 11) complex."""
    terms = _Terms.of(atoms, atoms.parameters, pairs, hkl)
    occupancy = atoms.parameters[:, 10]
    value = terms.whole - terms.half
    damped = (terms.whole - 0.5 * terms.half) * occupancy
    h = terms.h.to(value.dtype)
    h0, h1, h2 = h.unbind(-1)
    quadratic = torch.stack([h0 * h0, h1 * h1, h2 * h2, 2 * h0 * h1, 2 * h0 * h2, 2 * h1 * h2], dim=-1)
    derivative = -(terms.slope * occupancy)[..., None] * terms.b_gradient
    derivative[..., 0:3] -= 2j * math.pi * torch.einsum("gsn,gsk->gnk", value * occupancy, h)
    isotropic = terms.s_squared[:, None] * damped.sum(1) * ~atoms.anisotropic
    derivative[..., 3] -= 8.0 * math.pi**2 * isotropic
    anisotropic = torch.einsum("gsn,gsk->gnk", damped, quadratic) * atoms.anisotropic[:, None]
    derivative[..., 4:10] -= 2.0 * math.pi**2 * anisotropic
    derivative[..., 10] += value.sum(1)
    return derivative
