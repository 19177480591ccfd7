from __future__ import annotations

from sample import HOSTILE, sample, summary

from dials_hybrid.report import plots


def test_every_figure_has_its_own_place_and_explanation():
    figures = plots.plots(sample())
    assert len({figure["id"] for figure in figures}) == len(figures) == 14
    assert {figure["section"] for figure in figures} == {"fit", "crystal", "cycles"}
    assert all(figure["title"] and figure["note"] for figure in figures)


def test_cycles_are_counted_through_and_missing_values_are_gaps():
    figure = plots.convergence(summary()["history"])
    free = figure["data"][-1]
    assert free["x"] == [1, 2, 3]
    assert free["y"] == [None, 12.0, 11.0]
    assert free["text"][:2] == ["joint 1", "joint 2"]


def test_a_line_where_a_stage_begins():
    layout = plots.shifts(summary()["history"])["layout"]
    assert [shape["x0"] for shape in layout["shapes"]] == [2.5]
    assert [note["x"] for note in layout["annotations"]] == [0.5, 2.5]


def test_names_of_stages_which_a_checkpoint_gives_are_no_html():
    figure = plots.convergence(summary()["history"])
    assert HOSTILE not in str(figure)
    assert "&lt;img src" in figure["layout"]["annotations"][1]["text"]


def test_without_cycles_there_is_no_figure():
    data = sample()
    data.summary["history"] = []
    assert len(plots.plots(data)) == 12
