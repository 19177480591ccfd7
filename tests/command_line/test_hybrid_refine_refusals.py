"""What dials.hybrid_refine cannot work with gets one sentence and exit status 1."""

from __future__ import annotations

import os
import pickle
import re

import pytest
from commands import CHEAP, program, second_crystal, summary_in

pytest.importorskip("dials.array_family.flex")

from dials.array_family import flex

from dials_hybrid.command_line.hybrid_refine import run


def spoilt_table(name, spoil):
    def make(experiments, table):
        spoil(table)
        table.as_file(name)

    return make


def spoilt_experiments(name, spoil):
    def make(experiments, table):
        spoil(experiments[0])
        experiments.as_file(name)

    return make


def without(*prefixes):
    def spoil(table):
        for name in list(table.keys()):
            if name.startswith(prefixes):
                del table[name]

    return spoil


def all_nan(table):
    for kind in ("sum", "prf"):
        table[f"intensity.{kind}.value"] = flex.double(len(table), float("nan"))


def never_integrated(table):
    table.unset_flags(flex.bool(len(table), True), table.flags.integrated)


def fill(name, value):
    return lambda table: table.__setitem__(name, flex.double(len(table), value))


def text_file(name, old="", new="", text=None):
    def make(experiments, table):
        with open(name, "w") as file:
            file.write(QUARTZ_CIF.replace(old, new) if text is None else text)

    return make


QUARTZ_CIF = """data_quartz
_symmetry_space_group_name_H-M 'P 32 2 1'
_cell_length_a 4.913
_cell_length_b 4.913
_cell_length_c 5.405
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
Si1 Si 0.4697 0 0.66667 0.008
O1 O 0.4135 0.2669 0.78577 0.014
"""
OTHER_SETTING = QUARTZ_CIF.replace("0.4697", "-0.4697").replace("0.4135 0.2669", "-0.4135 -0.2669")
DAMAGED = '{"format": "dials.hybrid_refine checkpoint", "stage": "scan"}'
E, R, C = "EXPT", "REFL", "CIF"

