"""R values of parts of the data: by resolution, by scan angle, by intensity."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.data import Observations
from dials_hybrid.refine.rvalues import r1_with_best_scale, r_values

_GROUPS = 10  # shells of resolution, and groups by intensity
_RANGE = 5.0  # [degree] of scan angle in a sweep, at least
_MOST_RANGES = 40  # a crystal


def d_spacings(hkl: Tensor, cell: Tensor) -> Tensor:
    """d (M,) [A] of reflections (M, 3): 1/d^2 = h^T G^-1 h, G the metric tensor of the cell."""
    h = hkl.to(cell.dtype)
    return torch.einsum("mi,ij,mj->m", h, torch.linalg.inv(metric_tensor(cell)), h).rsqrt()


def resolution_shells(d: Tensor, intensity: Tensor, sigma: Tensor, calculated: Tensor) -> list[dict]:
    """R values in shells of equal numbers of observations, low resolution first."""
    return [
        {
            "d_max": float(d[own].max()),
            "d_min": float(d[own].min()),
            **asdict(r_values(intensity[own], sigma[own], calculated[own])),
        }
        for own in _parts(d.argsort(descending=True))
    ]


def intensity_groups(intensity: Tensor, sigma: Tensor, calculated: Tensor) -> list[dict]:
    """R values of groups of equal numbers of observations by I_calc, weak first.

    k = sum I_obs / sum I_calc. Grouping by I_calc, not I_obs, keeps it free of the bias of selection.
    """
    f_c = calculated.clamp(min=0.0).sqrt()
    groups = []
    for own in _parts(calculated.argsort()):
        total = float(calculated[own].sum())
        groups.append(
            {
                "f_calc_min": float(f_c[own].min()),
                "f_calc_max": float(f_c[own].max()),
                "k": float(intensity[own].sum()) / total if total > 0.0 else float("nan"),
                **asdict(r_values(intensity[own], sigma[own], calculated[own])),
            }
        )
    return groups


def angular_ranges(observations: Observations, calculated: Tensor) -> list[dict]:
    """R values of each virtual frame, and in a sweep of equal ranges of the scan angle [degree].

    `r1_obs_own_scale` is R1 of a range at the scale that suits it best.

    Ranges without observations are left out; `frame` is None in a sweep.
    """
    angle, i, sigma = observations.angle, observations.intensity, observations.sigma
    ranges = []
    for crystal in observations.crystal.unique().tolist():
        of_crystal = observations.crystal == crystal
        frame = observations.frame[of_crystal]
        in_frames = bool((frame >= 0).all())
        number = frame if in_frames else _range_number(angle[of_crystal])
        for k in number.unique().tolist():
            own = of_crystal.nonzero().flatten()[number == k]
            ranges.append(
                {
                    "crystal": crystal,
                    "frame": k if in_frames else None,
                    "angle_min": float(angle[own].min()),
                    "angle_max": float(angle[own].max()),
                    **asdict(r_values(i[own], sigma[own], calculated[own])),
                    "r1_obs_own_scale": r1_with_best_scale(i[own], sigma[own], calculated[own]),
                }
            )
    return ranges


def _range_number(angle: Tensor) -> Tensor:
    """Which of n equal ranges an angle is in."""
    span = float(angle.max() - angle.min())
    n = min(_MOST_RANGES, max(1, int(span / _RANGE)))
    return ((angle - angle.min()) * (n / max(span, 1e-6))).long().clamp(max=n - 1)


def _parts(order: Tensor) -> list[Tensor]:
    return list(order.tensor_split(min(_GROUPS, len(order))))
