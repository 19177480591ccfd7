"""The program as a user meets it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("dials.array_family.flex")

from simulated_experiments import experiments, quartz_structure

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_hybrid.command_line.hybrid_simulate import run

CHEAP = """d_min=1.0 nproc=1 mosaic_spread=0 thickness.mean=200 thickness.width=60 numerics.g_max=1.3
numerics.sg_max=0.01 numerics.weak_sg_max=None""".split()
OUTPUT = {"simulated.expt", "simulated.refl", "simulated.json", "dials.hybrid_simulate.log"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiments().as_file("in.expt")
    with open("model.cif", "w") as file:
        quartz_structure().as_cif_simple(out=file)
    return tmp_path


def refused(capsys, *args) -> str:
    """The sentence with which the program ends."""
    with pytest.raises(SystemExit) as end:
        run(list(args))
    assert isinstance(end.value.code, str) and end.value.code.startswith("dials.hybrid_simulate")
    assert "\n" not in end.value.code
    return end.value.code


def test_files_for_refinement_and_truth(here, capsys):
    run(["in.expt", "model.cif", *CHEAP, "output.pets=frames.cif_pets", "seed=5"])
    assert {*OUTPUT, "frames.cif_pets"} <= set(os.listdir(here))
    truth = json.loads((here / "simulated.json").read_text())
    table = flex.reflection_table.from_file("simulated.refl")
    expt = ExperimentList.from_file("simulated.expt", check_format=False)
    table.assert_experiment_identifiers_are_consistent(expt)
    assert truth["seed"] == 5 and truth["n_reflections"] == len(table) == len(truth["intensities"])
    assert set(truth["convergence"]) == {"last_chebyshev_terms", "g_max", "sg_max", "rocking_step", "nodes"}
    assert truth["virtual_frames"]["n_frames"] == 19
    text = capsys.readouterr().out
    assert re.search(r"R1_obs = \d+\.\d\d %", text)
    assert "Coarser numerics.sg_max would change F by" in text
    assert (here / "dials.hybrid_simulate.log").read_text().count("Saving") == 4


def test_dials_shows_the_output_and_a_refinement_reads_it(here, capsys):
    from dials.command_line.show import run as show

    from dials_hybrid.command_line.hybrid_refine import run as refine

    run(["in.expt", "model.cif", *CHEAP])
    capsys.readouterr()
    show(["simulated.expt", "simulated.refl"])
    assert "intensity.true.value" in capsys.readouterr().out
    refine(
        """simulated.expt simulated.refl model.cif thickness.model=normal beams.g_max=1.3 nproc=1 max_cycles=1
        orientation.mosaic_points=1 structure.adp=isotropic tilt_nodes=1 scale.nodes=1 beams.sg_max=0.01
        beams.weak_sg_max=None""".split()
    )
    summary = json.loads((here / "dials.hybrid_refine.json").read_text())
    truth = json.loads((here / "simulated.json").read_text())
    assert summary["n_used"] == truth["n_reflections"]
    assert summary["r1_obs"] < 2.0 * truth["r_of_truth"]["r1_obs"]


def test_output_that_nobody_wants(here):
    before = set(os.listdir(here))
    names = ("experiments", "reflections", "json", "log")
    run(["in.expt", "model.cif", *CHEAP, *(f"output.{name}=None" for name in names)])
    assert set(os.listdir(here)) == before


@pytest.mark.parametrize("args", [["-h"], ["-c", "-a2", "-e2"], []])
def test_help_needs_no_torch(args, tmp_path):
    script = (
        "import sys\n"
        "from dials_hybrid.command_line.hybrid_simulate import run\n"
        f"try: run({args!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "integrated.expt" in found.stdout or "thickness {" in found.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["missing.expt", "model.cif"], "cannot find the file missing.expt"),
        (["in.expt"], "needs a structure"),
        (["model.cif"], "needs experiments"),
        (["in.expt", "model.cif", "model.cif"], "takes one structure"),
        (["in.expt", "model.cif", "thickness.mean=thick"], "thickness.mean=thick"),
        (["in.expt", "model.cif", "thickness.model=cone"], "thickness.model=cone"),
        (["in.expt", "model.cif", "counts.mean=None"], "counts.mean cannot be None"),
        (["in.expt", "model.cif", "strange"], "does not understand strange"),
        (["in.expt", "model.cif", "output.json=nowhere/x.json"], "cannot write output.json=nowhere/x.json"),
        (["in.expt", "model.cif", "numerics.g_max=0.2"], "numerics.g_max=0.2 leaves out reflections"),
        (["in.expt", "damaged.cif"], "damaged.cif"),
        (["damaged.expt", "model.cif"], "damaged.expt"),
        (["in.expt", "damaged.refl", "model.cif"], "damaged.refl"),
        (["in.expt", "model.cif", "virtual_frames.n_merged=50", "output.pets=x.cif_pets"], "fewer than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_ends_in_one_sentence(args, words, here, capsys):
    for name in ("damaged.cif", "damaged.expt", "damaged.refl"):
        (here / name).write_text("nonsense")
    assert words in refused(capsys, *args, *(CHEAP if "fewer" in words else []))


def test_exit_status_is_1(here):
    program = [sys.executable, "-m", "dials_hybrid.command_line.hybrid_simulate", "in.expt", "model.cif"]
    found = subprocess.run([*program, "d_min=40"], cwd=here, capture_output=True, text=True)
    assert found.returncode == 1
    assert (
        found.stderr.strip()
        .splitlines()[-1]
        .startswith("dials.hybrid_simulate: DIALS predicts no reflection")
    )
    assert "Traceback" not in found.stderr


def test_an_interrupt_has_status_130(here, monkeypatch, capsys):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("dials_hybrid.synthesis.Synthesis.run", interrupt)
    with pytest.raises(SystemExit) as end:
        run(["in.expt", "model.cif", *CHEAP])
    assert end.value.code == 130
    assert capsys.readouterr().err == "Interrupted\n"
