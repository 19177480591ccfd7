"""The program as a user meets it: what it says and what it writes."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys

import pytest
from commands import CHEAP, program, summary_in

pytest.importorskip("dials.array_family.flex")

import iotbx.cif

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_hybrid.command_line.hybrid_refine import run

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
    for title in ("Thickness scan", "Structure, orientation, thickness and scale", "fine rocking steps"):
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


def test_dials_reports_on_the_output(finished, here):
    from dials.command_line.report import run as report

    report([str(finished[0] / f"hybrid_refined.{kind}") for kind in ("expt", "refl")])
    assert (here / "dials.report.html").stat().st_size > 1e5


def test_the_structure_may_be_held(expt, refl, cif, here):
    """With weak beams and both hands, as by default."""
    run(
        [expt, refl, cif, *CHEAP, "structure.fix=name *", "beams.weak_sg_max=0.03", "absolute_structure=auto"]
    )
    assert set(os.listdir(here)) >= OUTPUT
    summary = summary_in(here)
    assert summary["parameters"] and all(item["block"] != "crystal" for item in summary["parameters"])
    assert summary["r1_obs"] < 0.5
    assert all(atom["moved"] == 0.0 for atom in summary["displacements"])


def test_quiet(expt, refl, cif, here, capsys):
    run([expt, refl, cif, *CHEAP, "-q"])
    assert capsys.readouterr().out == ""
    assert "Saving the report to" in (here / "dials.hybrid_refine.log").read_text()


def test_a_worse_structure_ends_with_status_1_and_all_files(expt, refl, cif, here, monkeypatch):
    def rose(summary):
        raise ValueError("R1_free rose")

    monkeypatch.setattr("dials_hybrid.refine.figures.check_free", rose)
    with pytest.raises(SystemExit, match=r"^dials\.hybrid_refine: R1_free rose$"):
        run([expt, refl, cif, *CHEAP])
    assert set(os.listdir(here)) == OUTPUT


@pytest.mark.parametrize(
    ("most", "too_large"),
    [
        (300, OUTPUT - {"dials.hybrid_refine.log"}),
        (100_000, {"dials.hybrid_refine.html", "hybrid_refined.refl"}),
    ],
)
def test_a_full_disk(expt, refl, cif, here, most, too_large):
    """As it is after so many bytes of a file: one sentence, and no part of a file."""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    process = program(expt, refl, cif, *CHEAP, cwd=here, preexec_fn=full)
    assert process.returncode == 1
    assert re.fullmatch(r"dials\.hybrid_refine: \S+: File too large\n", process.stderr)
    assert set(os.listdir(here)) == OUTPUT - too_large


def test_output_that_nobody_wants(expt, refl, cif, here):
    names = ("cif", "mtz", "experiments", "reflections", "json", "html", "log", "checkpoint")
    run([expt, refl, cif, *CHEAP, *(f"output.{name}=None" for name in names)])
    assert os.listdir(here) == []
