from __future__ import annotations

import pytest

from dials_hybrid.bloch.electron import HC, REST_ENERGY, relativistic_factor, wave_number, wavelength


# Kirkland, Advanced Computing in Electron Microscopy (2010), table 2.2
@pytest.mark.parametrize(
    "energy, expected, gamma",
    [(100, 0.037014, 1.19570), (200, 0.025079, 1.39139), (300, 0.019687, 1.58709), (1000, 0.008719, 2.95695)],
)
def test_published_values(energy, expected, gamma):
    assert wavelength(energy) == pytest.approx(expected, abs=6e-7)
    assert relativistic_factor(wavelength(energy)) == pytest.approx(gamma, abs=6e-6)


@pytest.mark.parametrize("energy", [20.0, 200.0, 1000.0])
def test_mass_follows_from_the_energy(energy):
    assert relativistic_factor(wavelength(energy)) == pytest.approx(1 + energy / REST_ENERGY, rel=1e-12)


def test_inside_the_crystal_electrons_are_faster_by_the_mean_potential():
    energy, volts = 200.0, 15.0e-3
    gamma = 1 + energy / REST_ENERGY
    u_0 = 2 * gamma * REST_ENERGY * volts / HC**2
    assert wave_number(wavelength(energy), u_0) == pytest.approx(1 / wavelength(energy + volts), rel=1e-9)
    assert wave_number(wavelength(energy)) == pytest.approx(1 / wavelength(energy), rel=1e-15)
