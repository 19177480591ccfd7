"""Write dials_hybrid/bloch/absorptive_form_factors.csv: electron form factors that are right at high angles.

    .venv/bin/python tools/absorptive_form_factors.py

Thermal diffuse scattering goes to angles far beyond s = 2 1/A, where the Gaussians of Peng et al.
(1996) that describe the elastic potential fall to zero. Here the X-ray form factors of Waasmaier &
Kirfel (1995, s up to 6 1/A), as cctbx has them, are turned into electron form factors,

    f(s) = 0.0239337 (Z - f_x(s)) / s^2     (Mott & Bethe; A, s in 1/A),

and fitted by Gaussians a_k exp(-b_k s^2) with the same exponents for all elements. f is a sum of
Gaussians with positive amplitudes to begin with, since (1 - exp(-b s^2)) / s^2 is the integral of
exp(-u s^2) over u from 0 to b. Hydrogen is the free atom, f_x = 1 / (1 + (2 pi a_0 s)^2)^2.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from cctbx.eltbx import e_scattering, xray_scattering

MOTT_BETHE = 0.0239337  # 1 / (8 pi^2 a_0) [1/A]
BOHR_RADIUS = 0.529177  # [A]
EXPONENTS = np.geomspace(0.003, 250.0, 11)  # [A^2]
S = 12.0 * np.linspace(0.0, 1.0, 1200) ** 1.5  # [1/A]
TABLE = Path(__file__).resolve().parent.parent / "dials_hybrid/bloch/absorptive_form_factors.csv"


def form_factor(element: str) -> np.ndarray:
    """f [A] at S."""
    if element == "H":
        scale = (2.0 * math.pi * BOHR_RADIUS) ** 2
        x = scale * S**2
        return MOTT_BETHE * scale * (2.0 + x) / (1.0 + x) ** 2
    gaussian = xray_scattering.wk1995(element).fetch()
    a, b = np.array(gaussian.array_of_a()), np.array(gaussian.array_of_b())
    s_squared = np.maximum(S**2, 1e-12)[:, None]
    return MOTT_BETHE * (a * -np.expm1(-b * s_squared) / s_squared).sum(-1)


def amplitudes(f: np.ndarray) -> np.ndarray:
    """a_k >= 0, fitted to f with nearly relative weights."""
    weight = f**-0.85
    basis = np.exp(-EXPONENTS * S[:, None] ** 2)
    return nnls(basis * weight[:, None], f * weight)[0]


def main() -> None:
    rows = [",".join(["element", *(f"{b:.6g}" for b in EXPONENTS)])]
    for element in e_scattering.ito_vol_c_2011_table_4_3_2_2_elements():
        rows.append(",".join([element, *(f"{a:.5g}" for a in amplitudes(form_factor(element)))]))
    TABLE.write_text("\n".join(rows) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
