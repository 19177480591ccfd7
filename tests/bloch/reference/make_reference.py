"""Reference numbers for dynamical electron diffraction, from abTEM's Bloch waves.

Writes ``abtem_bloch.json`` next to this script: beams, couplings U_{g-h} and intensities
of two crystals, each on a zone axis, tilted off it, and in a general orientation.
Conventions and agreement: ``README.md``. Made with abTEM 1.0.11, in an environment of
its own, as abTEM is no dependency of the project::

    python3.11 -m venv abtem_venv
    abtem_venv/bin/pip install abtem==1.0.11 ase==3.29.0 numpy==2.4.6 scipy==1.17.1
    OMP_NUM_THREADS=1 abtem_venv/bin/python make_reference.py
"""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import version
from pathlib import Path

import abtem
import numpy as np
from abtem.bloch import BlochWaves, StructureFactor
from abtem.bloch.dynamical import (
    calculate_dynamical_scattering,
    calculate_structure_matrix,
)
from abtem.bloch.utils import excitation_errors
from abtem.core.energy import energy2wavelength, relativistic_mass_correction
from abtem.parametrizations import PengParametrization
from ase import Atoms
from scipy.spatial.transform import Rotation

ENERGY = 200e3  # eV
THICKNESSES = [200.0, 500.0, 1000.0]  # Angstrom
# five Gaussians fitted for s = 0 to 2 1/Angstrom (Peng et al., 1996)
PENG = PengParametrization("peng_low.json")


def quartz() -> Atoms:
    """alpha-quartz, P 32 2 1 (No. 154); Levien et al. (1980), rounded."""

    def orbit(x, y, z):
        return [
            (x, y, z),
            (-y, x - y, z + 2 / 3),
            (-x + y, -x, z + 1 / 3),
            (y, x, -z),
            (x - y, -y, -z + 1 / 3),
            (-x, -x + y, -z + 2 / 3),
        ]

    silicon = orbit(0.4697, 0.0, 2 / 3)[:3]  # on a twofold axis: three positions
    oxygen = orbit(0.4135, 0.2669, 0.78577)
    return Atoms(
        "Si3O6",
        scaled_positions=np.mod(silicon + oxygen, 1.0),
        cell=[4.913, 4.913, 5.405, 90, 90, 120],
        info={"u_iso": [0.008] * 3 + [0.014] * 6},
    )


def acetamide_hydrate() -> Atoms:
    """A made-up triclinic crystal, P1, of one acetamide and one water molecule."""
    xyz = [
        (0.1381, 0.6893, 0.3990),
        (0.2593, 0.4571, 0.3817),
        (0.1149, 0.2870, 0.4869),
        (0.5788, 0.3345, 0.2485),
        (0.1957, 0.1040, 0.4387),
        (0.6861, 0.4798, 0.2051),
        (0.7035, 0.1759, 0.3554),
        (0.5819, 0.2598, 0.0829),
        (0.8917, 0.3627, 0.5518),
        (0.4794, 0.8416, 0.8800),
        (0.6629, 0.8818, 0.8342),
        (0.5236, 0.6913, 0.7938),
    ]
    u_iso = [0.021, 0.017, 0.022, 0.025, 0.035, 0.040, 0.040, 0.040, 0.035]
    u_iso += [0.028, 0.040, 0.040]
    return Atoms(
        "OCNCH5OH2",
        scaled_positions=xyz,
        cell=[4.9, 5.6, 5.8, 82.0, 75.5, 69.0],
        info={"u_iso": u_iso},
    )


# name, crystal, zone axis [uvw], tilt as a rotation vector in the laboratory (degrees),
# g_max, sg_max (1/Angstrom)
CASES = [
    ("quartz_zone_axis", quartz, [1, 0, 1], [0.0, 0.0, 0.0], 1.6, 0.03),
    ("quartz_tilted", quartz, [1, 0, 1], [1.3, -0.9, 0.0], 1.6, 0.03),
    ("quartz_general", quartz, [1, 0, 1], [21.0, -13.0, 0.0], 1.6, 0.02),
    ("organic_zone_axis", acetamide_hydrate, [0, 1, 0], [0.0, 0.0, 0.0], 1.5, 0.025),
    ("organic_tilted", acetamide_hydrate, [0, 1, 0], [-0.8, 1.9, 0.0], 1.5, 0.025),
    ("organic_general", acetamide_hydrate, [0, 1, 0], [-9.0, 16.0, 0.0], 1.5, 0.015),
]


