"""The fast electron: wavelength, relativistic factor, wave number in the crystal."""

from __future__ import annotations

import math

HC = 12.398419843  # h c [keV Angstrom]
REST_ENERGY = 510.99895  # m0 c^2 [keV]


def wavelength(energy: float) -> float:
    """Relativistic wavelength [A] of electrons accelerated by `energy` [kV]: 0.02508 at 200 kV."""
    return HC / math.sqrt(energy * (energy + 2.0 * REST_ENERGY))


def relativistic_factor(wavelength: float) -> float:
    """gamma = m / m0 of electrons of this wavelength [A]: 1.391 at 200 kV."""
    return math.sqrt(1.0 + (HC / (wavelength * REST_ENERGY)) ** 2)


def wave_number(wavelength: float, mean_inner_potential: float = 0.0) -> float:
    """K [1/A] inside the crystal, K^2 = 1/lambda^2 + U_0.

    Args:
        wavelength: in vacuum [A].
        mean_inner_potential: U_0 [1/A^2].
    """
    return math.sqrt(1.0 / wavelength**2 + mean_inner_potential)
