"""Arguments are sorted into parameters, structures and the rest; nonsense is refused with its name."""

from __future__ import annotations

import pytest

pytest.importorskip("dials.array_family.flex")

from simulated_experiments import experiments

import libtbx.phil

from dials.util.options import ArgumentParser

from dials_hybrid.arguments import check_outputs, parse_arguments

SCOPE = libtbx.phil.parse(
    """
limit = 1.5
  .type = float(value_min=0)
kind = *one two
  .type = choice
output {
  cif = new.cif
    .type = path
  log = None
    .type = path
}
first {
  name = 1
    .type = int
}
second {
  name = 1
    .type = int
}
"""
)


@pytest.fixture
def parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.cif", "b.RES", "x.cif_pets", "y.cif_pets"):
        (tmp_path / name).write_text("")
    experiments().as_file("some.expt")

    def call(*args):
        parser = ArgumentParser(
            usage="x", phil=SCOPE, read_experiments=True, read_reflections=True, check_format=False
        )
        return parse_arguments("dials.x", parser, list(args), others=(".cif_pets",))

    return call


def test_every_argument_goes_to_its_place(parse):
    args = ["a.cif", "limit=2", "x.cif_pets", "some.expt", "kind=two", "y.cif_pets"]
    params, _, structures, frames = parse(*args)
    assert (params.limit, params.kind) == (2.0, "two")
    assert structures == ["a.cif"] and frames == ["x.cif_pets", "y.cif_pets"]
    assert len(params.input.experiments) == 1 and not params.input.reflections


def test_endings_may_be_in_capitals(parse):
    assert parse("b.RES")[2] == ["b.RES"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["a.cif", "b.RES"], r"^dials.x takes one structure, not a.cif and b.RES$"),
        (["nope.cif"], r"^dials.x cannot find the file nope.cif$"),
        (["nope.expt"], r"^dials.x cannot find the file nope.expt$"),
        (["limit=-1"], r"^dials.x: limit=-1: .*limit"),
        (["kind=three"], r"^dials.x: kind=three: "),
        (["a.cif", "limit", "=", "2"], r"^dials.x does not understand .*=.*: leave out the spaces around =$"),
        (["a.cif", "name=2"], r"^dials.x does not understand name=: it may be first.name or second.name$"),
        (["a.cif", "lmit=2", "what"], r"^dials.x does not understand lmit=2 what: neither a parameter"),
        (["input.experiments=a.cif"], r"^dials.x: input.experiments=a.cif: this is not such a file"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(parse, args, sentence):
    with pytest.raises(SystemExit, match=sentence) as end:
        parse(*args)
    assert "\n" not in end.value.code


def test_outputs_are_checked_by_their_names(parse):
    output = SCOPE.extract().output
    check_outputs("dials.x", SCOPE, output)
    output.log = "no/folder"
    with pytest.raises(SystemExit, match="dials.x cannot write output.log=no/folder"):
        check_outputs("dials.x", SCOPE, output)
    output.log = None
    check_outputs("dials.x", SCOPE, output)


def test_two_outputs_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = SCOPE.extract().output
    output.log, output.cif = "a.cif", str(tmp_path / "a.cif")
    with pytest.raises(SystemExit, match=r"dials.x cannot write both output\.\w+ and output\.\w+ to .*a.cif"):
        check_outputs("dials.x", SCOPE, output)
    output.log = output.cif = "/dev/null"
    check_outputs("dials.x", SCOPE, output)
