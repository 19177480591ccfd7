"""The parameters of the simulation are its manual."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("libtbx.phil")

import libtbx.phil
from libtbx import Auto

from dials_hybrid.phil import check_values
from dials_hybrid.phil_simulate import phil_scope

DEFINITIONS = phil_scope.all_definitions()
NUMBERS = [d for d in DEFINITIONS if d.object.type.phil_type in ("float", "int")]
SIGNED = ("misorientation.constant",)


def by_path(definition):
    return definition.path


@pytest.mark.parametrize("definition", DEFINITIONS, ids=by_path)
def test_every_parameter_has_a_type_and_a_sentence_of_help(definition):
    parameter = definition.object
    assert parameter.type is not None
    assert parameter.help and parameter.help[0].isupper() and parameter.help.endswith(".")
    assert parameter.expert_level in (None, 0, 1, 2)
    if parameter.extract() is Auto:
        assert "Auto:" in parameter.help


@pytest.mark.parametrize("definition", NUMBERS, ids=by_path)
def test_numbers_have_a_lower_limit(definition):
    assert definition.object.type.value_min is not None
    if definition.path not in SIGNED:
        with pytest.raises(RuntimeError, match=definition.object.name):
            phil_scope.fetch(libtbx.phil.parse(f"{definition.path} = -1")).extract()


def test_values_without_a_meaning_are_refused():
    params = phil_scope.extract()
    check_values(params, phil_scope)
    params.counts.mean = None
    with pytest.raises(ValueError, match=r"^counts.mean cannot be None$"):
        check_values(params, phil_scope)


def test_import_needs_neither_torch_nor_dials():
    program = (
        "import sys, dials_hybrid.phil_simulate\n"
        "print([name for name in ('torch', 'dials', 'cctbx', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
