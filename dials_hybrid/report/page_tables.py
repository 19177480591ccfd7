"""The tables of the page as rows of text, and how numbers are written in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dials_hybrid.report.data import Reflections, Table
from dials_hybrid.report.definitions import DEFINITIONS

_WORST = 20  # rows of a table of what is worst


def percent(value: float | None) -> str:
    return "–" if value is None or missing(value) else f"{100.0 * value:.2f} %"


def missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def with_uncertainty(value: float, uncertainty: float) -> tuple[str, str]:
    """Both with two digits of the s.u., or the value with six digits where it has none."""
    if not (math.isfinite(uncertainty) and uncertainty > 0.0):
        return f"{value:.6g}", "–"
    digits = max(0, 1 - math.floor(math.log10(uncertainty)))
    return f"{value:.{digits}f}", f"{uncertainty:.{digits}f}"


def short(value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h {seconds % 3600 // 60} min"


def intensity(value: float) -> str:
    """Whole numbers from a thousand on, four digits below."""
    return f"{value:.0f}" if abs(value) >= 1000.0 else f"{value:.4g}"


def filled(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The table without columns in which nothing stands."""
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def figures(summary: Mapping) -> list[tuple[str, str, str]]:
    """Name, value and definition of the figures of second rank."""
    rows = [
        ("R1 (I > 3σ) of merged reflections", percent(summary["merged_r1_obs"]), "Merged R1"),
        ("R1 (all) of merged reflections", percent(summary["merged_r1_all"]), "Merged R1"),
        (
            "Mean of R1 over ranges of angle (not comparable)",
            percent(summary["mean_of_ranges_r1_obs"]),
            "Mean of ranges",
        ),
        (
            "The same with a scale for each range (not comparable)",
            percent(summary["mean_of_ranges_r1_obs_own_scales"]),
            "Mean of ranges",
        ),
    ]
    rows += [("Mosaic spread", f"{s:.3f}°", "Mosaic spread") for s in summary["mosaic_spread"] or ()]
    if absorption := summary["absorption"]:
        value = with_uncertainty(absorption["factor"], absorption["su"] or 0.0)
        rows.append(("Absorption, times theory", " ± ".join(value).replace(" ± –", ""), "Absorption"))
    table = [(name, value, DEFINITIONS[key]) for name, value, key in rows]
    effective = f"{summary['n_parameters']}, of them effective {summary['n_parameters_effective']:.1f}"
    return [
        *table,
        *[
            (_of_crystal("Error model", i, summary), _error_model(each["error_model"]), DEFINITIONS["Δ/σ"])
            for i, each in enumerate(summary["crystals"], start=1)
        ],
        (
            "Goodness of fit with the input σ",
            f"{summary['goodness_of_input_sigmas']:.2f}",
            "What the goodness of fit would be without the error model.",
        ),
        (
            "Thickness in the s.u.s",
            f"× {summary['thickness_in_uncertainties']:.2f}",
            "Largest factor by which not knowing the thickness raises an s.u. of the structure.",
        ),
        ("Parameters", effective, "A parameter that is held by its prior counts less than one."),
        ("Rows in the reflection table", str(summary["n_rows"]), "Before any were left out."),
        (
            "Completeness",
            percent(summary["completeness"]),
            "Of the unique reflections, Friedel mates as one.",
        ),
        ("Wavelength", f"{summary['wavelength']:.5f} Å", "Of the electrons, relativistic."),
    ]


def _of_crystal(name: str, number: int, summary: Mapping) -> str:
    return f"{name}, crystal {number}" if len(summary["crystals"]) > 1 else name


def crystals(each: Sequence[Mapping]) -> Table:
    """What each crystal contributes; no rows for a single one."""
    header = ["crystal", "reflections", "I > 3σ", "R1 (I > 3σ)", "R1 (all)", "wR", "Goodness of fit"]
    header += [
        "part of χ²",
        "Part of the structure",
        "mean thickness [Å]",
        "mosaic spread [°]",
        "weight",
        "U added [Å²]",
    ]
    rows = [
        (
            str(number),
            str(one["n_used"]),
            str(one["n_observed"]),
            percent(one["r1_obs"]),
            percent(one["r1_all"]),
            percent(one["wr_all"]),
            f"{one['goodness_of_fit']:.2f}",
            f"{one['chi_squared']:.0%}",
            "" if one["information"] is None else f"{one['information']:.0%}",
            f"{one['thickness_mean']:.0f}",
            "" if one["mosaic_spread"] is None else f"{one['mosaic_spread']:.3f}",
            f"{one['weight']:.2f}",
            "" if one["overall_u"] is None else "{value:.4f} ± {su:.4f}".format(**one["overall_u"]),
        )
        for number, one in enumerate(each, start=1)
    ]
    return filled(header, rows if len(rows) > 1 else [])


