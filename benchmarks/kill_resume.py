"""Runs killed at random moments: are the files whole, and does `resume=` end where the whole run does?

    python benchmarks/kill_resume.py folder-of-quartz_dials [kills]

dials.hybrid_refine refines quartz with the cheapest settings that pass through all stages, in child processes
that get SIGKILL: two in three at any moment of the run, one in three while it writes its results. Each is
resumed from its checkpoint, or begun anew where it had none, and compared with a run that nobody disturbed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import iotbx.mtz

from dials_hybrid import algorithm, report_data  # noqa: F401  (so that children need not import them)
from dials_hybrid.command_line.hybrid_refine import run
from dials_hybrid.io.checkpoint import read_checkpoint
from dials_hybrid.io.dials_files import read_experiments, read_table
from dials_hybrid.io.structure import read_structure
from dials_hybrid.report import page  # noqa: F401

_CHEAP = """thickness.model=wedge max_cycles=2 beams.g_max=0.7 beams.sg_max=0.01 data.d_min=1.7 nproc=1
orientation.mosaic_points=1 thickness.maximum=1200 scale.nodes=2 structure.adp=isotropic
absolute_structure=ignore""".split()
_CHECKPOINT = "dials.hybrid_refine.checkpoint"
_READERS = {
    "hybrid_refined.cif": read_structure,
    "hybrid_refined.mtz": lambda path: iotbx.mtz.object(str(path)).n_reflections(),
    "hybrid_refined.expt": read_experiments,
    "hybrid_refined.refl": read_table,
    "dials.hybrid_refine.json": lambda path: json.loads(path.read_text())["r1_obs"],
    "dials.hybrid_refine.html": lambda path: path.read_text().rstrip().index("</html>"),
    _CHECKPOINT: read_checkpoint,
}


def start(folder: Path, args: list[str]) -> int:
    """A child that refines in `folder`; its process id."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    stream = os.open("terminal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    status = 1
    try:
        run(args)
        status = 0
    except SystemExit as end:
        print(end.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def finish(folder: Path, args: list[str]) -> None:
    _, status = os.waitpid(start(folder, args), 0)
    if status:
        raise SystemExit(f"{folder}: a run ended with status {status}")


def kill_at(folder: Path, args: list[str], moment: float, writing: bool) -> None:
    """Kill a run `moment` seconds after its start, or after it has begun to write its results."""
    child = start(folder, args)
    if writing:
        terminal = folder / "terminal"
        while not terminal.exists() or "Saving the refined" not in terminal.read_text():
            time.sleep(0.005)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def figures(folder: Path) -> list[float]:
    """R values and coordinates of a finished run."""
    summary = json.loads((folder / "dials.hybrid_refine.json").read_text())
    names = ("r1_obs", "r1_all", "wr_all", "r1_free", "goodness_of_fit", "thickness_mean")
    table = read_table(folder / "hybrid_refined.refl")
    structure = _READERS["hybrid_refined.cif"](folder / "hybrid_refined.cif")
    sites = [x for scatterer in structure.scatterers() for x in scatterer.site]
    calculated = table["intensity.dyn.value"].as_numpy_array()
    return [*(summary[name] for name in names), *sites, *calculated.tolist()]


def largest_difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / max(abs(a), 1e-3) for a, b in zip(one, other, strict=True))


def main(data: Path, kills: int) -> None:
    torch.set_num_threads(1)
    args = [str(data / name) for name in ("integrated.expt", "integrated.refl", "quartz_P3221.cif")] + _CHEAP
    root = Path(tempfile.mkdtemp())
    (root / "whole").mkdir()
    before = time.time()
    finish(root / "whole", args)
    duration = time.time() - before
    expected = figures(root / "whole")
    print(f"undisturbed: {duration:.1f} s, R1_obs {expected[0]:.4f}", flush=True)
    rng = random.Random(0)
    left = whole = 0
    worst: dict[str, float] = {}
    for number in range(kills):
        folder = root / str(number)
        folder.mkdir()
        writing = number % 3 == 2
        kill_at(folder, args, rng.uniform(0.0, 0.6 if writing else duration), writing)
        for name, read in _READERS.items():
            if (folder / name).exists():
                read(folder / name)
                whole += 1
        left += len([path for path in folder.iterdir() if path.name.startswith(".")])
        stage = "none"
        if (folder / _CHECKPOINT).exists():
            stage = read_checkpoint(folder / _CHECKPOINT)["stage"]
        finish(folder, args + ([f"resume={_CHECKPOINT}"] if stage != "none" else []))
        difference = largest_difference(expected, figures(folder))
        worst[stage] = max(worst.get(stage, 0.0), difference)
        moment = "while writing" if writing else "at any moment"
        print(f"{number:3d} killed {moment}, checkpoint {stage}: {difference:.1e}", flush=True)
    print(f"{kills} kills: {whole} files found, all whole; {left} hidden temporary files left")
    for stage, difference in worst.items():
        print(f"resumed after {stage}: largest relative difference {difference:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50)
