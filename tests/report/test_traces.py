"""Pieces of figures: what plotly is given."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sample import HOSTILE

from dials_hybrid.report import traces


def test_numbers_are_short_and_what_is_not_finite_is_a_gap():
    values = traces.numbers([1.0 / 3.0, 123456789.0, np.nan, -np.inf])
    assert values == [0.333333, 123457000.0, None, None]
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_percent_of_what_is_not_known_is_no_number():
    found = traces.percent([0.05, None])
    assert found[0] == pytest.approx(5.0) and np.isnan(found[1])


def test_the_index_of_a_figure_is_lowered():
    assert traces.axis("F_obs / F_calc")["title"]["text"] == "F<sub>obs</sub> / F<sub>calc</sub>"


def test_text_of_a_file_stays_text():
    assert "<" not in traces.literal(HOSTILE)


def test_colours_begin_anew_where_there_are_no_more():
    first = [traces.colour(i) for i in range(4)]
    assert len(set(first)) == 4 and traces.colour(4) == first[0]


def test_a_band_goes_along_one_curve_and_back_along_the_other():
    band = traces.band([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [4.0, 5.0, 6.0], 1)
    assert band["x"] == [1.0, 2.0, 3.0, 3.0, 2.0, 1.0]
    assert band["y"] == [4.0, 5.0, 6.0, 2.0, 1.0, 0.0]
    assert band["fillcolor"].startswith(traces.colour(1))


def test_options_go_beside_the_points():
    trace = traces.points("observed", [1.0], [2.0], 0, text=["a"])
    assert (trace["name"], trace["x"], trace["y"], trace["text"]) == ("observed", [1.0], [2.0], ["a"])
    assert traces.line("fit", [0.0], [1.0], 2)["line"]["color"] == traces.colour(2)
