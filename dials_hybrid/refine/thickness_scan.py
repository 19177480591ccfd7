"""Where to start: the thickness that explains the data best, before anything is refined."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.model.thickness import PARAMETRIC, ThicknessGrid
from dials_hybrid.refine.target import Target


@dataclass(frozen=True)
class ThicknessScan:
    """The best of each simple model, by chi^2 with one scale in closed form."""

    thickness: list[float]  # of plates [A]
    chi_squared: list[float]  # of these plates
    best: dict[str, list[float]]  # model -> its numbers [A]
    best_chi_squared: dict[str, float]  # model -> chi^2

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
        "flat": [[t] for t in single],
        "wedge": [[t] for t in single],
        "normal": [[mean, width] for mean in means for width in widths],
    }
    curves = {}
    with torch.no_grad():
        for name, numbers in candidates.items():
            models = [PARAMETRIC[name](grid, *values).to(sums.device) for values in numbers]
            weights = torch.stack([model(no_conditions) for model in models])
            calculated = weights @ sums.T
            scaled = calculated * target.best_scale(calculated)[:, None]
            curves[name] = target.chi_squared(scaled).tolist()
    winner = {name: min(range(len(c)), key=c.__getitem__) for name, c in curves.items()}
    return ThicknessScan(
        thickness=single,
        chi_squared=curves["flat"],
        best={name: candidates[name][i] for name, i in winner.items()},
        best_chi_squared={name: curves[name][i] for name, i in winner.items()},
    )