BAD = {
    # name: (arguments, what they need, what the sentence must say)
    "typo in a name": ([E, R, C, "thicknes.model=flat"], None, r"does not understand thicknes\.model=flat"),
    "typo in a choice": ([E, R, C, "thickness.model=flet"], None, r"model=flet.*choices are: .*flat"),
    "no number": ([E, R, C, "data.d_min=abc"], None, r"data\.d_min=abc: .*NameError|data\.d_min=abc"),
    "negative number": ([E, R, C, "data.d_min=-1"], None, r"data\.d_min.* -1 < 0"),
    "nothing": ([E, R, C, "data.free_fraction=None"], None, r"data\.free_fraction cannot be None"),
    "no reflections file": ([E, "nope.refl", C], None, r"cannot find the file nope\.refl"),
    "no structure file": ([E, R, "nope.cif"], None, r"cannot find the file nope\.cif"),
    "no such argument": ([E, R, C, "nope"], None, r"does not understand nope:"),
    "experiments alone": ([E], None, r"needs reflections \(\.refl\) and structure \(\.cif, .*\)"),
    "no structure": ([E, R], None, r"needs structure \(\.cif"),
    "no experiments": ([R, C], None, r"needs experiments \(\.expt\)$"),
    "two structures": ([E, R, C, "b.cif"], text_file("b.cif"), r"takes one structure, not .* and b\.cif"),
    "kinds exchanged": (
        [f"input.experiments={R}", f"input.reflections={E}", C],
        None,
        r"input\.experiments=.*integrated\.refl: this is not such a file",
    ),
    "structure as reflections": (
        [E, f"input.reflections={C}", C],
        None,
        r"input\.reflections=.*\.cif: this is not such a file",
    ),
    "experiments that are none": (
        ["bad.expt", R, C],
        text_file("bad.expt", text="{}"),
        r"cannot read experiments from bad\.expt|does not understand bad\.expt",
    ),
    "not integrated": (
        [E, "bad.refl", C],
        spoilt_table("bad.refl", without("intensity.")),
        r"no column intensity\.sum\.value: run dials\.integrate first",
    ),
    "only indexed": (
        [E, "bad.refl", C],
        spoilt_table("bad.refl", without("intensity.", "partiality", "zeta", "profile")),
        r"no column .*: run dials\.integrate first",
    ),
    "no row integrated": (
        [E, "bad.refl", C],
        spoilt_table("bad.refl", never_integrated),
        r"no integrated intensities: run dials\.integrate first",
    ),
    "not a number": (
        [E, "bad.refl", C],
        spoilt_table("bad.refl", all_nan),
        r"no reflection is left of 1653: 1653 intensity or position is not a number",
    ),
    "nothing fully recorded": (
        [E, "bad.refl", C],
        spoilt_table("bad.refl", fill("partiality", 0.1)),
        r"no reflection is left of 1653: 1653 partially recorded",
    ),
    "no rows": (
        [E, "bad.refl", C],
        lambda experiments, table: table[:0].as_file("bad.refl"),
        r"there are no reflections",
    ),
    "resolution": ([E, R, C, "d_min=20"], None, r"no reflection is left of 1653: .*1492 beyond d_min"),
    "too few": ([E, R, C, "d_min=3"], None, r"\d+ observations cannot determine the 14 parameters"),
    "reflections of another run": (
        ["other.expt", R, C],
        spoilt_experiments("other.expt", lambda experiment: setattr(experiment, "identifier", "other")),
        r"reflections with id 0 belong to experiment .*, not to other",
    ),
    "the same twice": ([E, R, E, R, C], None, r"was it given twice\?"),
    "an experiment without reflections": (
        [E, "second.expt", R, C],
        second_crystal,
        r"no reflection of experiment 1 can be used",
    ),
    "X-rays": (
        ["bad.expt", R, C],
        spoilt_experiments("bad.expt", lambda experiment: experiment.beam.set_wavelength(0.9)),
        r"wavelength of 0\.9 A, .*needs electron data",
    ),
    "stills": (
        ["bad.expt", R, C],
        spoilt_experiments("bad.expt", lambda experiment: experiment.scan.set_oscillation((0, 0))),
        r"zero rotation: stills cannot be refined",
    ),
    "no scan": (
        ["bad.expt", R, C],
        spoilt_experiments("bad.expt", lambda experiment: setattr(experiment, "scan", None)),
        r"bad\.expt|still image",
    ),
    "no crystal": (
        ["bad.expt", R, C],
        spoilt_experiments("bad.expt", lambda experiment: setattr(experiment, "crystal", None)),
        r"has no crystal: run dials\.integrate first",
    ),
    "wrong cell": (
        [E, R, "bad.cif"],
        text_file("bad.cif", "4.913", "5.159"),
        r"cell of the model \(5\.16 5\.16 .*\) is not that of experiment 0 \(4\.9",
    ),
    "other setting": (
        [E, R, "bad.cif"],
        text_file("bad.cif", text=OTHER_SETTING),
        r"reindexed as -h,-k,l .*dials\.reindex change_of_basis_op=-h,-k,l",
    ),
    "ion": (
        [E, R, "bad.cif"],
        text_file("bad.cif", "O1 O ", "O1 O2- "),
        r"O1 is the ion O2-.*structure\.ions",
    ),
    "unknown element": ([E, R, "bad.cif"], text_file("bad.cif", "O1 O ", "O1 Xx "), r"O1 has the type 'Xx'"),
    "no CIF": (
        [E, R, "bad.cif"],
        text_file("bad.cif", text="hello\n"),
        r"cannot read a structure from bad\.cif",
    ),
    "empty CIF": ([E, R, "bad.cif"], text_file("bad.cif", text=""), r"cannot read a structure from bad\.cif"),
    "unknown device": ([E, R, C, "device=nonsense"], None, r"device=nonsense cannot be used here"),
    "device of another kind": ([E, R, C, "device=meta"], None, r"device=meta cannot be used here"),
    "device out of reach": ([E, R, C, "device=cuda:99"], None, r"device=cuda:99 cannot be used here"),
    "no folder": (
        [E, R, C, "output.cif=no/x.cif"],
        None,
        r"output\.cif=no/x\.cif: there is no folder .*/no$",
    ),
    "log is a folder": ([E, R, C, "output.log=."], None, r"cannot write output\.log=\.: it is a folder"),
    "no checkpoint": ([E, R, C, "resume=nope"], None, r"cannot read the checkpoint nope: No such file"),
    "strange checkpoint": (
        [E, R, C, "resume=strange"],
        text_file("strange"),
        r"strange is not a checkpoint of dials\.hybrid_refine",
    ),
    "damaged checkpoint": (
        [E, R, C, "resume=damaged"],
        text_file("damaged", text=DAMAGED),
        r"damaged: the checkpoint is damaged",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case, expt, refl, cif, experiments, table, here, capsys):
    args, make, expected = BAD[case]
    if make:
        make(experiments, table)
    prepared = set(os.listdir(here))
    files = {E: expt, R: refl, C: cif}
    args = [re.sub("EXPT|REFL|CIF", lambda match: files[match[0]], arg) for arg in args]
    cheap = [] if any("d_min" in arg or "model" in arg for arg in args) else CHEAP
    with pytest.raises(SystemExit) as end:
        run([*args, *cheap])
    sentence = end.value.code
    assert isinstance(sentence, str)  # which Python prints to stderr, with exit status 1
    assert sentence.startswith("dials.hybrid_refine")
    assert re.search(expected, sentence), sentence
    assert "\n" not in sentence and len(sentence) < 500
    assert "Traceback" not in capsys.readouterr().out
    assert set(os.listdir(here)) - prepared <= {"dials.hybrid_refine.log"}


def test_pickled_reflections_are_refused(expt, table, cif, here):
    """They can execute anything."""
    (here / "old.pickle").write_bytes(pickle.dumps(table, protocol=2))
    with pytest.raises(SystemExit, match=r"old\.pickle is not a reflection table of DIALS; pickled ones"):
        run([expt, "old.pickle", cif, *CHEAP])


def test_bad_input_as_a_process(expt, refl, here):
    found = program(expt, refl, "nope.cif", cwd=here)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "dials.hybrid_refine cannot find the file nope.cif\n"


def test_the_same_in_the_other_setting_works(expt, refl, here):
    """The advice of the error message, followed."""
    from dials.command_line.reindex import run as reindex

    (here / "other.cif").write_text(OTHER_SETTING)
    reindex([expt, refl, "change_of_basis_op=-h,-k,l"])
    run(["reindexed.expt", "reindexed.refl", "other.cif", *CHEAP])
    assert summary_in(here)["r1_obs"] < 0.08


@pytest.mark.parametrize("name", ["cif", "log", "checkpoint"])
def test_a_folder_that_cannot_be_written_to(expt, refl, cif, here, monkeypatch, name):
    (here / "mine").mkdir()

    def access(path, mode):  # root, who may run this, may write everywhere
        return "mine" not in str(path)

    monkeypatch.setattr("os.access", access)
    with pytest.raises(SystemExit, match=rf"cannot write output\.{name}=mine/a: permission denied"):
        run([expt, refl, cif, *CHEAP, f"output.{name}=mine/a"])
    assert os.listdir(here) == ["mine"]
