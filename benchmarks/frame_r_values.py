"""R values of a refinement against virtual frames, by the definitions that other programs use.

    python benchmarks/frame_r_values.py hybrid_refined.csv DATA.cif_pets [LIMIT]

Of observed reflections (I > 3 sigma), all that were used, and those with |S_g| < LIMIT (0.01 1/A) in the
middle of their frame, which is what diffBloch scores:

    pooled        sum |F_o - F_c| / sum F_o, with the refined scale
    own scales    the same with the scale of each frame that makes its own sum smallest
    mean          unweighted mean over the frames, with the refined scale and with their own
"""

from __future__ import annotations

import csv
import sys

import numpy as np

from dials_hybrid.io.pets import read_pets


def best_scale(f_o: np.ndarray, f_c: np.ndarray) -> float:
    """Of F_c, for the smallest sum |F_o - k F_c|: a median of the F_o / F_c, weighted by F_c."""
    order = np.argsort(f_o / f_c)
    weight = np.cumsum(f_c[order])
    return float((f_o / f_c)[order][np.searchsorted(weight, 0.5 * weight[-1])])


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    data = read_pets(sys.argv[2])
    limit = float(sys.argv[3]) if len(sys.argv) > 3 else 0.01
    hkl = np.array([[int(row[name]) for name in "hkl"] for row in rows])
    frame = np.array([data.names.index(row["frame"]) for row in rows])
    i, sigma, calculated = np.array(
        [[float(row[name]) for name in ("intensity", "sigma", "calculated")] for row in rows]
    ).T
    s_g, _ = data.frames.excitation(frame, hkl, data.wavelength)
    observed = (i > 3.0 * sigma) & (calculated > 0.0)
    print("reflections           n  pooled  own scales    mean  own scales  frames")
    for name, chosen in (("all", observed), (f"|S_g| < {limit:g}", observed & (np.abs(s_g) < limit))):
        table = []  # of each frame: sum |F_o - F_c|, the same with its own scale, sum F_o
        for number in np.unique(frame[chosen]):
            own = chosen & (frame == number)
            f_o, f_c = np.sqrt(i[own]), np.sqrt(calculated[own])
            best = best_scale(f_o, f_c) * f_c
            table.append((np.abs(f_o - f_c).sum(), np.abs(f_o - best).sum(), f_o.sum()))
        refined, best, total = np.array(table).T
        pooled = [100.0 * sums.sum() / total.sum() for sums in (refined, best)]
        mean = [100.0 * (sums / total).mean() for sums in (refined, best)]
        print(
            f"{name:16s} {chosen.sum():6d} {pooled[0]:7.2f} {pooled[1]:11.2f} {mean[0]:7.2f} {mean[1]:11.2f} "
            f"{len(total):7d}"
        )


if __name__ == "__main__":
    main()
