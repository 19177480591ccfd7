from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from sample import HOSTILE, sample

from dials_hybrid.report.page import (
    hints,
    peaks,
    render,
    thickness_models,
    tiles,
    worst_ranges,
    worst_reflections,
)
from dials_hybrid.report.plots import plots

NO_END = {"meta", "br", "img", "link", "input", "hr"}


@pytest.fixture(scope="module")
def page() -> str:
    return render(sample())


class Elements(HTMLParser):
    """Every element with its attributes, and all text outside of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in NO_END:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def test_text_from_files_stays_text(page):
    parsed = Elements(page)
    assert not parsed.open, "an element is never closed"
    names = [name for name, _ in parsed.elements]
    assert "img" not in names and "b" not in names
    assert not any(key.startswith("on") for _, attributes in parsed.elements for key in attributes)
    # title, heading, hint, atom, peak, model, rejected rows, parameter, correlation, setting, version
    assert "".join(parsed.text).count(HOSTILE) == 11


def test_data_of_the_scripts_come_back_as_they_were(page):
    (text,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page, re.S)
    content = json.loads(text)
    assert content["plots"] == json.loads(json.dumps(plots(sample())))
    assert HOSTILE in {atom["label"] for atom in content["structure"]["atoms"]}


def test_needs_no_other_file_and_forbids_the_network(page):
    parsed = Elements(page)
    for _name, attributes in parsed.elements:
        assert not {"src", "href", "action", "srcset"} & set(attributes)
    (policy,) = [a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    assert "url(" not in style and "@import" not in style
    assert len(page.encode()) < 5e6


def test_licence_of_plotly_goes_with_it(page):
    assert "Licensed under the MIT license" in page


def test_figures_come_first_with_their_definitions(page):
    rows = {name: (value, more, definition) for name, value, more, definition in tiles(sample().summary)}
    assert list(rows)[0] == "R1 (I > 3σ)"
    assert rows["R1 (I > 3σ)"][:2] == ("8.12 %", "90 reflections")
    assert rows["R1_free"][0] == "–", "there is no free set"
    assert rows["Hand"][:2] == ("P 32 2 1", "z-score 7.3")
    assert rows["Thickness"][0] == "577 Å"
    assert rows["Time"][0] == "62 s"
    assert all(definition for _, _, definition in rows.values())
    text = "".join(Elements(page).text)
    assert text.index("8.12 %") < text.index("Structure")


def test_a_hand_that_was_not_determined():
    summary = {**sample().summary, "absolute_structure": None}
    assert ("Hand", "–", "not determined") in [tile[:3] for tile in tiles(summary)]


def test_hints_begin_with_what_did_not_converge():
    summary = sample().summary
    assert len(hints(summary)) == 2
    assert hints({**summary, "converged": True}) == [HOSTILE]


def test_worst_first():
    data = sample()
    first = worst_reflections(data.reflections)[0]
    assert first[0] == " ".join(str(index) for index in data.reflections.hkl[7])
    assert first[-2:] == ("-30.0", "")
    assert [row[4:6] for row in worst_ranges(data.summary["angular_ranges"])] == [
        ("60", "19.00 %"),
        ("30", "7.00 %"),
        ("0", "–"),
    ]


def test_peaks_come_before_holes():
    rows = peaks(sample().summary["difference_map"])
    assert [row[0] for row in rows] == ["+0.457", "-0.500"]
    assert rows[1][1:] == ("0.0000", "0.0000", "0.5000", "O1", "1.00")


def test_compared_thickness_models_are_a_table_and_without_them_there_is_none(page):
    assert thickness_models(sample().summary["thickness_comparison"])[0][1:] == (
        "9.0",
        "8.69 %",
        "0.0 ± 0.0",
        "chosen",
    )
    assert "cross-validated" in page
    data = sample()
    data.summary["thickness_comparison"] = []
    assert "cross-validated" not in render(data)


def test_numbers_have_two_digits_of_their_uncertainty(page):
    text = "".join(Elements(page).text)
    assert re.search(r"0\.47097\s*0\.00029", text)
    assert re.search(r"O1\.y\s*0\.25\s*–", text)
