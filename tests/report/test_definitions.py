"""Every definition explains something that the page shows."""

from __future__ import annotations

import re

import pytest
from markupsafe import escape
from sample import sample

from dials_hybrid.report import plots
from dials_hybrid.report.definitions import DEFINITIONS
from dials_hybrid.report.page import render

IN_FIGURES = {"K", "Displacement ellipsoids"}  # which have no place for such texts


@pytest.fixture(scope="module")
def explained():
    """Texts that appear when the pointer rests on a number or the heading of a column."""
    return re.findall(r'title="([^"]+)"', render(sample()))


@pytest.mark.parametrize("name", sorted(set(DEFINITIONS) - IN_FIGURES))
def test_it_belongs_to_a_number_of_the_page(explained, name):
    assert str(escape(DEFINITIONS[name])) in explained


def test_the_others_belong_to_a_figure():
    axes = [figure["layout"].get("yaxis2", {}) for figure in plots.plots(sample())]
    assert "K" in [axis["title"]["text"] for axis in axes if axis]
    assert "ellipsoid" in render(sample()).partition('id="definitions"')[0]
