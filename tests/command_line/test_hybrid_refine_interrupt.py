"""A run that was interrupted, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from commands import CHEAP, PROGRAM, hearing_ctrl_c

pytest.importorskip("dials.array_family.flex")

from dials_hybrid.command_line.hybrid_refine import run


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
    options["preexec_fn"] = hearing_ctrl_c
    process = subprocess.Popen(args, start_new_session=True, **options)
    checkpoint = here / "dials.hybrid_refine.checkpoint"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "Interrupted; continue with resume=dials.hybrid_refine.checkpoint\n"
    assert json.loads(checkpoint.read_text())["stage"] == "scan"
    assert set(os.listdir(here)) == {"dials.hybrid_refine.log", "dials.hybrid_refine.checkpoint"}


def test_an_old_checkpoint_is_not_recommended(expt, refl, cif, here, monkeypatch, capsys):
    """One of an earlier run in the same folder, when this one was stopped before its first."""
    (here / "dials.hybrid_refine.checkpoint").write_text("{}")
    os.utime(here / "dials.hybrid_refine.checkpoint", (1.0, 1.0))

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("dials_hybrid.algorithm.run_hybrid_refine", interrupt)
    with pytest.raises(SystemExit) as end:
        run([expt, refl, cif, *CHEAP])
    assert end.value.code == 130
    assert capsys.readouterr().err == "Interrupted\n"