def orientation(cell: np.ndarray, zone_axis: list[int], tilt: list[float]) -> np.ndarray:
    """Rotation that takes the direction [uvw] to +z and then tilts it (degrees)."""
    axis = np.asarray(zone_axis) @ cell
    axis /= np.linalg.norm(axis)
    turn = np.cross(axis, [0.0, 0.0, 1.0])
    turn *= np.arccos(axis[2]) / np.linalg.norm(turn)
    turn, tilt = Rotation.from_rotvec(turn), Rotation.from_rotvec(tilt, degrees=True)
    return (tilt * turn).as_matrix()


def digits(values: np.ndarray, n: int = 8) -> list:
    """Values rounded to n significant digits."""
    return np.vectorize(lambda x: float(f"{x:.{n}g}"), otypes=[float])(values).tolist()


def calculate(name, crystal, zone_axis, tilt, g_max, sg_max) -> dict:
    """One case of the table; intensities have shape (thicknesses, beams)."""
    atoms = crystal()
    factors = StructureFactor(
        atoms,
        g_max=2.01 * g_max,  # all differences g - h of the beams
        parametrization=PENG,
        thermal_sigma=np.sqrt(atoms.info["u_iso"]),
        cutoff="hard",  # the default tapers F near g_max
        centering="P",
    )
    waves = BlochWaves(
        factors,
        energy=ENERGY,
        sg_max=sg_max,
        g_max=g_max,
        orientation_matrix=orientation(atoms.cell.array, zone_axis, tilt),
    )
    hkl = waves.hkl
    scaled = atoms.get_scaled_positions()
    intensities = waves.calculate_diffraction_patterns(THICKNESSES, lazy=False).array

    # again without the factors M_g = (1 + g_z / K)^-1/2, but the same excitation errors
    array = factors.build(lazy=False)
    matrix = calculate_structure_matrix(
        array.array,
        array.hkl,
        hkl,
        waves.cell,
        ENERGY,
        array.gpts,
        use_wave_eq=True,
    )
    couplings = {tuple((hkl[i] - hkl[j]).tolist()): matrix[i, j] for i, j in np.ndindex(matrix.shape)}
    differences = sorted(d for d in couplings if d > (0, 0, 0))  # U_{-d} = conj(U_d)
    u = np.array([couplings[d] for d in differences])
    gamma = relativistic_mass_correction(ENERGY)
    u_0 = array.array[np.all(array.hkl == 0, axis=1)][0].real * gamma / np.pi

    s_g = excitation_errors(waves.g_vec, ENERGY)
    np.fill_diagonal(matrix, 2 * s_g / energy2wavelength(ENERGY))
    psi = calculate_dynamical_scattering(matrix, hkl, waves.cell, ENERGY, THICKNESSES, use_wave_eq=True)

    return {
        "name": name,
        "cell": atoms.cell.cellpar().round(6).tolist(),
        "volume": digits(atoms.cell.volume, 12),
        "atoms": [
            [symbol, *xyz, u_iso]
            for symbol, xyz, u_iso in zip(
                atoms.symbols, np.abs(scaled.round(12)).tolist(), atoms.info["u_iso"], strict=True
            )
        ],
        "zone_axis": zone_axis,
        "tilt_degrees": tilt,
        "reciprocal_basis": (waves.cell.reciprocal().array.T.round(15) + 0.0).tolist(),
        "g_max": g_max,
        "sg_max": sg_max,
        "thicknesses": THICKNESSES,
        "hkl": hkl.tolist(),
        "excitation_errors": digits(s_g),
        "u_0": digits(u_0, 10),
        "coupling_hkl": [list(d) for d in differences],
        "coupling_real": digits(u.real),
        "coupling_imag": digits(u.imag),
        "intensities": digits(intensities),
        "intensities_unsymmetrised": digits(np.abs(psi) ** 2),
    }


def main() -> None:
    abtem.config.set({"precision": "float64"})  # the default is float32
    table = {
        "source": "abTEM Bloch waves (abtem.bloch.BlochWaves); see README.md",
        "command": "OMP_NUM_THREADS=1 python make_reference.py",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("abtem", "ase", "numpy", "scipy")},
        },
        "columns_of_atoms": ["element", "x", "y", "z", "u_iso"],
        "beam": "K = +z / wavelength; laboratory r = reciprocal_basis @ hkl, 1/Angstrom",
        "energy_ev": ENERGY,
        "wavelength": energy2wavelength(ENERGY),
        "gamma": relativistic_mass_correction(ENERGY),
        "form_factors": {
            "kind": "Peng et al. (1996) for s < 2 1/Angstrom: f(s) = sum_i a_i exp(-b_i s^2)",
            "coefficients": {
                element: dict(zip("ab", digits(np.array(PENG.parameters[element])), strict=True))
                for element in ("H", "C", "N", "O", "Si")
            },
        },
        "cases": [calculate(*case) for case in CASES],
    }
    text = json.dumps(table, indent=1)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", "", m[0]), text)
    Path(__file__).with_name("abtem_bloch.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
