from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sample import HOSTILE, RANGES, sample

from dials_hybrid.report.page_tables import (
    correlations,
    crystals,
    duration,
    effects,
    figures,
    filled,
    intensity,
    peaks,
    percent,
    refined,
    restraints,
    thickness_models,
    with_uncertainty,
    worst_ranges,
    worst_reflections,
)


@pytest.mark.parametrize(
    ("value", "uncertainty", "text"),
    [
        (0.470971, 0.000288, ("0.47097", "0.00029")),
        (692.31, 17.2, ("692", "17")),
        (0.25, 0.0, ("0.25", "–")),
        (1.0, math.nan, ("1", "–")),
    ],
)
def test_numbers_have_two_digits_of_their_uncertainty(value, uncertainty, text):
    assert with_uncertainty(value, uncertainty) == text


def test_numbers_as_text():
    assert [percent(value) for value in (0.08123, None, math.nan)] == ["8.12 %", "–", "–"]
    assert [intensity(value) for value in (16732.4, -1234.5, 287.512, 3.7)] == [
        "16732",
        "-1234",
        "287.5",
        "3.7",
    ]
    assert [duration(seconds) for seconds in (61.6, 119.0, 300.0, 7400.0)] == [
        "62 s",
        "119 s",
        "5 min",
        "2 h 3 min",
    ]


def test_empty_columns_are_left_out():
    assert filled(["a", "b", "c"], [["1", "", "2"], ["", "", "3"]]) == (["a", "c"], [["1", "2"], ["", "3"]])


def test_worst_reflections_first():
    data = sample().reflections
    header, rows = worst_reflections(data)
    assert header == ["h k l", "d [Å]", "crystal", "angle [°]", "I_obs", "σ", "I_calc", "Δ/σ", "set"]
    first = dict(zip(header, rows[0], strict=True))
    assert first["h k l"] == " ".join(str(index) for index in data.hkl[7])
    assert (first["Δ/σ"], first["set"], first["crystal"]) == ("-30.0", "", "2")
    sizes = [abs(float(row[header.index("Δ/σ")])) for row in rows]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 20
    worst = np.argsort(-abs(data.residual))[:20]
    assert [row[-1] for row in rows] == ["free" if data.free[i] else "" for i in worst]
    assert [row[1] for row in rows] == [f"{data.d[i]:.3f}" for i in worst]


def test_one_crystal_needs_no_name():
    data = sample().reflections
    header, _ = worst_reflections(replace(data, crystal=np.zeros_like(data.crystal)))
    assert "crystal" not in header
    ranges = [part for part in sample().summary["angular_ranges"] if part["crystal"] == 0]
    assert worst_ranges(ranges)[0][0] == "angle [°]"  # no frames in a sweep either


def test_worst_ranges_first():
    header, rows = worst_ranges(sample().summary["angular_ranges"])
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    assert columns["R1 (I > 3σ)"] == ("19.00 %", "7.00 %", "–")
    assert columns["I > 3σ"] == tuple(str(RANGES[i][6]) for i in (2, 0, 1))
    assert columns["frame"] == ("4", "", "")  # counted from 1
    assert columns["crystal"] == ("2", "1", "1")


def test_a_frame_has_one_angle():
    sweep, _, frame = sample().summary["angular_ranges"]
    ranges = [{**sweep, "angle_min": -1.26, "angle_max": 3.0}, {**frame, "angle_min": 3.0, "angle_max": 3.0}]
    header, rows = worst_ranges(ranges)
    assert [row[header.index("angle [°]")] for row in rows] == ["3.0", "-1.3 to 3.0"]


def test_peaks_come_before_holes():
    rows = peaks(sample().summary["difference_map"])
    assert [row[0] for row in rows] == ["+0.457", "-0.500"]
    assert rows[1][1:] == ("0.0000", "0.0000", "0.5000", "O1", "1.00")


def test_restraints_by_kind_and_from_the_worst():
    kinds, worst = restraints(sample().summary["restraints"])
    assert kinds == [("DFIX", "2", "5.00", "7.00"), ("ISOR", "1", "0.00", "0.00")]  # sqrt((1 + 49) / 2)
    assert [row[-1] for row in worst] == ["-7.00", "+1.00", "+0.00"]
    assert worst[1] == ("DFIX", "Si1 O1", "1.6200", "1.6100", "0.0100", "+1.00")
    assert restraints(()) == ([], [])


def test_parameters_correlations_and_thickness_models():
    summary = sample().summary
    assert refined(summary["parameters"]) == [(HOSTILE, "0.47097", "0.00029"), ("O1.y", "0.25", "–")]
    assert correlations(summary["correlations"]) == [(HOSTILE, "O1.y", "-0.810")]
    assert thickness_models(summary["thickness_comparison"])[0][1:] == (
        "9.0",
        "8.69 %",
        "0.0 ± 0.0",
        "chosen",
    )


def test_options_of_the_physics():
    assert effects(sample().summary["physics"]) == [
        ("as refined", "8.12 %", "0.50"),
        ("without absorption", "8.34 %", "0.25"),
    ]


def test_what_crystals_contribute():
    header, rows = crystals(sample().summary["crystals"])
    assert [row[header.index("part of χ²")] for row in rows] == ["30%", "70%"]
    assert [row[header.index("Part of the structure")] for row in rows] == ["80%", "20%"]
    assert [row[0] for row in rows] == ["1", "2"]
    one = sample().summary["crystals"][:1]
    assert crystals(one) == ([], [])
    assert rows[1][header.index("U added [Å²]")] == "0.0123 ± 0.0004"
    held = [{**one[0], "information": None, "mosaic_spread": None, "overall_u": None}] * 2
    assert not {"Part of the structure", "mosaic spread [°]", "U added [Å²]"} & set(crystals(held)[0])


def test_figures_of_second_rank():
    rows = {name: value for name, value, _ in figures(sample().summary)}
    assert rows["R1 (I > 3σ) of merged reflections"] == "7.01 %"
    assert rows["Parameters"] == "31, of them effective 25.4"
    assert rows["The same with a scale for each range (not comparable)"] == "12.00 %"
    assert rows["Completeness"] == "97.00 %"
    assert rows["Absorption, times theory"] == "1.24 ± 0.11"
    rows = {name: value for name, value, _ in figures({**sample().summary, "absorption": None})}
    assert "Absorption, times theory" not in rows
    assert rows["Error model, crystal 2"] == "k 2.10, a 0.034, b 0"
    assert all(definition for _, _, definition in figures(sample().summary))
