"""The parameters are the manual: each has a type, a help text, and refuses what makes no sense."""

from __future__ import annotations

import subprocess
import sys
from operator import attrgetter

import pytest

pytest.importorskip("libtbx.phil")

import libtbx.phil
from libtbx import Auto

from dials_hybrid.phil import check_values, phil_scope

DEFINITIONS = phil_scope.all_definitions()
NUMBERS = [d for d in DEFINITIONS if d.object.type.phil_type in ("float", "int")]


def by_path(definition):
    return definition.path


def extract(text=""):
    return phil_scope.fetch(libtbx.phil.parse(text)).extract()


@pytest.mark.parametrize("definition", DEFINITIONS, ids=by_path)
def test_every_parameter_has_a_type_and_a_sentence_of_help(definition):
    parameter = definition.object
    assert parameter.type is not None
    assert parameter.help and parameter.help[0].isupper() and parameter.help.endswith(".")
    assert parameter.expert_level in (None, 0, 1, 2)
    assert "  " not in parameter.help  # of two strings that were joined


@pytest.mark.parametrize("definition", DEFINITIONS, ids=by_path)
def test_none_and_auto_as_defaults_are_explained(definition):
    default = definition.object.extract()
    if default is Auto:
        assert "Auto:" in definition.object.help


@pytest.mark.parametrize("definition", NUMBERS, ids=by_path)
def test_numbers_have_a_lower_limit(definition):
    assert definition.object.type.value_min is not None
    with pytest.raises(RuntimeError, match=definition.object.name):
        extract(f"{definition.path} = -1")


@pytest.mark.parametrize("word", ["Angstrom", "degree"])
def test_units_are_written_in_brackets(word):
    with_unit = [d for d in DEFINITIONS if f"[{word}]" in d.object.help]
    assert len(with_unit) >= 3


def test_defaults_pass():
    check_values(extract())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", None),
        ("device", None),
        ("data.free_fraction", None),
        ("beams.sg_max", Auto),
        ("thickness.model", None),
        ("thickness.maximum", None),
        ("refinement.max_cycles", None),
        ("data.d_min", Auto),
    ],
)
def test_meaningless_values_are_refused_by_name(path, value):
    params = extract()
    *scope, name = path.split(".")
    setattr(attrgetter(".".join(scope))(params) if scope else params, name, value)
    with pytest.raises(ValueError, match=f"^{path} cannot be {value}$"):
        check_values(params)


@pytest.mark.parametrize(
    "text",
    [
        "output.cif = None",
        "output.log = None",
        "refinement.outlier_cutoff = None",
        "beams.g_max = Auto",
        "thickness.model = Auto",
    ],
)
def test_values_with_a_meaning_pass(text):
    check_values(extract(text))


@pytest.mark.parametrize(
    "path",
    [
        "data.frame_window",
        "structure.adp",
        "absolute_structure",
        "thickness.model",
        "orientation.mosaic_directions",
    ],
)
def test_auto_of_a_choice_is_a_choice(path):
    params = extract(f"{path} = Auto")
    check_values(params)
    assert attrgetter(path)(params) == "auto"


def test_import_needs_neither_torch_nor_dials():
    program = (
        "import sys, dials_hybrid.phil\n"
        "print([name for name in ('torch', 'dials', 'cctbx', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
