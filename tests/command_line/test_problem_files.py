"""dials.hybrid_refine and a machine without DIALS: there and back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("dials.array_family.flex")

from dials_hybrid.command_line.hybrid_refine import run
from dials_hybrid.refine.__main__ import run as refine

CHEAP = """thickness.model=flat max_cycles=1 beams.g_max=1.2 data.d_min=1.0 orientation.mosaic_points=1
nproc=1""".split()
KILLING = """
import os, signal
import dials_hybrid.model.parallel as parallel
work = parallel._work
parallel._work = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
from dials_hybrid.command_line.hybrid_refine import run
run()
"""


@pytest.fixture(scope="module")
def files(quartz_dials):
    return [str(quartz_dials / name) for name in ("integrated.expt", "integrated.refl", "quartz_P3221.cif")]


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    """A problem and its result."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run([*files, *CHEAP, "output.problem=problem"])
        assert {path.name for path in folder.iterdir()} == {"problem", "dials.hybrid_refine.log"}
        refine(["problem", "nproc=1", "output.result=result"])
    return folder


def test_there_and_back_is_the_same_as_here(files, folder, tmp_path, monkeypatch):
    summaries = []
    for name, more in (("here", []), ("back", [f"result={folder / 'result'}"])):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        run([*files, *CHEAP, *more])
        summaries.append(json.loads((tmp_path / name / "dials.hybrid_refine.json").read_text()))
    here, back = summaries
    for key in ("r1_obs", "r1_all", "wr_all", "r1_free", "goodness_of_fit", "thickness_mean"):
        assert back[key] == pytest.approx(here[key], rel=1e-6), key
    assert back["versions"].keys() == here["versions"].keys() >= {"dials_hybrid", "dials", "cctbx", "torch"}
    written = {path.name for path in (tmp_path / "here").iterdir()} - {"dials.hybrid_refine.checkpoint"}
    assert {path.name for path in (tmp_path / "back").iterdir()} == written


@pytest.mark.parametrize(
    "more, reason",
    [
        ("data.d_min=1.1", "is the result for other reflections"),
        ("structure.adp=isotropic", "is the result for another structure"),
    ],
)
def test_a_result_of_something_else(files, folder, tmp_path, monkeypatch, more, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=reason):
        run([*files, *CHEAP, more, f"result={folder / 'result'}"])


def test_a_killed_worker_ends_in_one_sentence(files, tmp_path):
    args = [sys.executable, "-c", KILLING, *files, *CHEAP, "nproc=2"]
    done = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dials.hybrid_refine: a worker process was killed")
    assert "Traceback" not in done.stderr
