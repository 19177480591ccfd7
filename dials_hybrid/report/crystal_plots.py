"""Figures of the crystal: its thickness, orientation and scale against the scan angle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dials_hybrid.report.data import Curve, Distribution
from dials_hybrid.report.traces import axis, band, figure, line, numbers, reference


def thickness_distribution(distribution: Distribution, several: bool = False) -> dict:
    """p(t): a curve where it is the same all along the scan, else a map."""
    changes = np.ptp(distribution.density, axis=0).max() > 1e-6 * distribution.density.max()
    title = "Thickness distribution"
    if several:
        title += f", crystal {distribution.crystal + 1}"
    return (_map if changes else _curve)(distribution, title)


def _curve(distribution: Distribution, title: str) -> dict:
    density = 1000.0 * distribution.density[0].clip(min=0.0)
    hover = "%{x:.0f} Å<br>p %{y:.3f} / 1000 Å"
    p = line("p", distribution.thickness, density, 0, hovertemplate=hover, showlegend=False)
    mean = float(density @ distribution.thickness / density.sum())
    top = float(density.max())
    return figure(
        f"thickness-map-{distribution.crystal + 1}",
        "crystal",
        title,
        "Part of the illuminated area at each thickness, the same all along the scan; dashed: the mean.",
        [reference([mean, mean], [0.0, top], "mean"), p],
        xaxis=axis("thickness [Å]", rangemode="tozero"),
        yaxis=axis("p [1/1000 Å]", rangemode="tozero"),
    )


def _map(distribution: Distribution, title: str) -> dict:
    """p(t) against the scan angle, with the mean."""
    density = distribution.density.clip(min=0.0)
    mean = density @ distribution.thickness / density.sum(1)
    map_ = {
        "type": "heatmap",
        "x": numbers(distribution.angle),
        "y": numbers(distribution.thickness),
        "z": [numbers(row) for row in 1000.0 * density.T],
        "colorscale": "@heat",
        "zmin": 0,
        "colorbar": {"title": {"text": "p [1/1000 Å]", "side": "right"}, "thickness": 12},
        "hovertemplate": "%{x:.1f}°, %{y:.0f} Å<br>p %{z:.3f} / 1000 Å<extra></extra>",
    }
    curve = line("mean", distribution.angle, mean, 1, mode="lines")
    return figure(
        f"thickness-map-{distribution.crystal + 1}",
        "crystal",
        title,
        "Part of the illuminated area at each thickness; the line is the mean.",
        [map_, curve],
        xaxis=axis("scan angle [°]", showgrid=False),
        yaxis=axis("thickness [Å]", showgrid=False, rangemode="tozero"),
    )


def thickness_curve(curve: Sequence[Mapping]) -> dict:
    """Mean and spread of p(t) against the scan angle, with one s.u. on each side where it is known."""
    crystals = sorted({item["crystal"] for item in curve})
    traces, known = [], False
    for row, crystal in enumerate(crystals):
        own = [item for item in curve if item["crystal"] == crystal]
        of = f", crystal {crystal + 1}" if len(crystals) > 1 else ""
        angle = [item["angle"] for item in own]
        for column, key in enumerate(("mean", "spread")):
            value = np.array([item[key] for item in own], dtype=float)
            uncertainty = [item.get(f"{key}_su") for item in own]
            index = 2 * row + column
            if None not in uncertainty:
                known = True
                traces.append(band(angle, value - uncertainty, value + uncertainty, index))
            traces.append(line(f"{key}{of}", angle, value, index, mode="lines"))
    note = "Spread: standard deviation of the thickness over the illuminated area."
    note += " The bands are one s.u. on each side." if known else ""
    return figure(
        "thickness",
        "crystal",
        "Mean thickness and its spread",
        note,
        traces,
        xaxis=axis("scan angle [°]"),
        yaxis=axis("thickness [Å]", rangemode="tozero"),
    )


def thickness_scan(scan: Mapping | None) -> dict | None:
    """chi^2 of plates before anything was refined."""
    if not scan:
        return None
    chi = np.array(scan["chi_squared"]) / np.nanmin(scan["chi_squared"])
    return figure(
        "scan",
        "crystal",
        "Thickness scan of the start model",
        "Plates of one thickness, before anything was refined. A flat or many-valleyed curve is a warning.",
        [line("plates", scan["thickness"], chi, 0, mode="lines", showlegend=False)],
        xaxis=axis("thickness [Å]", rangemode="tozero"),
        yaxis=axis("χ² / lowest"),
    )


def tilts(curves: Sequence[Curve]) -> dict:
    note = "Correction of the orientation, with one s.u. on each side."
    return _curves("tilts", "Orientation against scan angle", note, curves, "tilt [°]")


def scales(curves: Sequence[Curve]) -> dict:
    note = "I_obs = scale × I_dyn, with one s.u. on each side."
    return _curves("scale", "Scale against scan angle", note, curves, "scale", rangemode="tozero")


def _curves(name, title, note, curves: Sequence[Curve], what: str, **options) -> dict:
    traces = []
    several = len({curve.crystal for curve in curves}) > 1
    for index, curve in enumerate(curves):
        x, y = curve.angle, curve.value
        if curve.uncertainty is not None:
            traces.append(band(x, y - curve.uncertainty, y + curve.uncertainty, index))
        name = f"{curve.name}, crystal {curve.crystal + 1}" if several else curve.name
        traces.append(line(name, x, y, index, mode="lines"))
    axes = {"xaxis": axis("scan angle [°]"), "yaxis": axis(what, **options)}
    return figure(name, "crystal", title, note, traces, **axes)
