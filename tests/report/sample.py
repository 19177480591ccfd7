"""Invented data for reports, with text as a hostile file could hold it."""

from __future__ import annotations

import numpy as np

from dials_hybrid.report.data import Curve, Distribution, Reflections, ReportData, Structure

HOSTILE = "<img src=x onerror=alert(1)></script><b>"
RANGES = (
    # crystal, frame, angle_min, angle_max, r1_obs, r1_all, n_observed, n_all
    (0, None, -20.0, 0.0, 0.07, 0.11, 30, 40),
    (0, None, 0.0, 20.0, float("nan"), 0.13, 0, 40),
    (1, 3, 4.0, 4.0, 0.19, 0.21, 60, 70),
)


def quartz() -> Structure:
    """P 32 2 1, hexagonal axes; Si on a twofold axis."""
    a, c, half = 4.91, 5.40, np.sqrt(3.0) / 2.0
    turn = np.array([[0.0, -1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    swap = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    screw = np.array([0.0, 0.0, 2.0 / 3.0])
    rotations = [np.linalg.matrix_power(turn, k) for k in range(3)]
    u = 0.01 * np.eye(3)
    return Structure(
        labels=["Si1", "O1"],
        elements=["Si", "O"],
        sites=np.array([[0.4697, 0.0, 2.0 / 3.0], [0.4135, 0.2669, 0.7858]]),
        u_cart=np.array([u, u + np.diag([0.0, 0.006, -0.004])]),
        radii=np.array([1.11, 0.66]),
        orthogonalisation=np.array([[a, -0.5 * a, 0.0], [0.0, half * a, 0.0], [0.0, 0.0, c]]),
        rotations=np.array([*rotations, *(r @ swap for r in rotations)]),
        translations=np.array([k * screw for k in range(3)] * 2) % 1.0,
    )


def reflections(n: int = 150) -> Reflections:
    rng = np.random.default_rng(1)
    calculated = 1000.0 * rng.exponential(size=n)
    sigma = 5.0 + 0.05 * calculated
    residual = rng.normal(size=n)
    residual[7] = -30.0
    return Reflections(
        hkl=np.arange(3 * n).reshape(n, 3) % 7 - 3,
        d=rng.uniform(0.5, 5.0, n),
        crystal=np.arange(n) % 2,
        angle=rng.uniform(-20.0, 20.0, n),
        observed=calculated - residual * sigma,
        sigma=sigma,
        calculated=calculated,
        residual=residual,
        free=np.arange(n) % 10 == 0,
    )


def crystal(chi_squared: float, information: float) -> dict:
    return {
        "n_used": 75,
        "n_observed": 45,
        "r1_obs": 0.08,
        "r1_all": 0.14,
        "wr_all": 0.09,
        "goodness_of_fit": 1.2,
        "chi_squared": chi_squared,
        "information": information,
        "thickness_mean": 577.4,
        "mosaic_spread": 0.05,
        "weight": 1.0,
        "overall_u": {"value": 0.0123, "su": 0.0004},
        "error_model": {"gain": 2.1, "instability": 0.034, "floor": 0.0},
    }


def summary() -> dict:
    names = ("crystal", "frame", "angle_min", "angle_max", "r1_obs", "r1_all", "n_observed", "n_all")
    return {
        "r1_obs": 0.08123,
        "r1_all": 0.1456,
        "wr_all": 0.0989,
        "r1_free": float("nan"),
        "merged_r1_obs": 0.0701,
        "merged_r1_all": 0.0899,
        "mean_of_ranges_r1_obs": 0.13,
        "mean_of_ranges_r1_obs_own_scales": 0.12,
        "physics": [
            {"without": "", "r1_obs": 0.08123, "seconds": 0.5},
            {"without": "absorption", "r1_obs": 0.0834, "seconds": 0.25},
        ],
        "n_rows": 200,
        "n_used": 150,
        "n_observed": 90,
        "n_free": 0,
        "rejected": {HOSTILE: 50},
        "n_parameters": 31,
        "n_parameters_effective": 25.4,
        "goodness_of_fit": 1.17,
        "converged": False,
        "thickness_mean": 577.4,
        "thickness_model": "neural",
        "mosaic_spread": [0.0453, 0.05],
        "absorption": {"factor": 1.236, "su": 0.114},
        "wavelength": 0.02508,
        "absolute_structure": {
            "hand": "as given",
            "determined": True,
            "probability": 0.99999,
            "z_score_observed_noise_adjusted": 7.31,
            "r1_obs_other": 0.12,
        },
        "hints": [{"code": "poor_fit", "text": HOSTILE}],
        "error_model": None,
        "crystals": [crystal(0.3, 0.8), crystal(0.7, 0.2)],
        "goodness_of_input_sigmas": 3.16,
        "thickness_in_uncertainties": 1.07,
        "thickness_comparison": [
            {"model": HOSTILE, "n_parameters": 9.0, "r1_obs": 0.0869, "behind": 0.0, "standard_error": 0.0,
             "chosen": True}
        ],
        "completeness": 0.97,
        "difference_map": {
            "rms": 0.113,
            "unit": "e/A",
            "peaks": [{"height": 0.4567, "site": (0.1, 0.2, 0.3), "atom": HOSTILE, "distance": 0.71}],
            "holes": [{"height": -0.5, "site": (0.0, 0.0, 0.5), "atom": "O1", "distance": 1.0}],
        },
        "parameters": [
            {"name": HOSTILE, "value": 0.470971, "su": 0.000288},
            {"name": "O1.y", "value": 0.25, "su": 0.0},
        ],
        "correlations": [{"first": HOSTILE, "second": "O1.y", "value": -0.81}],
        "restraints": [
            {"kind": kind, "labels": labels, "value": value, "target": 1.61, "sigma": 0.01, "in_sigmas": off}
            for kind, labels, value, off in (
                ("dfix", ["Si1", "O1"], 1.62, 1.0),
                ("dfix", ["Si1", HOSTILE], 1.54, -7.0),
                ("isor", ["O1"], 1.61, 0.0),
            )
        ],
        "seconds": {"total": 61.6},
        "settings": {"thickness_model": HOSTILE, "g_max": 1.9806338767},
        "versions": {"torch": HOSTILE},
        "resolution_shells": [
            {"d_max": 5.0, "d_min": 1.0, "r1_obs": 0.06, "r1_all": 0.07, "n_all": 75},
            {"d_max": 1.0, "d_min": 0.5, "r1_obs": 0.1, "r1_all": 0.3, "n_all": 75},
        ],
        "angular_ranges": [dict(zip(names, row, strict=True)) for row in RANGES],
        "intensity_groups": [
            {"f_calc_min": 0.0, "f_calc_max": 2.0, "k": float("nan"), "r1_obs": 0.5, "r1_all": 1, "n_all": 5},
            {"f_calc_min": 2.0, "f_calc_max": 9.0, "k": 0.98, "r1_obs": 0.05, "r1_all": 0.06, "n_all": 5},
        ],
        "thickness": {
            "curve": [
                {"crystal": 0, "angle": a, "mean": 500.0, "spread": 90.0, "mean_su": 12.0, "spread_su": 5}
                for a in (-20.0, 0.0, 20.0)
            ]
        },
        "scan": {"thickness": [100.0, 200.0, 300.0], "chi_squared": [30.0, 10.0, 20.0]},
        "history": [
            {"stage": stage, "number": number, "r1_obs": 0.1, "r1_all": 0.2, "wr_all": 0.15, "r1_free": free,
             "largest_shift": 0.3}
            for stage, number, free in (("joint", 1, None), ("joint", 2, 0.12), (HOSTILE, 1, 0.11))
        ],
    }  # fmt: skip


def sample() -> ReportData:
    angle = np.array([-20.0, 0.0, 20.0])
    thickness = np.array([100.0, 200.0, 300.0, 400.0])
    structure = quartz()
    structure.labels[1] = HOSTILE
    return ReportData(
        title=HOSTILE,
        summary=summary(),
        reflections=reflections(),
        distributions=[
            Distribution(0, angle, thickness, np.array([[1.0, 2.0, 1.0, 0.0]] * 3) / 400.0),
            Distribution(1, angle, thickness, np.array([[1, 2, 1, 0], [0, 2, 2, 0], [0, 1, 2, 1]]) / 400.0),
        ],
        tilts=[Curve("across", 0, angle, 0.01 * angle, np.full(3, 0.02))],
        scales=[Curve("scale", 0, angle, np.array([9.0, 10.0, 11.0]))],
        structure=structure,
        cell="a = 4.91 Å",
        atoms=(["atom", "x"], [[HOSTILE, "0.4697(3)"]]),
        displacements=(["atom", "U_11 [Å²]"], [[HOSTILE, "0.0142(6)"]]),
        bonds=(["atom", "with"], []),
    )
