"""Where to start: the thickness that explains the data best, before anything is refined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.model.thickness import PARAMETRIC
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.target import Target

_MARGIN = 1.6  # thicknesses beyond the best wedge that are considered, as a factor
_MOST_MINIMA = 4
_SHALLOW = 1.3  # times the lowest chi^2: minima above are not worth a try


@dataclass(frozen=True)
class ThicknessScan:
    """The best of each simple model, by chi^2 with one scale in closed form."""

    thickness: list[float]  # of plates [A]
    chi_squared: list[float]  # of these plates
    best: dict[str, list[float]]  # model -> its numbers [A]
    best_chi_squared: dict[str, float]  # model -> chi^2
    minima: dict[str, list[list[float]]]  # model -> the numbers of its deepest minima, the best first [A]

    @property
    def at_bound(self) -> bool:
        """The data ask for more than the grid offers."""
        return self.best["wedge"][0] >= 0.95 * self.thickness[-1]


def scan_thickness(sums: Tensor, grid: ThicknessGrid, target: Target) -> ThicknessScan:
    """Compare plates, wedges and normal distributions.

    Args:
        sums: I at each observation and node (M, T).
        grid: the nodes.
        target: the observed intensities.
    """
    no_conditions = torch.zeros(4, dtype=sums.dtype, device=sums.device)
    single = [fraction * grid.maximum for fraction in torch.linspace(0.02, 1.0, 99).tolist()]
    means = [fraction * grid.maximum for fraction in torch.linspace(0.05, 0.95, 19).tolist()]
    widths = [fraction * grid.maximum for fraction in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)]
    candidates = {
        "flat": [[[t] for t in single]],
        "wedge": [[[t] for t in single]],
        "normal": [[[mean, width] for mean in means] for width in widths],
        "gamma": [[[mean, width] for mean in means] for width in widths],
    }
    curves = {}
    with torch.no_grad():
        for name, rows in candidates.items():
            models = [PARAMETRIC[name](grid, *values).to(sums.device) for row in rows for values in row]
            weights = torch.stack([model(no_conditions) for model in models])
            calculated = weights @ sums.T
            scaled = calculated * target.best_scale(calculated)[:, None]
            curves[name] = target.chi_squared(scaled).reshape(len(rows), -1)
    if not all(bool(curve.isfinite().all()) for curve in curves.values()):
        raise ValueError(
            "observed intensities cannot be compared with calculated ones: are they and their sigmas sound, "
            "and are not all in the free set?"
        )
    minima = {name: _minima(curve, candidates[name]) for name, curve in curves.items()}
    return ThicknessScan(
        thickness=single,
        chi_squared=curves["flat"][0].tolist(),
        best={name: found[0] for name, found in minima.items()},
        best_chi_squared={name: float(curve.min()) for name, curve in curves.items()},
        minima=minima,
    )


def grid_maximum(scan: ThicknessScan) -> float:
    """The largest thickness [A] that is to be considered: more than the thickest of the best wedge."""
    return 50.0 * math.ceil(_MARGIN * scan.best["wedge"][0] / 50.0)


def _minima(chi_squared: Tensor, numbers: list[list[list[float]]]) -> list[list[float]]:
    """Numbers of the deepest points of chi^2 (rows, columns) that no neighbour undercuts."""
    padded = torch.nn.functional.pad(chi_squared[None], (1, 1, 1, 1), value=torch.inf)
    lowest = -torch.nn.functional.max_pool2d(-padded, 3, stride=1)[0]
    shallow = _SHALLOW * float(chi_squared.min())
    rows, columns = ((chi_squared <= lowest) & (chi_squared <= shallow)).nonzero(as_tuple=True)
    order = chi_squared[rows, columns].argsort()[:_MOST_MINIMA].tolist()
    return [numbers[int(rows[i])][int(columns[i])] for i in order]
