"""What the tests of dials.hybrid_refine share: the cheapest settings that still run through every stage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

CHEAP = """thickness.model=flat max_cycles=1 beams.g_max=1.2 data.d_min=1.0 orientation.mosaic_points=1
nproc=1""".split()
PROGRAM = [sys.executable, "-m", "dials_hybrid.command_line.hybrid_refine"]


def hearing_ctrl_c() -> None:
    """A shell that starts the tests in the background has SIGINT ignored, for their children too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def program(*args, cwd, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*PROGRAM, *args], cwd=cwd, capture_output=True, text=True, **options)


def summary_in(folder) -> dict:
    return json.loads((folder / "dials.hybrid_refine.json").read_text())


def second_crystal(experiments, table):
    """The same data under another identifier."""
    experiments[0].identifier = "second"
    for key in list(table.experiment_identifiers().keys()):
        del table.experiment_identifiers()[key]
    table.experiment_identifiers()[0] = "second"
    experiments.as_file("second.expt")
    table.as_file("second.refl")
