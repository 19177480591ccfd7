"""Presets are defaults: valid ones, printed, and below everything that the user says."""

from __future__ import annotations

import pytest

pytest.importorskip("dials.util.options")

import libtbx.phil

from dials.util.options import ArgumentParser

from dials_hybrid.arguments import changed_parameters, parse_arguments
from dials_hybrid.phil import check_values, phil_scope
from dials_hybrid.presets import PRESETS


@pytest.fixture
def parse():
    def parse(*args):
        parser = ArgumentParser(phil=phil_scope, read_experiments=True, read_reflections=True)
        params = parse_arguments("program", parser, list(args))[0]
        return params, changed_parameters(parser)

    return parse


@pytest.mark.parametrize("name", PRESETS)
def test_presets_consist_of_known_parameters(name):
    known = {definition.path for definition in phil_scope.all_definitions()}
    assert {text.partition("=")[0] for text in PRESETS[name]} <= known
    params = phil_scope.fetch(libtbx.phil.parse("\n".join(PRESETS[name]))).extract()
    check_values(params)


def test_every_choice_of_preset_is_one():
    (definition,) = (each for each in phil_scope.all_definitions() if each.path == "preset")
    assert {word.value.strip("*") for word in definition.object.words} == {"none", *PRESETS}


def test_jana(parse):
    params, changed = parse("preset=jana")
    assert params.thickness.model == "wedge"
    assert (params.beams.frame_steps, params.beams.segment_length) == (120, 1)
    assert params.refinement.outlier_cutoff is None
    assert "frame_steps = 120" in changed and "*wedge" in changed  # in the log
    params, changed = parse()
    assert params.beams.frame_steps is None and not changed


def test_what_the_user_says_wins(parse, tmp_path):
    given = "thickness.model=gamma", "refinement.instability=0.03"
    for args in ((*given, "preset=jana"), ("preset=jana", *given)):
        params, _ = parse(*args)
        assert (params.thickness.model, params.refinement.instability) == ("gamma", 0.03)
        assert params.refinement.floor == 0.0
    (tmp_path / "mine.phil").write_text("preset = jana\nbeams.frame_steps = 60\n")
    assert parse(str(tmp_path / "mine.phil"))[0].beams.frame_steps == 60
