"""The report as one HTML page that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from dials_hybrid.report import page_tables
from dials_hybrid.report.data import ReportData
from dials_hybrid.report.definitions import DEFINITIONS
from dials_hybrid.report.page_tables import duration, percent, short
from dials_hybrid.report.plots import plots
from dials_hybrid.report.structure import drawing
from dials_hybrid.report.traces import subscripts

_SECTIONS = {"fit": "Fit", "crystal": "Crystal", "cycles": "Convergence"}


def render(data: ReportData) -> str:
    """The page. Text from files is escaped by jinja2, and in the data of the scripts by `_script`."""
    environment = Environment(
        loader=PackageLoader("dials_hybrid.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["sub"] = lambda text: Markup(subscripts(str(escape(text))))
    environment.filters["chemical"] = chemical
    figures, summary = plots(data), data.summary
    return environment.get_template("report.html").render(
        title=data.title,
        subtitle=[data.cell, _extent(data)],
        tiles=tiles(summary),
        hints=[hint["text"] for hint in summary["hints"]],
        sections=_SECTIONS,
        plots=figures,
        content=_script({"plots": figures, "structure": drawing(data.structure)}),
        atoms=data.atoms,
        displacements=data.displacements,
        bonds=data.bonds,
        figures=page_tables.figures(summary),
        rejected=summary["rejected"],
        comparison=page_tables.thickness_models(summary["thickness_comparison"]),
        effects=page_tables.effects(summary.get("physics", ())),
        peaks=page_tables.peaks(summary["difference_map"]),
        map_rms=f"{summary['difference_map']['rms']:.3f}",
        map_unit=summary["difference_map"]["unit"].replace("A", "Å"),
        reflections=page_tables.worst_reflections(data.reflections),
        ranges=page_tables.worst_ranges(summary["angular_ranges"]),
        crystals=page_tables.crystals(summary["crystals"]),
        parameters=page_tables.refined(summary["parameters"]),
        correlations=page_tables.correlations(summary["correlations"]),
        restraints=page_tables.restraints(summary.get("restraints", ())),
        settings={name: short(value) for name, value in summary["settings"].items()},
        versions=summary["versions"],
        definitions=DEFINITIONS,
        style=_asset("report.css"),
        scripts=[_asset(name) for name in ("plotly-cartesian.min.js", "structure.js", "report.js")],
    )


def chemical(title: str) -> Markup:
    """ "O2 Si, P 32 2 1" with the numbers of atoms and the screw axes as subscripts."""
    formula, comma, group = str(escape(title)).rpartition(", ")
    formula = re.sub(r"(?<=[A-Za-z])(\d[\d.]*)", r"<sub>\1</sub>", formula)
    return Markup(formula + comma + re.sub(r"\b([2346])([1-5])\b", r"\1<sub>\2</sub>", group))


def _extent(data: ReportData) -> str:
    """How much there was to refine against."""
    summary = data.summary
    return (
        f"{summary['n_used']} observations to {data.reflections.d.min():.2f} Å, "
        f"{summary['completeness']:.0%} of the unique ones; λ = {summary['wavelength']:.4f} Å"
    )


def _asset(name: str) -> Markup:
    """A file of this package, to stand in the page as it is."""
    return Markup(files("dials_hybrid.report").joinpath("assets", name).read_text(encoding="utf-8"))


def _script(content: Mapping) -> Markup:
    """JSON that cannot end its <script> element, whatever its strings hold."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def tiles(summary: Mapping) -> list[tuple[str, str, str, str]]:
    """Name, value, a second line and the definition of the figures that one quotes."""
    hand = summary["absolute_structure"]
    rows = [
        ("R1 (I > 3σ)", percent(summary["r1_obs"]), f"{summary['n_observed']} reflections"),
        ("R1 (all)", percent(summary["r1_all"]), f"{summary['n_used']} reflections"),
        ("wR", percent(summary["wr_all"]), f"{summary['n_used']} reflections"),
        ("R1_free", percent(summary["r1_free"]), f"{summary['n_free']} held out"),
        ("Goodness of fit", f"{summary['goodness_of_fit']:.2f}", f"{summary['n_parameters']} parameters"),
        ("Hand", str(hand["hand"]) if hand else "–", _certainty(hand)),
        ("Thickness", f"{summary['thickness_mean']:.0f} Å", f"{summary['thickness_model']} model"),
        ("Time", duration(summary["seconds"]["total"]), f"{len(summary['history'])} cycles"),
    ]
    return [(name, value, more, DEFINITIONS[name]) for name, value, more in rows]


def _certainty(hand: Mapping | None) -> str:
    """How well the hands are told apart."""
    if not hand:
        return "not determined"
    z = hand["z_score_observed_noise_adjusted"]
    if not hand["determined"]:
        return f"not determined: z-score {z:.1f}"
    return f"z-score {z:.1f}, P {hand['probability']:.4f}, other hand {percent(hand['r1_obs_other'])}"