def _error_model(errors: Mapping) -> str:
    return f"k {errors['gain']:.2f}, a {errors['instability']:.3f}, b {errors['floor']:.3g}"


def refined(parameters: Sequence[Mapping]) -> list[tuple[str, str, str]]:
    """Name, value and s.u. of the refined numbers."""
    return [(each["name"], *with_uncertainty(each["value"], each["su"])) for each in parameters]


def correlations(largest: Sequence[Mapping]) -> list[tuple[str, str, str]]:
    return [(each["first"], each["second"], f"{each['value']:+.3f}") for each in largest]


def thickness_models(comparison: Sequence[Mapping]) -> list[tuple[str, ...]]:
    """Thickness models that were compared: name, parameters, R1, ln L behind the best, choice."""
    return [
        (
            item["model"],
            f"{item['n_parameters']:.1f}",
            percent(item["r1_obs"]),
            f"{item['behind']:.1f} ± {item['standard_error']:.1f}",
            "chosen" if item["chosen"] else "",
        )
        for item in comparison
    ]


def effects(physics: Sequence[Mapping]) -> list[tuple[str, str, str]]:
    """What is lost and saved without each option of the physics: option, R1, seconds of a calculation."""
    return [
        (
            f"without {effect['without']}" if effect["without"] else "as refined",
            percent(effect["r1_obs"]),
            f"{effect['seconds']:.2f}",
        )
        for effect in physics
    ]


def peaks(difference_map: Mapping) -> list[tuple[str, ...]]:
    """Highest peaks and deepest holes of the difference map: height, site, nearest atom, distance."""
    return [
        (
            f"{peak['height']:+.3f}",
            *(f"{x:.4f}" for x in peak["site"]),
            peak["atom"],
            f"{peak['distance']:.2f}",
        )
        for kind in ("peaks", "holes")
        for peak in difference_map[kind][: _WORST // 4]
    ]


def restraints(each: Sequence[Mapping]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Of each kind: number, r.m.s. and largest deviation; then those that are kept worst, one by one."""
    off: dict[str, list[float]] = {}
    for restraint in each:
        off.setdefault(restraint["kind"], []).append(restraint["in_sigmas"])
    kinds: list[tuple[str, ...]] = [
        (kind.upper(), str(len(x)), f"{np.square(x).mean() ** 0.5:.2f}", f"{max(map(abs, x)):.2f}")
        for kind, x in off.items()
    ]
    worst = sorted(each, key=lambda restraint: -abs(restraint["in_sigmas"]))[:_WORST]
    rows: list[tuple[str, ...]] = [
        (
            restraint["kind"].upper(),
            " ".join(restraint["labels"]),
            f"{restraint['value']:.4f}",
            f"{restraint['target']:.4f}",
            f"{restraint['sigma']:.4f}",
            f"{restraint['in_sigmas']:+.2f}",
        )
        for restraint in worst
    ]
    return kinds, rows


def worst_reflections(reflections: Reflections) -> Table:
    """Reflections that fit worst; the crystal is named where there are several."""
    header = ["h k l", "d [Å]", "crystal", "angle [°]", "I_obs", "σ", "I_calc", "Δ/σ", "set"]
    several = len(set(reflections.crystal.tolist())) > 1
    order = np.argsort(-abs(reflections.residual), kind="stable")[:_WORST]
    rows = [
        (
            " ".join(str(int(index)) for index in reflections.hkl[i]),
            f"{reflections.d[i]:.3f}",
            str(int(reflections.crystal[i]) + 1) if several else "",
            f"{reflections.angle[i]:.2f}",
            intensity(reflections.observed[i]),
            f"{reflections.sigma[i]:.3g}",
            intensity(reflections.calculated[i]),
            f"{reflections.residual[i]:+.1f}",
            "free" if reflections.free[i] else "",
        )
        for i in order
    ]
    return filled(header, rows)


def _range(low: float, high: float) -> str:
    return f"{low:.1f} to {high:.1f}" if high > low else f"{low:.1f}"


def worst_ranges(ranges: Sequence[Mapping]) -> Table:
    """Ranges of scan angle with the highest R1; crystals and frames are counted from 1, as in the CIF."""
    header = ["crystal", "frame", "angle [°]", "reflections", "I > 3σ", "R1 (I > 3σ)", "R1 (all)"]
    several = len({item["crystal"] for item in ranges}) > 1

    def r1(item) -> float:
        return -1.0 if missing(item["r1_obs"]) else item["r1_obs"]

    rows = [
        (
            str(item["crystal"] + 1) if several else "",
            "" if item["frame"] is None else str(item["frame"] + 1),
            _range(item["angle_min"], item["angle_max"]),
            str(item["n_all"]),
            str(item["n_observed"]),
            percent(item["r1_obs"]),
            percent(item["r1_all"]),
        )
        for item in sorted(ranges, key=r1, reverse=True)[: _WORST // 2]
    ]
    return filled(header, rows)
