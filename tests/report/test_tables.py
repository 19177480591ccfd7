from __future__ import annotations

from types import SimpleNamespace

import pytest

from dials_hybrid.report import tables

SUMMARY = {
    "absorption": None,
    "absolute_structure": None,
    "r1_obs": 0.08123,
    "r1_all": 0.1456,
    "wr_all": 0.0989,
    "r1_free": 0.0951,
    "merged_r1_obs": 0.0701,
    "merged_r1_all": 0.0899,
    "n_observed": 920,
    "n_used": 1492,
    "goodness_of_fit": 3.214,
    "goodness_of_input_sigmas": 7.125,
    "error_model": {"gain": 2.25, "instability": 0.03, "floor": 41.5},
    "crystals": [],
    "outliers": [{"row": 7}, {"row": 9}],
    "n_parameters": 135,
    "n_parameters_effective": 61.27,
    "thickness_mean": 577.4,
    "thickness_model": "neural",
    "mosaic_spread": [0.0453],
    "seconds": {"total": 61.6},
}


def cells(table: str, row: str) -> list[str]:
    """Columns of the row that begins with `row`."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line]
    (found,) = [cells for cells in rows if cells[0] == row]
    return found


def test_cycle_lines_stand_under_their_header():
    cycle = SimpleNamespace(
        number=3, r1_obs=0.0812, r1_all=0.1456, wr_all=0.0989, r1_free=0.0951,
        goodness_of_fit=3.21, thickness_mean=577.4, largest_shift=0.127,
    )  # fmt: skip
    line = tables.cycle_line(cycle)
    assert line.split() == ["3", "8.12", "14.56", "9.89", "9.51", "3.21", "577", "0.13"]
    for header in tables.CYCLE_HEADER.splitlines():
        assert len(header) == len(line)
    # right edges of words and numbers agree
    ends = {i for i, pair in enumerate(zip(line, line[1:] + " ", strict=True)) if pair[0] != " " == pair[1]}
    first = tables.CYCLE_HEADER.splitlines()[0]
    assert ends == {i for i, (a, b) in enumerate(zip(first, first[1:] + " ", strict=True)) if a != " " == b}


def test_figures_that_do_not_exist_show_as_nan():
    cycle = SimpleNamespace(
        number=1, r1_obs=0.1, r1_all=0.1, wr_all=0.1, r1_free=float("nan"),
        goodness_of_fit=1.0, thickness_mean=100.0, largest_shift=1.0,
    )  # fmt: skip
    assert tables.cycle_line(cycle).split()[4] == "nan"


def test_rows_of_the_input_add_up():
    table = tables.input_table(1653, 1480, {"partially recorded": 161, "flagged overloaded": 12})
    assert cells(table, "rows in the reflection table")[1] == "1653"
    assert cells(table, "left out: partially recorded")[1] == "161"
    assert cells(table, "left out: flagged overloaded")[1] == "12"
    assert cells(table, "observations")[1] == "1480"


def test_scan_is_relative_to_the_best():
    best = {"flat": [560.0], "wedge": [1060.0], "normal": [400.2, 399.8]}
    table = tables.scan_table(best, {"flat": 2226.0, "wedge": 2000.0, "normal": 2006.0})
    assert cells(table, "one thickness") == ["one thickness", "560", "1.113"]
    assert cells(table, "0 to") == ["0 to", "1060", "1.000"]
    assert cells(table, "normal, mean and width") == ["normal, mean and width", "400, 400", "1.003"]


def test_parameters_keep_their_digits():
    table = tables.parameter_table([("Si1.x", 0.47, 0.000213), ("O1.u12", -1e-5, 0.0)])
    assert cells(table, "Si1.x") == ["Si1.x", "0.470000", "0.000213"]
    assert cells(table, "O1.u12") == ["O1.u12", "-0.000010", "0.000000"]


def test_summary_quotes_the_figures():
    table = tables.summary_table(SUMMARY)
    assert cells(table, "R1, I > 3 sigma") == ["R1, I > 3 sigma", "8.12 %", "920 reflections"]
    assert cells(table, "R1, all")[1:] == ["14.56 %", "1492 reflections"]
    assert cells(table, "wR, all")[1:] == ["9.89 %", "1492 reflections"]
    assert cells(table, "R1_free, I > 3 sigma")[1] == "9.51 %"
    assert cells(table, "goodness of fit")[1] == "3.21"
    assert cells(table, "parameters")[1] == "135"
    assert cells(table, "of them effective")[1] == "61.3"
    assert cells(table, "mean thickness")[1:] == ["577 A", "neural"]
    assert cells(table, "mosaic spread")[1] == "0.045 degree"
    assert cells(table, "time")[1] == "62 s"


@pytest.mark.parametrize(("spreads", "n"), [(None, 0), ([0.04], 1), ([0.04, 0.07], 2)])
def test_each_crystal_has_its_mosaic_spread(spreads, n):
    table = tables.summary_table({**SUMMARY, "mosaic_spread": spreads})
    assert table.count("mosaic spread") == n


def test_absorption_where_there_is_some():
    assert "absorption" not in tables.summary_table(SUMMARY)
    table = tables.summary_table({**SUMMARY, "absorption": {"factor": 1.236, "su": 0.114}})
    assert cells(table, "absorption, times theory")[1:] == ["1.24", "s.u. 0.11"]
    table = tables.summary_table({**SUMMARY, "absorption": {"factor": 1.0, "su": None}})
    assert cells(table, "absorption, times theory")[1] == "1.00"


def test_several_crystals_and_what_they_contribute():
    each = {
        "n_used": 1492,
        "n_observed": 920,
        "r1_obs": 0.0812,
        "r1_all": 0.1456,
        "wr_all": 0.0989,
        "goodness_of_fit": 1.07,
        "chi_squared": 0.42,
        "information": 0.55,
        "thickness_mean": 577.4,
        "mosaic_spread": 0.0453,
        "weight": 1.0,
        "overall_u": None,
        "error_model": {"gain": 3.3, "instability": 0.03, "floor": 1.0},
    }
    assert "crystals" not in tables.summary_table({**SUMMARY, "crystals": [each]}).lower()
    other = {
        **each,
        "information": None,
        "mosaic_spread": None,
        "overall_u": {"value": 0.0021, "su": 0.0003},
        "error_model": {**each["error_model"], "gain": 1},
    }
    table = tables.summary_table({**SUMMARY, "error_model": None, "crystals": [each, other]})
    found = ["1492", "920", "8.12", "14.56", "9.89", "1.07", "42%", "55%", "577", "0.045", "1.00"]
    assert cells(table, "1")[1:] == [*found, "3.30", "-"]
    assert cells(table, "2")[8:] == ["-", "577", "-", "1.00", "1.00", "0.0021 (0.0003)"]


def test_the_hand_and_whether_it_is_determined():
    hands = {
        "hand": "as given",
        "determined": True,
        "z_score_observed_noise_adjusted": 6.04,
        "probability": 0.99991,
        "r1_obs_other": 0.0912,
    }
    table = tables.summary_table({**SUMMARY, "absolute_structure": hands})
    found = ["z = 6.0", "probability 0.9999, R1 of the other 9.12%"]
    assert cells(table, "hand as given")[1:] == found
    table = tables.summary_table({**SUMMARY, "absolute_structure": {**hands, "determined": False}})
    assert cells(table, "hand not determined")[1] == "z = 6.0"


def test_extrema_of_the_difference_map():
    peak = {"height": 0.21345, "site": (0.1, -0.25, 0.33333), "atom": "O1", "distance": 0.987}
    peaks = [{**peak, "height": 0.21345 - 0.01 * i} for i in range(10)]
    holes = [{**peak, "height": 0.01 * i - 0.18, "atom": "Si1"} for i in range(10)]
    table = tables.difference_table({"rms": 0.05, "unit": "e/A", "peaks": peaks, "holes": holes})
    assert "r.m.s. 0.050 e/A" in table
    assert cells(table, "0.213") == ["0.213", "0.1000", "-0.2500", "0.3333", "O1", "0.99"]
    assert cells(table, "-0.180")[-2:] == ["Si1", "0.99"]
    assert (table.count("| O1 "), table.count("| Si1 ")) == (5, 5)


def test_comparison_says_what_was_chosen():
    names = ("model", "n_parameters", "r1_obs", "behind", "standard_error", "chosen")
    rows = [("flat", 9.0, 0.0869, 86.0, 24.4, False), ("wedge", 9.0, 0.0818, 0.0, 0.0, True)]
    text = tables.comparison_table([dict(zip(names, row, strict=True)) for row in rows])
    lines = text.splitlines()
    assert [line for line in lines if "chosen" in line] == [line for line in lines if "wedge" in line]
    assert "8.69" in text and "86.0" in text and "24.4" in text


def test_hints_are_wrapped_sentences():
    assert tables.hint_list([]) == "\nHints: none, nothing is striking"
    text = tables.hint_list([{"code": "a", "text": "word " * 40}, {"code": "b", "text": "Short."}])
    lines = text.strip().splitlines()
    assert lines[0] == "Hints" and lines[-1] == "* Short."
    assert max(map(len, lines)) <= 100
    assert " ".join(lines[1:-1]).split() == ["*", *["word"] * 40]


def test_restraints_by_kind_and_those_kept_worst():
    each = {"kind": "dfix", "labels": ["C1", "C2"], "value": 1.53, "target": 1.52, "sigma": 0.02}
    kept = [{**each, "in_sigmas": x} for x in (0.5, -3.0)] + [{**each, "kind": "isor", "in_sigmas": 1.0}]
    table = tables.restraint_table(kept, longest=2)
    summary, worst = table.split("\n\n")
    assert cells(summary, "dfix")[1:] == ["2", "2.15", "3.00"]  # sqrt((0.25 + 9) / 2)
    assert cells(summary, "isor")[1:] == ["1", "1.00", "1.00"]
    assert cells(worst, "dfix")[1:] == ["C1 C2", "1.5300", "1.5200", "-3.0000"]
    assert "0.5000" not in worst


def test_a_table_without_rows():
    assert tables.table([], ["parameter", "value"]).splitlines()[1] == "| parameter | value |"
