"""The layout: who may import what (dependencies point one way), and what libtbx asks of command_line."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dials_hybrid"
CCTBX = {"boost_adaptbx", "cctbx", "dials", "dxtbx", "iotbx", "libtbx", "scitbx", "smtbx"}
PARTS = {
    "algorithm",
    "arguments",
    "bloch",
    "data",
    "io",
    "model",
    "phil",
    "program",
    "problem",
    "machine",
    "phil_simulate",
    "prepare",
    "refine",
    "report",
    "report_data",
    "result",
    "rocking",
    "running",
    "synthesis",
}

# part -> (other parts of this package, packages of others); the standard library is free
ALLOWED = {
    "data": (set(), {"numpy", "torch"}),
    "rocking": ({"data"}, {"numpy", "scipy", "torch"}),
    "bloch": ({"data"}, {"numpy", "torch"}),
    "model": ({"bloch", "data"}, {"numpy", "scipy", "torch"}),
    "refine": ({"model", "bloch", "rocking", "data"}, {"numpy", "scipy", "torch"}),
    "io": ({"rocking", "data"}, CCTBX | {"numpy", "scipy", "torch"}),
    "report": (set(), {"jinja2", "markupsafe", "numpy"}),
    "result": ({"io", "refine", "data"}, {"numpy", "torch"}),
    "report_data": ({"refine", "report", "result"}, {"cctbx", "numpy", "torch"}),
    "phil": (set(), {"libtbx"}),
    "presets": (set(), set()),
    "phil_simulate": (set(), {"libtbx"}),
    "arguments": ({"io", "presets", "program"}, {"dials", "libtbx"}),
    "running": ({"io", "refine", "report", "model"}, set()),
    "machine": ({"__version__", "model"}, {"numpy", "scipy", "torch"}),
    "problem": ({"bloch", "data", "io", "refine", "rocking"}, {"numpy", "torch"}),
    "program": ({"model"}, set()),
    "refine.__main__": ({"machine", "model", "problem", "program", "refine", "report", "running"}, {"torch"}),
    "prepare": ({"io", "machine", "model", "refine", "rocking", "data"}, {"libtbx", "numpy", "torch"}),
    "algorithm": (
        {
            "io",
            "refine",
            "rocking",
            "report",
            "result",
            "phil",
            "prepare",
            "running",
            "machine",
            "model",
            "problem",
            "program",
        },
        {"dials", "dxtbx", "libtbx", "numpy", "torch"},
    ),
    "synthesis": (
        {"io", "machine", "refine", "rocking", "model", "data", "phil", "phil_simulate"},
        {"dials", "libtbx", "numpy", "torch"},
    ),
    "command_line": (PARTS, CCTBX | {"numpy", "torch"}),
    "__init__": (PARTS, set()),
}
MODULES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = [path for path in MODULES if path.parent.name == "command_line" and path.name != "__init__.py"]


def imported(path: Path) -> set[str]:
    """Full dotted names of all that the file imports, wherever in the file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += [node.module] if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    part = ".".join(parts) if parts[-1] == "__main__" else parts[0]  # a program, above all that it uses
    assert part in ALLOWED, f"{part} is not in the layout: give it a row in this test"
    own, others = ALLOWED[part]
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "dials_hybrid":
            other = rest.partition(".")[0]
            assert other == part != "command_line" or other in own, f"{part} must not import {name}"
        else:
            assert top in others or top in sys.stdlib_module_names, f"{part} must not import {name}"


def test_mypy_checks_all_that_needs_no_dials():
    """cctbx and DIALS have no types, so what imports them is left out."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = [ROOT / name for name in settings["tool"]["mypy"]["files"]]
    checked = {path for file in files for path in (file.rglob("*.py") if file.is_dir() else [file])}
    modules = {path for path in MODULES if path.name != "__init__.py"}
    foreign = {path for path in modules if {name.partition(".")[0] for name in imported(path)} & CCTBX}
    assert {path for path in checked if path.name != "__init__.py"} == modules - foreign


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=lambda path: path.name)
def test_folders_are_packages(folder):
    assert (folder / "__init__.py").is_file(), "setup.py installs only packages"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_are_seen_by_libtbx_and_by_pip(path):
    text = path.read_text(encoding="utf-8")
    name = re.search(r"LIBTBX_SET_DISPATCHER_NAME (\S+)", text[:1000])
    assert name, "libtbx looks for the name of the command in the first 1000 characters"
    assert 'if __name__ == "__main__":\n    run()' in text, "libtbx runs the file as a script"
    assert path.stem not in sys.stdlib_module_names | {"torch", "numpy"}, (
        "the script's folder comes first in sys.path"
    )
    script = f'"{name[1]}=dials_hybrid.command_line.{path.stem}:run"'
    assert script in (ROOT / "setup.py").read_text(encoding="utf-8")
