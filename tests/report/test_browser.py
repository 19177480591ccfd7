"""The page in a real browser: no error, no request, every figure drawn, in light and dark."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from sample import sample
from scipy.spatial.transform import Rotation

from dials_hybrid.report.page import render
from dials_hybrid.report.plots import plots
from dials_hybrid.report.structure import drawing

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DARK = "--blink-settings=preferredColorScheme=0"
# What the page looks like from inside, once everything in it has run.
PROBE = """
<pre id="probe"></pre>
<script>
addEventListener("load", () => setTimeout(() => {
  const count = (node, what) => node.querySelectorAll(what).length;
  const drawn = [...document.querySelectorAll(".plot")].map((plot) => ({
    id: plot.id, svg: count(plot, ".main-svg"), traces: count(plot, ".scatterlayer .trace, .hm"),
    width: plot.clientWidth, overflow: plot.scrollWidth > plot.clientWidth + 1,
  }));
  const outlines = [...document.querySelectorAll("#drawing circle")].map((circle) => [
    circle.parentNode.getAttribute("transform"), circle.getAttribute("transform"),
  ]);
  document.getElementById("probe").textContent = JSON.stringify({
    drawn, outlines,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    alien: count(document.body, "img, iframe, body > b"),
    background: getComputedStyle(document.body).backgroundColor,
    ink: document.querySelector(".plot .xtick text")?.style.fill,
    sideways: document.documentElement.scrollWidth > innerWidth,
  });
}, 500));
</script>
"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """browse(html, *options): what the probe saw, and the console's messages."""
    program = next((found for found in map(shutil.which, NAMES) if found), None)
    if program is None:
        sentence = "No Chromium: install the package chromium."
        if os.environ.get("CI"):
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)

    def run(html: str, *options: str) -> tuple[dict, list[str]]:
        folder = tmp_path_factory.mktemp("page")
        page = folder / "page.html"
        head, end = html.rsplit("</body>", 1)
        page.write_text(f"{head}{PROBE}</body>{end}", encoding="utf-8")
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            "--virtual-time-budget=10000",
            *options,
            "--dump-dom",
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        (found,) = re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
        return json.loads(found), re.findall(r":CONSOLE.*", done.stderr)

    return run


@pytest.fixture(scope="module")
def page() -> str:
    return render(sample())


@pytest.fixture(scope="module")
def light(browse, page):
    return browse(page, "--window-size=1400,1000")


def test_the_probe_sees_errors_and_requests(browse):
    """Else the tests below could not fail."""
    bad = '<body><img src="http://192.0.2.1/x.png"><script>nothing();</script></body>'
    seen, console = browse(bad)
    assert seen["requests"] == ["http://192.0.2.1/x.png"]
    assert seen["alien"] == 1
    assert "nothing is not defined" in " ".join(console)


def test_no_error_and_no_request(light):
    seen, console = light
    assert console == []
    assert seen["requests"] == []
    assert seen["alien"] == 0, "HTML from a file became an element"


def test_every_figure_is_drawn_with_all_its_traces(light):
    drawn = {item["id"]: item for item in light[0]["drawn"]}
    for figure in plots(sample()):
        item = drawn.pop(f"plot-{figure['id']}")
        assert item["svg"] > 0
        assert item["traces"] == len(figure["data"]), figure["id"]
        assert item["width"] > 300
    assert not drawn


def test_ellipsoids_are_drawn_as_their_projections(light):
    """SVG's matrix M of a unit circle has M M^T = projection of c^2 U turned into view."""
    atoms = drawing(sample().structure)["atoms"]
    outlines = light[0]["outlines"]
    assert len(outlines) == len(atoms)
    view = Rotation.from_euler("yx", [-0.28, -0.32]).as_matrix()  # of structure.js
    expected = []
    for atom in atoms:
        x, y, _ = view @ atom["position"]
        axes = np.array(atom["axes"]) @ view.T
        expected.append([x, -y, *(axes.T @ axes)[:2, :2].ravel()])
    drawn = []
    for place, matrix in outlines:
        x, y = map(float, re.match(r"translate\((.*?),(.*?)\)", place).groups())
        a, b, c, d = map(float, re.match(r"matrix\((.*?)\)", matrix)[1].split(",")[:4])
        m = np.array([[a, c], [b, d]])
        drawn.append([x, y, *(m @ m.T).ravel()])
    assert np.array(sorted(drawn)) == pytest.approx(np.array(sorted(expected)), abs=1e-6)


def test_dark(browse, page, light):
    seen, console = browse(page, DARK)
    assert console == []
    assert seen["background"] != light[0]["background"]
    assert seen["ink"] != light[0]["ink"], "the figures follow"


def test_narrow(browse, page):
    seen, console = browse(page, "--window-size=500,900")
    assert console == []
    assert not seen["sideways"]
    assert not any(item["overflow"] for item in seen["drawn"])
