r"""The Chebyshev series of exp(i pi t A / K): bounds of the spectrum, degree and coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_LANCZOS = 8  # products that the bounds of the spectrum cost
_GRID = 1.01  # half widths are rounded up to powers of this, so that series can be used again


@dataclass(frozen=True)
class Spectrum:
    """Bounds of the eigenvalues: (centre +- half_width) + i (absorption +- spread) [1/A^2]."""

    centre: float
    half_width: float
    absorption: float = 0.0
    spread: float = 0.0

    @classmethod
    def of_matrices(cls, coupling: Tensor, diagonal: Tensor, *, hermitian: bool) -> Spectrum:
        """For coupling (S, N, N) and diagonals (S, K, N)."""
        if hermitian:
            return cls(*_around(*_extremes(coupling, diagonal.real)))
        real = _around(*_extremes((coupling + coupling.mH) / 2, diagonal.real))
        imaginary = _around(*_extremes((coupling - coupling.mH) / 2j, diagonal.imag))
        return cls(*real, *imaginary)

    def widened(self, factor: float) -> Spectrum:
        return Spectrum(self.centre, self.half_width * factor, self.absorption, self.spread * factor)


def _around(low: float, high: float) -> tuple[float, float]:
    """Centre and half width, rounded up."""
    half = max((high - low) / 2.0, 1e-12)
    return (low + high) / 2.0, _GRID ** math.ceil(math.log(1.005 * half) / math.log(_GRID))


def as_real(x: Tensor) -> Tensor:
    """(..., n), as (..., 2 n) real numbers where it is complex; a view."""
    return torch.view_as_real(x).flatten(-2) if x.is_complex() else x


@lru_cache(maxsize=1024)
def _random(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def _start(coupling: Tensor, shift: Tensor) -> Tensor:
    """Vectors of unit length (S, 2, N) for the least and the largest of the diagonals (S, 2, N).

    Random, and smaller where the diagonal is farther from its end than the incident beam is coupled:
    eight steps bound the spectrum as closely then as 14 from a random vector.
    """
    ends = torch.stack([shift[:, 0].amin(-1), shift[:, 1].amax(-1)], dim=-1)[..., None]
    strength = torch.linalg.vector_norm(coupling[:, 0], dim=-1).clamp_(min=1e-30)[:, None, None]
    x = torch.exp((shift - ends).abs() / -strength).mul_(_random(shift.shape[-1]).to(shift))
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


@torch.inference_mode()
def _extremes(coupling: Tensor, diagonal: Tensor) -> tuple[float, float]:
    """Least and largest eigenvalue of all Hermitian A_k, to about a per cent and rather outside.

    All A_k lie between A_0 + min_k d_k and A_0 + max_k d_k; a few Lanczos steps with the residual
    added (Zhou & Li, 2011) bound these two.
    """
    ends = torch.stack([diagonal.amin(-2), diagonal.amax(-2)], dim=-2)
    n, matrix, shift = coupling.shape[-1], coupling.mT, ends.to(coupling.dtype)
    # Each vector also as real numbers, whose sums are done much faster.
    now, new, free = ((x, as_real(x)) for x in (torch.empty_like(shift) for _ in range(3)))
    now[0].copy_(_start(coupling, ends))
    older: tuple[Tensor, Tensor] | None = None
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    for _ in range(min(_LANCZOS, n)):
        torch.mul(shift, now[0], out=new[0]).baddbmm_(now[0], matrix)
        v, w = now[1], new[1]
        if older is not None:
            w.addcmul_(older[1], betas[-1], value=-1)
        alphas.append((v * w).sum(-1, keepdim=True))
        w.addcmul_(v, alphas[-1], value=-1)
        betas.append(torch.linalg.vector_norm(w, dim=-1, keepdim=True).clamp_(min=1e-30))
        w.div_(betas[-1])
        older, now, new = now, new, free if older is None else older
    alpha, beta = (torch.cat(x, -1).double().cpu().numpy() for x in (alphas, betas))
    if not np.isfinite(alpha).all():
        raise ValueError("The structure matrix has entries that are not finite.")
    index = np.arange(alpha.shape[-1])
    small = np.zeros((*alpha.shape, alpha.shape[-1]))
    small[..., index, index] = alpha
    small[..., index[1:], index[:-1]] = beta[..., :-1]
    ritz, vectors = np.linalg.eigh(small)
    residual = np.abs(vectors[..., -1, :]) * beta[..., -1:]
    return float((ritz - residual)[:, 0, 0].min()), float((ritz + residual)[:, 1, -1].max())


def tolerance(real: torch.dtype) -> float:
    """Where the series of amplitudes ends."""
    return 1e-15 if real == torch.float64 else 1e-6


@lru_cache(maxsize=4096)
def degree(z: float, growth: float, smallest: float) -> int:
    """Degree from which on all terms of sum_n J_n(z) x_n are smaller, if |x_n| <= exp(n growth).

    From Kapteyn's inequality |J_n(z)| <= exp[n (tanh u - u)], cosh u = n / z > 1.
    """
    reach = math.exp(growth) * (z + 20.0 * max(z, 1.0) ** (1.0 / 3.0)) + 40.0
    n = np.arange(math.floor(z) + 1, math.ceil(2.0 * reach))
    u = np.arccosh(np.maximum(n / max(z, 1e-30), 1.0))
    exponent = n * (np.tanh(u) - u + growth)
    return int(n[np.nonzero(exponent > math.log(smallest))[0].max(initial=-1) + 1])


@lru_cache(maxsize=64)
def _bessel(half_width: float, growth: float, thickness: tuple, wave_number: float, smallest: float):
    """Real c_n(t) and dc_n/dt, (degree + 1, T): (2 - delta) i^n J_n is c_n for even n, i c_n for odd.

    i^n J_n(z) are the Fourier coefficients of exp(i z cos theta), and half the sum of the neighbours
    n - 1 and n + 1, times i, those of the derivative by z.
    """
    rate = half_width * math.pi / wave_number
    z = rate * np.array(thickness)
    last = degree(np.abs(z).max(), growth, smallest)
    points = 2 ** math.ceil(math.log2(2 * last + 4))
    angle = 2.0 * math.pi / points * np.arange(points)
    values = np.exp(1j * z[:, None] * np.cos(angle))
    both = np.stack([values, 1j * rate * np.cos(angle) * values])
    series = np.fft.fft(both)[..., : last + 1] / points
    series[..., 1:] *= 2.0
    series[..., 0::2] = series[..., 0::2].real
    series[..., 1::2] = series[..., 1::2].imag
    return tuple(torch.from_numpy(np.ascontiguousarray(part.real.T)) for part in series)


@dataclass(frozen=True)
class Series:
    """Coefficients of psi for T thicknesses [A]; see `_bessel`."""

    coefficients: Tensor  # (degree + 1, T)
    by_thickness: Tensor  # (degree + 1, T) [1/A]
    phase: Tensor  # (T,) exp(i pi t c / K)
    rate: complex  # i pi c / K [1/A]
    largest: float  # bound of |x_n|

    @classmethod
    def of_spectrum(cls, spectrum: Spectrum, thickness: Tensor, wave_number: float) -> Series:
        real = thickness.dtype
        growth = math.asinh(spectrum.spread / spectrum.half_width)
        t = thickness.detach().double().cpu()
        c, dc = _bessel(spectrum.half_width, growth, tuple(t.tolist()), wave_number, tolerance(real))
        rate = 1j * math.pi / wave_number * complex(spectrum.centre, spectrum.absorption)
        phase = torch.exp(rate * t).to(thickness.device, real.to_complex())
        largest = math.exp(growth * (len(c) - 1))
        return cls(c.to(thickness), dc.to(thickness), phase, rate, largest)

    def __len__(self) -> int:
        return len(self.coefficients)
