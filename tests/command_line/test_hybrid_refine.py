"""The program as a user meets it. Settings are the cheapest that still run through every stage."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("dials.array_family.flex")

import iotbx.cif

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_hybrid.command_line.hybrid_refine import run

CHEAP = """thickness.model=flat max_cycles=1 beams.g_max=1.2 data.d_min=1.0 orientation.mosaic_points=1
nproc=1""".split()
OUTPUT = {
    "hybrid_refined.cif",
    "hybrid_refined.expt",
    "hybrid_refined.mtz",
    "hybrid_refined.refl",
    "dials.hybrid_refine.html",
    "dials.hybrid_refine.json",
    "dials.hybrid_refine.log",
    "dials.hybrid_refine.checkpoint",
}
PROGRAM = [sys.executable, "-m", "dials_hybrid.command_line.hybrid_refine"]


@pytest.fixture(scope="module")
def expt(quartz_dials):
    return str(quartz_dials / "integrated.expt")


@pytest.fixture(scope="module")
def refl(quartz_dials):
    return str(quartz_dials / "integrated.refl")


@pytest.fixture(scope="module")
def cif(quartz_dials):
    return str(quartz_dials / "quartz_P3221.cif")


@pytest.fixture
def experiments(expt):
    return ExperimentList.from_file(expt, check_format=False)


@pytest.fixture
def table(refl):
    return flex.reflection_table.from_file(refl)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(*args, cwd, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*PROGRAM, *args], cwd=cwd, capture_output=True, text=True, **options)


def summary_in(folder) -> dict:
    return json.loads((folder / "dials.hybrid_refine.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, expt, refl, cif):
    """A run in a folder of its own, as a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, program(expt, refl, cif, *CHEAP, cwd=folder)


