"""The figures of the report in reading order, and those of its convergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dials_hybrid.report.crystal_plots import (
    scales,
    thickness_curve,
    thickness_distribution,
    thickness_scan,
    tilts,
)
from dials_hybrid.report.data import ReportData
from dials_hybrid.report.fit_plots import (
    amplitudes,
    by_angle,
    by_intensity,
    by_resolution,
    normal_probability,
    residuals_by_angle,
)
from dials_hybrid.report.traces import axis, figure, line, literal, percent, subscripts


def plots(data: ReportData) -> list[dict]:
    """All figures in reading order: dictionaries of id, section, title, note, data and layout."""
    summary, reflections = data.summary, data.reflections
    figures = [
        amplitudes(reflections),
        by_resolution(summary["resolution_shells"]),
        by_angle(summary["angular_ranges"]),
        by_intensity(summary["intensity_groups"]),
        residuals_by_angle(reflections),
        normal_probability(reflections),
        *(thickness_distribution(one, several=len(data.distributions) > 1) for one in data.distributions),
        thickness_curve(summary["thickness"]["curve"]),
        thickness_scan(summary["scan"]),
        tilts(data.tilts),
        scales(data.scales),
        convergence(summary["history"]),
        shifts(summary["history"]),
    ]
    return [plot for plot in figures if plot is not None]


def convergence(history: Sequence[Mapping]) -> dict | None:
    """R values of each cycle."""
    if not history:
        return None
    names = {"r1_obs": "R1, I > 3σ", "r1_all": "R1, all", "wr_all": "wR", "r1_free": subscripts("R1_free")}
    x, text = _cycles(history)
    hover = "%{text}<br>%{y:.2f} %"
    traces = [
        line(name, x, percent([cycle[key] for cycle in history]), i, text=text, hovertemplate=hover)
        for i, (key, name) in enumerate(names.items())
    ]
    layout = {"yaxis": axis("%", rangemode="tozero"), **_stages(history)}
    note = "R1_free should fall with the others; where it rises, the model fits noise."
    return figure("convergence", "cycles", "R values of each cycle", note, traces, **layout)


def shifts(history: Sequence[Mapping]) -> dict | None:
    """Largest shift / s.u. of each cycle."""
    if not history:
        return None
    x, text = _cycles(history)
    largest = [np.nan if cycle["largest_shift"] is None else cycle["largest_shift"] for cycle in history]
    hover = "%{text}<br>%{y:.3g}"
    trace = line("shift/s.u.", x, largest, 0, showlegend=False, text=text, hovertemplate=hover)
    layout = {"yaxis": axis("largest shift / s.u.", type="log", dtick="D2"), **_stages(history)}
    note = "Of the structure where it is refined, else of all parameters. Small at the end means converged."
    return figure("shifts", "cycles", "Largest shift of each cycle", note, [trace], **layout)


def _cycles(history) -> tuple[list[int], list[str]]:
    names = [f"{literal(cycle['stage'])} {cycle['number']}" for cycle in history]
    return list(range(1, len(history) + 1)), names


def _stages(history) -> dict:
    """The axis of cycles, names of the stages, and lines where one begins."""
    begins = [i for i, cycle in enumerate(history) if i == 0 or cycle["stage"] != history[i - 1]["stage"]]
    style = {"color": "@grid", "width": 2}
    top = {"yref": "paper", "y": 1.0, "yanchor": "top", "xanchor": "left"}
    name = {"showarrow": False, "textangle": -90, "font": {"color": "@muted", "size": 11}}
    return {
        "xaxis": axis("cycle", tickformat="d", range=[0.5, len(history) + 0.5]),
        "shapes": [
            {"type": "line", "x0": i + 0.5, "x1": i + 0.5, "yref": "paper", "y0": 0, "y1": 1, "line": style}
            for i in begins[1:]
        ],
        "annotations": [{"text": literal(history[i]["stage"]), "x": i + 0.5, **name, **top} for i in begins],
    }
