from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from sample import HOSTILE, sample

from dials_hybrid.report.page import chemical, render, tiles
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
    # title, heading, hint, atom, displacement, peak, model, rejected rows, parameter, correlation, restraint,
    # setting, version
    assert "".join(parsed.text).count(HOSTILE) == 13


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
    assert rows["Hand"][:2] == ("as given", "z-score 7.3, P 1.0000, other hand 12.00 %")
    assert rows["Thickness"][0] == "577 Å"
    assert rows["Time"][0] == "62 s"
    assert all(definition for _, _, definition in rows.values())
    text = "".join(Elements(page).text)
    assert text.index("8.12 %") < text.index("Structure")


def test_a_hand_that_was_not_determined():
    summary = {**sample().summary, "absolute_structure": None}
    assert ("Hand", "–", "not determined") in [tile[:3] for tile in tiles(summary)]
    hand = {**sample().summary["absolute_structure"], "determined": False}
    summary["absolute_structure"] = {**hand, "z_score_observed_noise_adjusted": 1.84}
    assert ("Hand", "as given", "not determined: z-score 1.8") in [tile[:3] for tile in tiles(summary)]


def test_hints_are_a_list_and_without_any_there_is_none(page):
    assert ("ul", {"class": "hints"}) in Elements(page).elements
    data = sample()
    data.summary["hints"] = []
    assert ("ul", {"class": "hints"}) not in Elements(render(data)).elements


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("O2 Si, P 32 2 1", "O<sub>2</sub> Si, P 3<sub>2</sub> 2 1"),
        ("C0.5 H12, P 1 21/c 1", "C<sub>0.5</sub> H<sub>12</sub>, P 1 2<sub>1</sub>/c 1"),
        ("Fe, R -3 2 :H", "Fe, R -3 2 :H"),
        ("Si, P 63/m", "Si, P 6<sub>3</sub>/m"),
        ("<b>2", "&lt;b&gt;2"),
    ],
)
def test_title_as_chemists_write_it(text, markup):
    assert chemical(text) == markup


def test_the_heading_says_how_much_there_was(page):
    text = "".join(Elements(page).text)
    assert "a = 4.91 Å" in text
    data = sample()
    assert f"150 observations to {data.reflections.d.min():.2f} Å, 97% of the unique ones" in text


def test_tables_without_rows_are_left_out(page):
    assert "Displacements" in page and '<h3 class="further">Bonds' not in page
    data = sample()
    data.bonds[1].append(["Si1", "O1"])
    assert '<h3 class="further">Bonds' in render(data)
    assert 'id="restraints"' in page
    assert "without absorption" in page
    del data.summary["restraints"], data.summary["physics"]
    text = render(data)
    assert 'id="restraints"' not in text and "Options of the physics" not in text


def test_without_a_comparison_of_thickness_models_there_is_no_table(page):
    assert "cross-validated" in page
    data = sample()
    data.summary["thickness_comparison"] = []
    assert "cross-validated" not in render(data)
