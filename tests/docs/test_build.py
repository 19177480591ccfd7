"""The documentation builds without a warning, and names what exists."""

from __future__ import annotations

import ast
import html
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dials_hybrid import phil, phil_simulate

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.rst"))
PROGRAMS = {"dials.hybrid_refine": phil.phil_scope, "dials.hybrid_simulate": phil_simulate.phil_scope}


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    if find_spec("sphinx") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Sphinx: pip install sphinx")
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "trees", DOCS]
    done = subprocess.run([*command, folder / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_parameter_is_in_the_reference(built, program):
    page = (built / "parameters.html").read_text(encoding="utf-8")
    text = " ".join(text_of(built / "parameters.html").split())
    for definition in PROGRAMS[program].all_definitions():
        assert re.search(f'id="cmdoption-{program}-(arg-)?{definition.path}"', page), definition.path
        assert " ".join(definition.object.help.split()).replace("`", "") in text.replace("`", "")


def test_no_page_asks_the_network(built):
    for page in built.glob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text(encoding="utf-8")
        )
        assert not loaded, page.name


def test_equations_stand_line_by_line(built):
    page = text_of(built / "theory.html")
    assert "A_gg = 2 K S_g M_g^2,     A_gh = U_{g-h} M_g M_h,     M_g = 1 / sqrt(1 + g.n / K_n)\n" in page
    assert "sigma'^2 = (k sigma)^2 + (2 a P)^2 + b^2" in page


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_exist(path):
    text = path.read_text(encoding="utf-8")
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for name in re.findall(r"\bdials\.hybrid_\w+(?!\S*\.(?:log|json|html|checkpoint|result))\b", text):
        assert name in PROGRAMS and f'"{name}=' in setup, name
    for name in re.findall(r"-m (dials_hybrid[\w.]+)", text):
        spec = find_spec(name)
        assert spec and (spec.submodule_search_locations is None or find_spec(f"{name}.__main__")), name
    for name in re.findall(r"\b((?:tools|benchmarks|tests|docs)/\w[\w/.]*\w)", text):
        assert (ROOT / name).exists() or name == "docs/_build", name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_parameters_of_shell_examples_exist(path):
    """name=value after a command; those of python -m dials_hybrid.refine are few and all of them known."""
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    for line in re.findall(r"^ +\$ (.*(?:dials\.hybrid_|dials_hybrid\.command_line).*)$", text, re.MULTILINE):
        scope = PROGRAMS["dials.hybrid_simulate" if "hybrid_simulate" in line else "dials.hybrid_refine"]
        known = [definition.path for definition in scope.all_definitions()]
        for name in re.findall(r" ([a-z][\w.]*)=", line):
            assert any(f".{path}".endswith(f".{name}") for path in known), (line, name)


def test_the_example_of_waves_prints_what_is_shown():
    done = subprocess.run([sys.executable, DOCS / "amplitudes.py"], capture_output=True, text=True)
    assert done.stdout == (DOCS / "output" / "amplitudes.txt").read_text(), done.stderr


def test_the_script_of_convergence_explains_itself():
    done = subprocess.run([sys.executable, DOCS / "convergence.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "integrated.expt" in done.stderr


def test_every_key_of_the_json_is_documented():
    section = (DOCS / "output_files.rst").read_text(encoding="utf-8").partition("\nJSON\n")[2]
    rows = " ".join(re.findall(r"^   \* - (.*)", section, re.MULTILINE))
    assert set(re.findall(r"``(\w+)``", rows)) == json_keys() | {
        "formula_units",
        "methods",
        "restraints",
        "hints",
        "physics",
    }


def json_keys() -> set[str]:
    """The keys that `figures` and `algorithm` put into the summary, read from the source."""
    keys = {"r1_obs", "r1_all", "wr_all"}
    figures = parsed("dials_hybrid/refine/figures.py", "figures")
    result = parsed("dials_hybrid/algorithm.py", "_result")
    for node in [*ast.walk(figures), *ast.walk(result)]:
        if isinstance(node, ast.Dict) and None in node.keys:  # {**..., "key": ...}
            keys |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    assert len(keys) > 30
    return keys


def parsed(path: str, name: str) -> ast.FunctionDef:
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    return next(node for node in body if getattr(node, "name", None) == name)
