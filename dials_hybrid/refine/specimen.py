r"""A crystal made up for a simulation: its stated thickness distribution, misorientation and mosaicity.

None of it is shared with the models that are refined, so that a refinement cannot agree with a simulation
by making the same numerical error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_POINTS = 200  # of the quadrature in t; intensities oscillate a few tens of times at most
_WIDEST = 4.0  # widths above its peak where a normal distribution ends
_HARMONICS = 3  # half turns of the smooth misorientation over the scan


@dataclass(frozen=True)
class StatedThickness:
    """p(t) [A] and its change over the scan.

    All thicknesses change together, t -> t f(x), with x the scan angle as -1 .. 1 and

        f(x) = 1 + amplitude x                  (linear)
        f(x) = 1 + amplitude sin(pi periods x)  (sinusoidal)

    At f = 1 the crystal is

        flat     one thickness, `mean`
        wedge    all from 0 to 2 mean, equally often
        normal   p(t) ~ exp(-(t - mean)^2 / (2 width^2)) for 0 < t < mean + 4 width
    """

    model: str
    mean: float
    width: float = 0.0
    change: str = "none"
    amplitude: float = 0.0
    periods: float = 1.0

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Thicknesses [A] and weights (Q,) at f = 1; the weights add up to 1."""
        if self.model == "flat":
            return np.array([self.mean]), np.ones(1)
        x, weight = np.polynomial.legendre.leggauss(_POINTS)
        top = 2.0 * self.mean if self.model == "wedge" else self.mean + _WIDEST * self.width
        t = 0.5 * top * (1.0 + x)
        if self.model == "normal":
            weight = weight * np.exp(-0.5 * ((t - self.mean) / self.width) ** 2)
        return t, weight / weight.sum()

    def factor(self, x: np.ndarray) -> np.ndarray:
        """f (...,) at scan angles scaled to -1 .. 1."""
        if self.change == "linear":
            return 1.0 + self.amplitude * x
        if self.change == "sinusoidal":
            return 1.0 + self.amplitude * np.sin(math.pi * self.periods * x)
        return np.ones_like(x)

    def moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (...,) [A]."""
        t, weight = self.quadrature()
        mean = weight @ t
        spread = math.sqrt(max(weight @ t**2 - mean**2, 0.0))
        factor = self.factor(x)
        return mean * factor, spread * factor

    @property
    def largest(self) -> float:
        """Thickest part of the crystal over the whole scan [A]."""
        return float(self.quadrature()[0].max() * self.factor(np.linspace(-1.0, 1.0, 401)).max())


@dataclass(frozen=True)
class Misorientation:
    """Tilt across the rotation axis [degree]: a constant and a smooth curve of the scan angle.

    The curve is a sum of three sine waves, of half a turn to one and a half over the scan, with amplitudes
    and phases drawn at random; its mean is zero and its root mean square over the scan is `smooth`.
    """

    constant: float = 0.0
    smooth: float = 0.0
    seed: int = 0

    def tilt(self, x: np.ndarray, crystal: int) -> np.ndarray:
        """(...,) [degree] at scan angles scaled to -1 .. 1."""
        generator = np.random.default_rng([self.seed, crystal])
        amplitude = generator.normal(size=_HARMONICS)
        phase = generator.uniform(0.0, 2.0 * math.pi, size=_HARMONICS)
        order = np.arange(1, _HARMONICS + 1)

        def curve(x):
            return np.sin(0.5 * math.pi * order * x[..., None] + phase) @ amplitude

        reference = curve(np.linspace(-1.0, 1.0, 401))
        return self.constant + self.smooth * (curve(x) - reference.mean()) / reference.std()


@dataclass(frozen=True)
class Specimen:
    """All about a crystal but its structure and its indexed orientation."""

    thickness: StatedThickness
    misorientation: Misorientation = Misorientation()
    mosaic_spread: float = 0.0  # standard deviation of the tilts of blocks [degree]


class Chebyshev:
    """Interpolation between 0 and `maximum` [A] by one polynomial through n Chebyshev nodes t_j.

    A rocking sum is an entire function of thickness, so the error falls exponentially with n; the size of
    the last coefficients c_k of I(t) = sum_k c_k T_k(t) tells it.
    """

    def __init__(self, maximum: float, n: int):
        self.maximum = maximum
        self._theta = math.pi * (np.arange(n) + 0.5) / n
        self.nodes = 0.5 * maximum * (1.0 - np.cos(self._theta))
        # c = transform @ values
        self._transform = 2.0 / n * np.cos(np.arange(n)[:, None] * self._theta)
        self._transform[0] *= 0.5

    def __len__(self) -> int:
        return len(self.nodes)

    def weights(self, t: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Weights (n,) of the nodes in sum_q p_q I(t_q), for thicknesses and weights (Q,)."""
        theta = np.arccos(np.clip(1.0 - 2.0 * t / self.maximum, -1.0, 1.0))
        return p @ np.cos(theta[:, None] * np.arange(len(self))) @ self._transform

    def tail(self, values: np.ndarray) -> float:
        """Sum of |c_k| over the last tenth of k, as a part of the sum over all; values (..., n)."""
        c = np.abs(values @ self._transform.T)
        return float(c[..., -max(1, len(self) // 10) :].sum() / c.sum())
