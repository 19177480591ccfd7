"""Directives that take what they show from the package, so that page and program cannot differ.

    .. phil:: dials.hybrid_refine dials_hybrid.phil     every parameter of a program
    .. docstring:: dials_hybrid.bloch.matrix            what a module (or NAME in it) says of itself
    .. definitions::                                    the numbers of the report
    .. hints::                                          when the program gives which hint
    .. layout::                                         who may import what, from tests/test_layout.py
    .. changelog::                                      CHANGELOG.md

Modules are not imported for their docstrings: neither DIALS nor PyTorch is needed for those.
"""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

ROOT = Path(__file__).resolve().parents[2]


class Generated(SphinxDirective):
    """A directive that stands for reStructuredText made by `text`."""

    optional_arguments = 2

    def run(self) -> list[nodes.Node]:
        node = nodes.Element()
        node.document = self.state.document
        lines = StringList(self.text(*self.arguments).splitlines(), source=self.name)
        nested_parse_with_titles(self.state, lines, node)
        return node.children

    def source(self, path: str) -> str:
        """A file of the project, on which the page depends from now on."""
        self.env.note_dependency(str(ROOT / path))
        return (ROOT / path).read_text(encoding="utf-8")


class Phil(Generated):
    def text(self, program: str, module: str) -> str:
        self.source(module.replace(".", "/") + ".py")
        scope = importlib.import_module(module).phil_scope
        return "\n".join([f".. program:: {program}", "", *map(option, scope.all_definitions())])


def option(definition) -> str:
    """One parameter: name and default as one would type them, its values, its help."""
    words = definition.object
    kind = str(words.type)
    if kind == "choice":
        values = "One of " + ", ".join(f"``{word.value.lstrip('*')}``" for word in words.words) + "."
        default = next(word.value[1:] for word in words.words if word.value.startswith("*"))
    else:
        values = meaning(kind)
        default = " ".join(word.value for word in words.words)
    if words.multiple:
        values += " May be given several times."
    if words.expert_level:
        values += f" Expert level {words.expert_level}."
    sentences = prose(" ".join(words.help.split()))
    return f".. option:: {definition.path}={default}\n\n   {sentences}\n\n   {values}\n"


def meaning(kind: str) -> str:
    """A type of PHIL in words: "float(value_min=0, value_max=1, allow_none=True)"."""
    limits = dict(re.findall(r"value_(min|max)=([^,)]+)", kind))
    name = kind.partition("(")[0]
    words = {"float": "Number", "floats": "Numbers", "int": "Whole number", "bool": "True or False"}
    words |= {"path": "File name", "str": "Text", "strings": "Words"}
    least = f" from {limits['min']}" if "min" in limits else ""
    most = f" to {limits['max']}" if "max" in limits else ""
    return words[name] + least + most + "."


def escaped(text: str) -> str:
    return re.sub(r"([*|_\\])", r"\\\1", text)


def prose(text: str) -> str:
    """Text in which nothing is markup but code in single backticks, as docstrings have it."""
    parts = re.split(r"`+", text)
    return "".join(f"``{part}``" if i % 2 else escaped(part) for i, part in enumerate(parts))


class Docstring(Generated):
    """Paragraphs as they are; what is indented (equations, examples) as it stands in the source."""

    option_spec = {"no-args": directives.flag}

    def text(self, module: str, name: str = "") -> str:
        path = module.replace(".", "/")
        path = f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"
        node = ast.parse(self.source(path))
        for part in filter(None, name.split(".")):
            node = next(child for child in node.body if getattr(child, "name", None) == part)
        docstring = ast.get_docstring(node)
        if "no-args" in self.options:
            docstring = docstring.partition("\nArgs:")[0]
        return "\n\n".join(map(paragraph, blocks(docstring)))


def blocks(docstring: str) -> list[str]:
    """Paragraphs; indented ones that follow each other are one, what follows 'Args:' among them."""
    parts: list[str] = []
    for part in re.split(r"\n\s*\n", docstring):
        lines = part.splitlines()
        first = next((i for i, line in enumerate(lines) if line.startswith(" ")), len(lines))
        for chunk in (lines[:first], lines[first:]):
            if not chunk:
                continue
            chunk = "\n".join(chunk)
            if parts and chunk.startswith(" ") and parts[-1].startswith(" "):
                parts[-1] += "\n\n" + chunk
            else:
                parts.append(chunk)
    return parts


def paragraph(block: str) -> str:
    lines = block.splitlines()
    if block.startswith(" ") or (len(lines) > 1 and all(re.match(r"\S+ = ", line) for line in lines)):
        return "::\n\n" + textwrap.indent(textwrap.dedent(block), "   ")
    return prose(" ".join(block.replace("::", ":").split()))


class Definitions(Generated):
    def text(self) -> str:
        self.source("dials_hybrid/report/definitions.py")
        entries = importlib.import_module("dials_hybrid.report.definitions").DEFINITIONS
        return "\n\n".join(f"{escaped(name)}\n   {escaped(text)}" for name, text in entries.items())


class Hints(Generated):
    """Each check of refine.hints, in the order in which they are made: its code, and when it speaks."""

    def text(self) -> str:
        body = ast.parse(self.source("dials_hybrid/refine/hints.py")).body
        checks = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        (order,) = (node.value for node in body if isinstance(node, ast.Assign))  # CHECKS
        found = [checks[name.id] for name in order.elts]
        body = ast.parse(self.source("dials_hybrid/refine/bad_images.py")).body
        found += [node for node in body if getattr(node, "name", None) == "bad_images"]
        return "\n".join(
            f"``{node.name}``\n   {escaped(' '.join(ast.get_docstring(node).split()))}\n" for node in found
        )


class Layout(Generated):
    def text(self) -> str:
        names: dict = {}
        for node in ast.parse(self.source("tests/test_layout.py")).body:
            if isinstance(node, ast.Assign) and node.targets[0].id in ("CCTBX", "PARTS", "ALLOWED"):
                exec(compile(ast.Module([node], []), "test_layout", "exec"), names)
        rows = [".. list-table::", "   :header-rows: 1", ""]
        cells = [("part", "imports of this package", "imports of others")]
        for part, (own, others) in names["ALLOWED"].items():
            own = ["all"] if own >= names["PARTS"] else sorted(own)
            cctbx = ["DIALS and cctbx"] if others >= names["CCTBX"] else sorted(others & names["CCTBX"])
            others = sorted(others - names["CCTBX"]) + cctbx
            cells.append((part, ", ".join(own), ", ".join(others)))
        for row in cells:
            rows += [f"   {'*' if i == 0 else ' '} - {escaped(cell)}" for i, cell in enumerate(row)]
        return "\n".join(rows)


class Changelog(Generated):
    def text(self) -> str:
        lines = self.source("CHANGELOG.md").splitlines()
        result = []
        for line in lines:
            heading = re.match(r"##+ (.*)", line)
            if heading:
                result += [heading[1], "-" * len(heading[1])]
            elif not line.startswith("# "):
                result.append(line.replace("`", "``"))
        return "\n".join(result)


def setup(app) -> dict:
    for directive in (Phil, Docstring, Definitions, Hints, Layout, Changelog):
        app.add_directive(directive.__name__.lower(), directive)
    return {"version": "1", "parallel_read_safe": True}
