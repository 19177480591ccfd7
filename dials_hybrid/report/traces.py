"""Pieces of the figures: axes, lines, points and bands, as plotly wants them.

A colour "@name" is the variable --name of the style sheet: the page fills it in, for light and for
dark. Text that may come from a file passes through `literal`.
"""

from __future__ import annotations

import html
import re

import numpy as np

_COLOURS = ("@c1", "@c2", "@c3", "@c4")


def figure(name: str, section: str, title: str, note: str, traces: list[dict], **layout) -> dict:
    return {
        "id": name,
        "section": section,
        "title": title,
        "note": note,
        "data": traces,
        "layout": layout,
    }


def axis(title: str, **options) -> dict:
    return {"title": {"text": subscripts(title)}, **options}


def subscripts(text: str) -> str:
    """HTML of one of this package's texts: F_obs with a lowered "obs"."""
    return re.sub(r"_(\w+)", r"<sub>\1</sub>", text)


def literal(text: str) -> str:
    """Text that plotly shows as it is: it would understand some HTML, links too."""
    return html.escape(str(text))


def colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def line(name: str, x, y, index: int, **options) -> dict:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": numbers(x),
        "y": numbers(y),
        "line": {"color": colour(index), "width": 2},
        "marker": {"color": colour(index), "size": 6},
        **options,
    }


def points(name: str, x, y, index: int, **options) -> dict:
    marker = {"color": colour(index), "size": 5, "opacity": 0.6}
    points = {"type": "scatter", "mode": "markers", "name": name, "marker": marker}
    return {**points, "x": numbers(x), "y": numbers(y), **options}


def reference(x, y, name: str) -> dict:
    """A thin dashed line to compare with."""
    line = {"color": "@muted", "width": 1, "dash": "dash"}
    trace = {"type": "scatter", "mode": "lines", "name": name, "line": line, "hoverinfo": "skip"}
    return {**trace, "x": numbers(x), "y": numbers(y)}


def band(x, low, high, index: int) -> dict:
    """The area between two curves, in the colour of a line."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": numbers([*x, *reversed(x)]),
        "y": numbers([*high, *reversed(low)]),
        "fill": "toself",
        "fillcolor": f"{colour(index)}-band",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def numbers(values) -> list[float | None]:
    """Six digits are more than a screen shows; what is not finite becomes a gap."""
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=float)]


def percent(values) -> np.ndarray:
    return 100.0 * np.array([np.nan if value is None else value for value in values], dtype=float)
