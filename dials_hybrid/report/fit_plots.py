"""Figures of how well the model fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from dials_hybrid.report.data import Reflections
from dials_hybrid.report.traces import axis, figure, line, numbers, percent, points, reference, subscripts

_MOST_POINTS = 4000  # of a scatter plot: more make the page slow


def amplitudes(reflections: Reflections) -> dict:
    """F_obs against F_calc. Of very many reflections, the worst and a regular choice of the rest."""
    shown = _shown(reflections.residual)
    f_o = np.sqrt(reflections.observed.clip(min=0.0))
    f_c = np.sqrt(reflections.calculated.clip(min=0.0))
    top = float(max(f_o.max(), f_c.max()))
    traces = [reference([0.0, top], [0.0, top], subscripts("F_obs = F_calc"))]
    hover = subscripts("%{text}<br>F_obs %{y:.4g}, F_calc %{x:.4g}")
    for index, (name, free) in enumerate((("work", False), ("free", True))):
        own = shown & (reflections.free == free)
        if own.any():
            text = _names(reflections, own)
            traces.append(points(name, f_c[own], f_o[own], index, text=text, hovertemplate=hover))
    note = "Negative intensities count as F = 0. The line is perfect agreement."
    if not shown.all():
        note += f" {shown.sum()} of {len(shown)} reflections are drawn, among them the worst."
    return figure(
        "amplitudes", "fit", "F_obs against F_calc", note, traces, xaxis=axis("F_calc"), yaxis=axis("F_obs")
    )


def residuals_by_angle(reflections: Reflections) -> dict:
    """Residuals against the scan angle, crystal by crystal."""
    shown = _shown(reflections.residual)
    crystals = np.unique(reflections.crystal)
    traces = []
    for index, crystal in enumerate(crystals):
        own = shown & (reflections.crystal == crystal)
        if own.any():
            x, y, name = reflections.angle[own], reflections.residual[own], f"crystal {crystal + 1}"
            text = _names(reflections, own)
            traces.append(points(name, x, y, index, text=text, hovertemplate="%{text}<extra></extra>"))
    limits = [float(reflections.angle.min()), float(reflections.angle.max())]
    zero = {**reference(limits, [0.0, 0.0], "none"), "showlegend": False}
    note = "Bad images are columns of large residuals. Above zero the calculated intensity is too large."
    return figure(
        "residuals-angle",
        "fit",
        "Residuals by scan angle",
        note,
        [zero, *traces],
        xaxis=axis("scan angle [°]"),
        yaxis=axis("Δ/σ"),
    )


def _names(reflections: Reflections, own: np.ndarray) -> list[str]:
    """What is shown when the mouse rests on a reflection."""
    columns = (reflections.hkl.tolist(), reflections.d, reflections.angle, reflections.residual)
    chosen = ([column[i] for i in np.flatnonzero(own)] for column in columns)
    return [
        f"{h} {k} {l}<br>{d:.2f} Å, {angle:.1f}°<br>Δ/σ {r:.1f}"
        for (h, k, l), d, angle, r in zip(*chosen, strict=True)  # noqa: E741
    ]


def _shown(residual: np.ndarray) -> np.ndarray:
    shown = np.zeros(len(residual), dtype=bool)
    shown[:: -(-len(residual) // _MOST_POINTS)] = True
    shown[np.argsort(-abs(residual))[: _MOST_POINTS // 10]] = True
    return shown


def by_resolution(shells: Sequence[Mapping]) -> dict:
    """R1 in shells of equal numbers of reflections."""
    x = [0.5 * (shell["d_max"] ** -2 + shell["d_min"] ** -2) for shell in shells]
    text = [f"{s['d_max']:.2f}–{s['d_min']:.2f} Å, {s['n_all']} reflections" for s in shells]
    ticks = {"tickvals": numbers(x), "ticktext": [f"{value**-0.5:.2f}" for value in x]}
    x_axis = axis("d [Å]", **ticks)
    note = "Shells hold equal numbers of reflections; the axis is linear in 1/d²."
    return _r_figure("resolution", "R1 by resolution", note, shells, x, text, x_axis)


def by_angle(ranges: Sequence[Mapping]) -> dict:
    """R1 in ranges of the scan angle, one pair of curves a crystal."""
    traces = []
    crystals = sorted({item["crystal"] for item in ranges})
    for index, crystal in enumerate(crystals):
        own = [item for item in ranges if item["crystal"] == crystal]
        x = [0.5 * (item["angle_min"] + item["angle_max"]) for item in own]
        text = [f"{i['angle_min']:.1f}–{i['angle_max']:.1f}°, {i['n_all']} reflections" for i in own]
        of = f", crystal {crystal + 1}" if len(crystals) > 1 else ""
        traces += _r_traces(own, x, text, 2 * index, of)
    note = "Ranges that stick out hint at beam damage, drift or a bad orientation."
    return figure(
        "angle",
        "fit",
        "R1 by scan angle",
        note,
        traces,
        xaxis=axis("scan angle [°]"),
        yaxis=axis("R1 [%]", rangemode="tozero"),
    )


def by_intensity(groups: Sequence[Mapping]) -> dict:
    """R1 of tenths of the reflections, weak to strong, and K = mean I_obs / mean I_calc."""
    x = list(range(1, len(groups) + 1))
    text = [f"F {g['f_calc_min']:.3g}–{g['f_calc_max']:.3g}, {g['n_all']} reflections" for g in groups]
    k = [np.nan if group["k"] is None else group["k"] for group in groups]
    ratio = line("K (right)", x, k, 2, yaxis="y2", text=text, hovertemplate="%{text}<br>K %{y:.3f}")
    ratio["line"]["dash"] = "dot"
    note = "Groups of equal size, weak to strong. K = mean I_obs / mean I_calc: 1 is ideal."
    plot = _r_figure("intensity", "R1 by intensity", note, groups, x, text, axis("I_calc, tenth", dtick=1))
    plot["data"].append(ratio)
    right = {"overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"}
    plot["layout"]["yaxis2"] = axis("K", rangemode="tozero", **right)
    return plot


def _r_figure(name: str, title: str, note: str, bins, x, text, x_axis: dict) -> dict:
    y = axis("R1 [%]", rangemode="tozero")
    return figure(name, "fit", title, note, _r_traces(bins, x, text, 0), xaxis=x_axis, yaxis=y)


def _r_traces(bins, x, text, index: int, of: str = "") -> list[dict]:
    hover = {"text": text, "hovertemplate": "%{text}<br>R1 %{y:.1f} %"}
    return [
        line(name + of, x, percent([item[key] for item in bins]), index + i, **hover)
        for i, (name, key) in enumerate((("I > 3σ", "r1_obs"), ("all", "r1_all")))
    ]


def normal_probability(reflections: Reflections) -> dict:
    """Sorted residuals against the quantiles of a normal distribution."""
    residual = np.sort(reflections.residual[~reflections.free])
    n = len(residual)
    expected = np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])
    shown = _shown(residual)
    limits = np.array([expected[0], expected[-1]])
    slope = float(np.median(abs(residual - np.median(residual)))) / 0.6745
    traces = [
        reference(limits, limits, "slope 1"),
        points("residuals", expected[shown], residual[shown], 0),
    ]
    note = (
        "Working set. On the dashed line the sigmas are right and errors normal; the slope of the middle "
        f"(here {slope:.1f}) says by how much sigmas are too small, curling ends mean outliers."
    )
    return figure(
        "residuals",
        "fit",
        "Normal probability plot of the residuals",
        note,
        traces,
        xaxis=axis("expected Δ/σ"),
        yaxis=axis("observed Δ/σ"),
    )
