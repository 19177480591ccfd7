"""The report as one HTML page that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.resources import files

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from dials_hybrid.report.data import Reflections, ReportData
from dials_hybrid.report.definitions import DEFINITIONS
from dials_hybrid.report.plots import plots
from dials_hybrid.report.structure import drawing
from dials_hybrid.report.traces import subscripts

_WORST = 20  # rows of the tables of worst reflections and correlations
_SECTIONS = {"fit": "Fit", "crystal": "Crystal", "cycles": "Convergence"}


def render(data: ReportData) -> str:
    """The page. Text from files is escaped by jinja2, and in the data of the scripts by `_script`."""
    environment = Environment(
        loader=PackageLoader("dials_hybrid.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sub"] = lambda text: Markup(subscripts(str(escape(text))))
    figures = plots(data)
    atoms_header, atoms = data.atoms
    return environment.get_template("report.html").render(
        title=data.title,
        tiles=tiles(data.summary),
        hints=hints(data.summary),
        sections=_SECTIONS,
        plots=figures,
        content=_script({"plots": figures, "structure": drawing(data.structure)}),
        atoms_header=atoms_header,
        atoms=atoms,
        figures=_figures(data.summary),
        rejected=data.summary["rejected"],
        comparison=thickness_models(data.summary["thickness_comparison"]),
        peaks=peaks(data.summary["difference_map"]),
        map_unit=data.summary["difference_map"]["unit"],
        reflections=worst_reflections(data.reflections),
        ranges=worst_ranges(data.summary["angular_ranges"]),
        parameters=[
            (name, *_with_uncertainty(value, uncertainty)) for name, value, uncertainty in data.parameters
        ],
        correlations=[(a, b, f"{value:+.3f}") for a, b, value in data.correlations],
        settings={name: _short(value) for name, value in data.summary["settings"].items()},
        versions=data.summary["versions"],
        definitions=DEFINITIONS,
        style=_asset("report.css"),
        scripts=[_asset(name) for name in ("plotly-cartesian.min.js", "structure.js", "report.js")],
    )


def _asset(name: str) -> Markup:
    """A file of this package, to stand in the page as it is."""
    return Markup(files("dials_hybrid.report").joinpath("assets", name).read_text(encoding="utf-8"))


def _script(content: Mapping) -> Markup:
    """JSON that cannot end its <script> element, whatever its strings hold."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


# --------------------------------------------------------------------------------- numbers


def percent(value: float | None) -> str:
    return "–" if _missing(value) else f"{100.0 * value:.2f} %"


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _with_uncertainty(value: float, uncertainty: float) -> tuple[str, str]:
    """Both with two digits of the s.u., or the value with six digits where it has none."""
    if not (math.isfinite(uncertainty) and uncertainty > 0.0):
        return f"{value:.6g}", "–"
    digits = max(0, 1 - math.floor(math.log10(uncertainty)))
    return f"{value:.{digits}f}", f"{uncertainty:.{digits}f}"


def _short(value) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h {seconds % 3600 // 60} min"


# ---------------------------------------------------------------------------------- tables


def tiles(summary: Mapping) -> list[tuple[str, str, str, str]]:
    """Name, value, a second line and the definition of the figures that one quotes."""
    hand = summary["absolute_structure"]
    rows = [
        ("R1 (I > 3σ)", percent(summary["r1_obs"]), f"{summary['n_observed']} reflections"),
        ("R1 (all)", percent(summary["r1_all"]), f"{summary['n_used']} reflections"),
        ("wR", percent(summary["wr_all"]), f"{summary['n_used']} reflections"),
        ("R1_free", percent(summary["r1_free"]), f"{summary['n_free']} reflections held out"),
        ("Goodness of fit", f"{summary['goodness_of_fit']:.2f}", f"{summary['n_parameters']} parameters"),
        ("Hand", "–", "not determined")
        if not hand
        else ("Hand", str(hand["hand"]), f"z-score {hand['z_score']:.1f}"),
        ("Thickness", f"{summary['thickness_mean']:.0f} Å", f"{summary['thickness_model']} model"),
    ]
    rows.append(("Time", _duration(summary["seconds"]["total"]), f"{len(summary['history'])} cycles"))
    return [(name, value, more, DEFINITIONS[name]) for name, value, more in rows]


def hints(summary: Mapping) -> list[str]:
    """What the reader should worry about."""
    found = [] if summary["converged"] else ["The last stage ended before it converged."]
    return [*found, *summary.get("hints", ())]


def _figures(summary: Mapping) -> list[tuple[str, str, str]]:
    """Name, value and definition of the figures of second rank."""
    rows = [
        ("R1 (I > 3σ) of merged reflections", percent(summary["merged_r1_obs"]), "Merged R1"),
        ("R1 (all) of merged reflections", percent(summary["merged_r1_all"]), "Merged R1"),
        (
            "Mean of R1 over ranges of angle (not comparable)",
            percent(summary["mean_of_ranges_r1_obs"]),
            "Mean of ranges",
        ),
    ]
    rows += [("Mosaic spread", f"{s:.3f}°", "Mosaic spread") for s in summary["mosaic_spread"] or ()]
    table = [(name, value, DEFINITIONS[key]) for name, value, key in rows]
    effective = f"{summary['n_parameters']}, of them effective {summary['n_parameters_effective']:.1f}"
    return [
        *table,
        ("Error model", _error_model(summary["error_model"]), DEFINITIONS["Δ/σ"]),
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
        ("Wavelength", f"{summary['wavelength']:.5f} Å", "Of the electrons, relativistic."),
    ]


def _error_model(errors: Mapping) -> str:
    return f"k {errors['gain']:.2f}, a {errors['instability']:.3f}, b {errors['floor']:.3g}"


def thickness_models(comparison) -> list[tuple[str, ...]]:
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


def worst_reflections(reflections: Reflections) -> list[tuple[str, ...]]:
    """Reflections that fit worst: hkl, d, crystal, angle, I_obs, sigma, I_calc, delta/sigma, set."""
    order = np.argsort(-abs(reflections.residual), kind="stable")[:_WORST]
    return [
        (
            " ".join(str(int(index)) for index in reflections.hkl[i]),
            f"{reflections.d[i]:.3f}",
            str(int(reflections.crystal[i]) + 1),
            f"{reflections.angle[i]:.2f}",
            f"{reflections.observed[i]:.4g}",
            f"{reflections.sigma[i]:.3g}",
            f"{reflections.calculated[i]:.4g}",
            f"{reflections.residual[i]:+.1f}",
            "free" if reflections.free[i] else "",
        )
        for i in order
    ]


def worst_ranges(ranges) -> list[tuple[str, ...]]:
    """Ranges of scan angle with the highest R1: crystal, frame, angles, numbers of reflections, R1s."""

    def r1(item) -> float:
        return -1.0 if _missing(item["r1_obs"]) else item["r1_obs"]

    return [
        (
            str(item["crystal"] + 1),
            "" if item["frame"] is None else str(item["frame"]),
            f"{item['angle_min']:.1f} – {item['angle_max']:.1f}",
            str(item["n_all"]),
            str(item["n_observed"]),
            percent(item["r1_obs"]),
            percent(item["r1_all"]),
        )
        for item in sorted(ranges, key=r1, reverse=True)[: _WORST // 2]
    ]