# ------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("args", [["-h"], ["-c", "-a2", "-e2"], []])
def test_help_is_on_stdout_and_needs_no_torch(args, here):
    script = (
        "import sys\n"
        "from dials_hybrid.command_line.hybrid_refine import run\n"
        f"try: run({args!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert "integrated.expt" in found.stdout or "thickness {" in found.stdout
    assert os.listdir(here) == []


def test_configuration_reads_like_a_manual(here, capsys):
    with pytest.raises(SystemExit) as end:
        run(["-c", "-a2", "-e2"])
    assert not end.value.code
    text = capsys.readouterr().out
    for name in ("thickness {", "model = *auto flat wedge normal", "g_max = Auto", "device = cpu"):
        assert name in text
    assert text.count(".help") > 35


def test_a_run_ends_well_and_writes_all_files(finished):
    folder, process = finished
    assert process.returncode == 0
    assert process.stderr == ""
    assert set(os.listdir(folder)) == OUTPUT
    for name in OUTPUT - {"dials.hybrid_refine.log", "dials.hybrid_refine.checkpoint"}:
        assert re.search(rf"^Saving .* to {name}$", process.stdout, re.MULTILINE), name


def test_the_log_tells_what_was_done(finished, cif):
    folder, process = finished
    log = (folder / "dials.hybrid_refine.log").read_text()
    assert cif in log  # the start model is no parameter
    assert "model = auto *flat" in log  # parameters that differ from the default
    for title in ("Thickness scan", "Structure, orientation, thickness and scale", "double precision"):
        assert title in log and title in process.stdout
    assert "\r" not in process.stdout  # progress bars are for terminals


def test_json_has_the_keys_that_scripts_rely_on(finished):
    summary = summary_in(finished[0])
    fractions = ["r1_obs", "r1_all", "wr_all", "r1_free", "merged_r1_obs", "merged_r1_all"]
    counts = ["n_rows", "n_used", "n_observed", "n_free", "n_parameters"]
    for key in fractions:
        assert 0.0 < summary[key] < 1.0, key
    for key in counts:
        assert isinstance(summary[key], int) and summary[key] > 0, key
    assert summary["n_rows"] == 1653 == summary["n_used"] + sum(summary["rejected"].values())
    assert summary["goodness_of_fit"] > 0.0 and 100.0 < summary["thickness_mean"] < 2000.0
    assert summary["thickness_model"] == "flat"
    assert "absolute_structure" in summary
    assert set(summary["seconds"]) == {"scan", "orientation", "joint", "final", "hand", "total"}
    assert summary["settings"]["g_max"] == 1.2
    assert {"dials", "torch"} <= set(summary["versions"])


def test_cif_agrees_with_json_and_is_read_by_cctbx(finished):
    folder, _ = finished
    path = str(folder / "hybrid_refined.cif")
    block = iotbx.cif.reader(path).model()["hybrid_refined"]
    summary = summary_in(folder)
    assert float(block["_refine_ls_R_factor_gt"]) == pytest.approx(summary["r1_obs"], abs=5e-5)
    assert int(block["_reflns_number_gt"]) == summary["n_observed"]
    (structure,) = iotbx.cif.reader(path).build_crystal_structures().values()
    assert str(structure.space_group_info()) == "P 32 2 1"
    silicon, oxygen = structure.scatterers()
    assert (silicon.multiplicity(), oxygen.multiplicity()) == (3, 6)
    assert "(" in block["_atom_site_fract_x"][0]  # s.u.
    assert block["_atom_site_fract_y"][0] in ("0", "0.000000", "0.00000")  # fixed by symmetry
    assert set(block["_atom_type_scat_source"]) != {"."}


def test_experiments_and_reflections_belong_together(finished, refl):
    folder, _ = finished
    experiments = ExperimentList.from_file(str(folder / "hybrid_refined.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(folder / "hybrid_refined.refl"))
    before = flex.reflection_table.from_file(refl)
    summary = summary_in(folder)
    table.assert_experiment_identifiers_are_consistent(experiments)
    assert len(table) == len(before)
    assert set(table.keys()) - set(before.keys()) == {"intensity.dyn.value", "intensity.dyn.scale"}
    assert set(before.keys()) - set(table.keys()) <= {"shoebox"}
    used = table.get_flags(table.flags.used_in_refinement)
    assert used.count(True) == summary["n_used"]
    assert used.count(True) + table.get_flags(table.flags.excluded_for_refinement).count(True) == len(table)
    # R1 computed anew from the table is that of the summary
    kept = table.select(used)
    i, variance = (kept[f"intensity.prf.{part}"].as_numpy_array() for part in ("value", "variance"))
    calculated = kept["intensity.dyn.value"].as_numpy_array()
    strong = i > 3.0 * variance**0.5
    r1 = abs(i[strong] ** 0.5 - calculated[strong] ** 0.5).sum() / (i[strong] ** 0.5).sum()
    assert r1 == pytest.approx(summary["r1_obs"], rel=1e-9)
    assert strong.sum() == summary["n_observed"]


@pytest.mark.parametrize("name", ["hybrid_refined.expt", "hybrid_refined.refl"])
def test_dials_shows_the_output(finished, name, capsys):
    from dials.command_line.show import run as show

    show([str(finished[0] / name)])
    text = capsys.readouterr().out
    assert ("Crystal:" if name.endswith("expt") else "intensity.dyn.value") in text


# ----------------------------------------------------------------------------- kinds of input


def test_its_own_output_is_input(finished, here):
    folder, _ = finished
    run([*(str(folder / f"hybrid_refined.{kind}") for kind in ("expt", "refl", "cif")), *CHEAP])
    assert summary_in(here)["r1_obs"] <= summary_in(folder)["r1_obs"] + 1e-3
    assert len(summary_in(here)["rejected"]) == len(summary_in(folder)["rejected"])


def test_scaled_data(quartz_dials, cif, here):
    run([str(quartz_dials / "scaled.expt"), str(quartz_dials / "scaled.refl"), cif, *CHEAP])
    summary = summary_in(here)
    assert summary["r1_obs"] < 0.10  # the scaled column would give more than 0.2
    assert "flagged outlier_in_scaling" in summary["rejected"]


RES = """TITL quartz
CELL 0.02508 4.913 4.913 5.405 90 90 120
ZERR 3 0.001 0.001 0.001 0 0 0
LATT -1
SYMM -Y, X-Y, 0.666667+Z
SYMM -X+Y, -X, 0.333333+Z
SYMM Y, X, -Z
SYMM X-Y, -Y, 0.333333-Z
SYMM -X, -X+Y, 0.666667-Z
SFAC SI O
UNIT 3 6
FVAR 1.0
SI1 1 0.4697 0.0 0.666667 10.5 0.008
O1 2 0.4135 0.2669 0.78577 11.0 0.014
HKLF 4
END
"""


@pytest.mark.parametrize("kind", ["res", "ins", "pdb"])
def test_other_kinds_of_structures_give_the_same(finished, expt, refl, cif, here, kind):
    text = RES
    if kind == "pdb":
        (structure,) = iotbx.cif.reader(cif).build_crystal_structures().values()
        text = structure.as_pdb_file()
    (here / f"model.{kind}").write_text(text)
    run([expt, refl, f"model.{kind}", "structure.adp=anisotropic", *CHEAP])
    # three decimals of a PDB file are not quite the same start
    assert summary_in(here)["r1_obs"] == pytest.approx(summary_in(finished[0])["r1_obs"], abs=1e-4)


def test_reflections_in_an_old_pickle(finished, expt, table, cif, here):
    (here / "old.pickle").write_bytes(pickle.dumps(table, protocol=2))
    run([expt, "old.pickle", cif, *CHEAP])
    assert summary_in(here)["r1_obs"] == pytest.approx(summary_in(finished[0])["r1_obs"], abs=1e-7)


def second_crystal(experiments, table):
    """The same data under another identifier."""
    experiments[0].identifier = "second"
    for key in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[key]
    table.experiment_identifiers()[0] = "second"
    experiments.as_file("second.expt")
    table.as_file("second.refl")


def test_two_crystals_whatever_the_order_of_their_files(finished, expt, refl, cif, experiments, table, here):
    table = table.select(flex.bool(range(len(table))) | (table["d"] > 1.3))  # drops one row
    table = table.select(table["d"] > 1.05)  # another number of rows than the first
    second_crystal(experiments, table)
    run([expt, "second.expt", "second.refl", refl, cif, *CHEAP])
    summary, alone = summary_in(here), summary_in(finished[0])
    assert summary["n_rows"] == alone["n_rows"] + len(table)
    assert alone["n_used"] < summary["n_used"] < 2 * alone["n_used"]
    assert summary["r1_obs"] == pytest.approx(alone["r1_obs"], abs=0.005)
    refined = ExperimentList.from_file("hybrid_refined.expt", check_format=False)
    written = flex.reflection_table.from_file("hybrid_refined.refl")
    written.assert_experiment_identifiers_are_consistent(refined)
    assert list(refined.identifiers())[1] == "second"
    assert (written["id"] == 1).count(True) == len(table)


def test_dials_combine_experiments_loses_the_profile_model(
    finished, expt, refl, cif, experiments, table, here
):
    from dials.command_line.combine_experiments import run as combine

    second_crystal(experiments, table)
    combine([expt, refl, "second.expt", "second.refl"])
    run(["combined.expt", "combined.refl", cif, *CHEAP])
    summary, alone = summary_in(here), summary_in(finished[0])
    assert summary["n_used"] == 2 * alone["n_used"]
    assert summary["r1_obs"] == pytest.approx(alone["r1_obs"], abs=0.002)


def test_output_that_nobody_wants(expt, refl, cif, here):
    names = ("cif", "mtz", "experiments", "reflections", "json", "html", "log", "checkpoint")
    run([expt, refl, cif, *CHEAP, *(f"output.{name}=None" for name in names)])
    assert os.listdir(here) == []


# ---------------------------------------------------------------------------------- bad input


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


# ------------------------------------------------------------------------- interrupt and resume


def test_resume_with_other_settings_is_refused(finished, expt, refl, cif, here):
    checkpoint = finished[0] / "dials.hybrid_refine.checkpoint"
    for other, expected in {
        "thickness.model=wedge": r"was written with thickness\.model=flat: use it again",
        "scale.nodes=3": r"was written with scale\.nodes=8: use it again",
        "structure.adp=isotropic": r"belongs to a refinement of another structure",
        "data.d_min=1.2": r"belongs to a refinement against other reflections",
        "seed=1": r"was written with seed=0: use it again",
    }.items():
        with pytest.raises(SystemExit, match=expected):
            run([expt, refl, cif, *CHEAP, f"resume={checkpoint}", other])


@pytest.mark.slow
@pytest.mark.parametrize("nproc", [1, 2])
def test_an_interrupt_says_how_to_continue(expt, refl, cif, here, nproc):
    """Ctrl-C reaches every process of the terminal's group."""
    options = {"cwd": here, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    args = [*PROGRAM, expt, refl, cif, f"nproc={nproc}"]
    process = subprocess.Popen(args, start_new_session=True, **options)
    checkpoint = here / "dials.hybrid_refine.checkpoint"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode in (1, 130)
    assert stderr == "Interrupted; continue with resume=dials.hybrid_refine.checkpoint\n"
    assert json.loads(checkpoint.read_text())["stage"] == "scan"
    assert set(os.listdir(here)) == {"dials.hybrid_refine.log", "dials.hybrid_refine.checkpoint"}


def test_an_old_checkpoint_is_not_recommended(expt, refl, cif, here, monkeypatch):
    """One of an earlier run in the same folder, when this one was stopped before its first."""
    (here / "dials.hybrid_refine.checkpoint").write_text("{}")
    os.utime(here / "dials.hybrid_refine.checkpoint", (1.0, 1.0))

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("dials_hybrid.algorithm.run_hybrid_refine", interrupt)
    with pytest.raises(SystemExit) as end:
        run([expt, refl, cif, *CHEAP])
    assert end.value.code == "Interrupted"
