"""Would a background of inelastic scattering explain what a refinement leaves?

    python benchmarks/inelastic_background.py FOLDER DATA.cif_pets

FOLDER has the output files of a refinement against virtual frames. With its calculated intensities held,

    I_obs = s I_calc + b X,     X = scale of the frame times 1 (a constant) or |F_g|^2 / |d S_g / d phi|

(what the kinematical theory gives for a whole rocking curve: electrons that lost their phases) is fitted
to the work reflections with the weights of the refinement. Printed are R1 of observed reflections, in fit and
free, the part of all intensity that the term is, and b in s.u.s.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch

from dials_hybrid.bloch.scattering import structure_factors
from dials_hybrid.io.pets import read_pets
from dials_hybrid.io.structure import prepare_structure, read_structure
from dials_hybrid.io.tensors import atomic_model

CUTOFF, CYCLES = 3.0, 8  # of the robust weights


def fitted(columns: np.ndarray, i: np.ndarray, sigma: np.ndarray, share: np.ndarray):
    """Coefficients and their s.u.s; share is zero for what is left out."""
    work, w = share > 0.0, share / sigma**2
    for _ in range(CYCLES):
        x = np.linalg.lstsq(columns * np.sqrt(w)[:, None], i * np.sqrt(w), rcond=None)[0]
        r = (columns @ x - i) / sigma
        w = share / sigma**2 / (1.0 + (r / (CUTOFF * 1.4826 * np.median(np.abs(r[work])))) ** 2)
    return x, np.sqrt(np.diag(np.linalg.inv(columns.T @ (columns * w[:, None]))))


def r1(i: np.ndarray, calculated: np.ndarray, own: np.ndarray) -> float:
    f_o, f_c = (np.sqrt(np.maximum(values[own], 0.0)) for values in (i, calculated))
    return float(np.abs(f_o - f_c).sum() / f_o.sum())


def main() -> None:
    folder, data = Path(sys.argv[1]), read_pets(sys.argv[2])
    with open(folder / "hybrid_refined.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((folder / "dials.hybrid_refine.json").read_text())
    hkl = np.array([[int(row[name]) for name in "hkl"] for row in rows])
    frame = np.array([data.names.index(row["frame"]) for row in rows])
    names = ("intensity", "sigma", "calculated", "scale", "share")
    i, sigma, calculated, scale, share = np.array([[float(row[name]) for name in names] for row in rows]).T
    free = np.array([row["free"] == "1" for row in rows])
    errors = summary["error_model"]
    p = (np.maximum(i, 0.0) + 2.0 * calculated) / 3.0
    own = (errors["gain"] * sigma) ** 2 + (2.0 * errors["instability"] * p) ** 2 + errors["floor"] ** 2
    atoms = atomic_model(prepare_structure(read_structure(folder / "hybrid_refined.cif")))
    kinematical = structure_factors(atoms, torch.tensor(hkl)).abs().numpy() ** 2
    _, swept = data.frames.excitation(frame, hkl, data.wavelength)
    lever = swept / np.sin(np.radians(data.frames.semi_angle[frame]))
    terms = {"none": [], "constant": [scale], "kinematical": [scale * kinematical / lever]}
    strong = i > 3.0 * sigma
    print("term          R1_obs  R1_free    part of I    b/s.u.")
    for name, added in terms.items():
        columns = np.stack([calculated, *added], axis=1)
        x, su = fitted(columns, i, np.sqrt(own), np.where(free, 0.0, share))
        found = columns @ x
        figures = f"{r1(i, found, strong & ~free):8.2%} {r1(i, found, strong & free):8.2%}"
        for k in range(1, len(x)):
            figures += f"{x[k] * columns[:, k].sum() / found.sum():13.1%}{x[k] / su[k]:10.1f}"
        print(f"{name:12s}{figures}")


if __name__ == "__main__":
    main()
