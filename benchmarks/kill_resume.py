"""Runs killed at random moments: are the files whole, and does `resume=` end where the whole run does?

    python benchmarks/kill_resume.py folder-of-quartz_dials [--chains 13] [--quick]

dials.hybrid_refine refines quartz with its defaults in child processes that get SIGKILL. In a chain the
first three are killed at any moment, the fourth while it writes its results, and the fifth may finish. Each
goes on from the checkpoint of the one before, or begins anew where there was none. All files are read after
a kill, and the last results compared with those of a run that nobody disturbed. With --quick the settings
are the cheapest that pass through all stages.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
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

_CHEAP = """thickness.model=wedge max_cycles=2 beams.g_max=0.7 beams.sg_max=0.01 data.d_min=1.7
orientation.mosaic_points=1 thickness.maximum=1200 scale.nodes=2 structure.adp=isotropic
absolute_structure=ignore""".split()
_KILLS = 3  # of a chain, at any moment of the first
_LONGEST = 0.6  # of the whole run, and seconds after the first result is announced
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


def kill_at(folder: Path, args: list[str], moment: float, writing: bool) -> bool:
    """Kill a run `moment` seconds after its start, or after it has begun to write its results.

    False: it had finished before.
    """
    terminal = folder / "terminal"
    terminal.unlink(missing_ok=True)
    child = start(folder, args)
    while writing and not (terminal.exists() and "Saving the refined" in terminal.read_text()):
        time.sleep(0.005)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def finish(folder: Path, args: list[str]) -> None:
    _, status = os.waitpid(start(folder, args), 0)
    if status:
        raise SystemExit(f"{folder}: a run ended with status {status}")


def read_all(folder: Path) -> int:
    """How many files there are, all of which can be read."""
    there = [name for name in _READERS if (folder / name).exists()]
    for name in there:
        _READERS[name](folder / name)
    return len(there)


def hidden(folder: Path) -> int:
    return sum(path.name.startswith(".") for path in folder.iterdir())


def stage_of(folder: Path) -> str:
    """The stage from which a run can go on."""
    checkpoint = folder / _CHECKPOINT
    return read_checkpoint(checkpoint)["stage"] if checkpoint.exists() else "none"


def resuming(folder: Path, args: list[str]) -> list[str]:
    return args + ([f"resume={_CHECKPOINT}"] if (folder / _CHECKPOINT).exists() else [])


def figures(folder: Path) -> list[float]:
    """R values, parameters with their s.u.s and calculated intensities of a finished run."""
    summary = json.loads((folder / "dials.hybrid_refine.json").read_text())
    names = ("r1_obs", "r1_all", "wr_all", "r1_free", "goodness_of_fit", "thickness_mean")
    parameters = [parameter[name] for parameter in summary["parameters"] for name in ("value", "su")]
    calculated = read_table(folder / "hybrid_refined.refl")["intensity.dyn.value"].as_numpy_array()
    return [*(summary[name] for name in names), *parameters, *calculated.tolist()]


def largest_difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / max(abs(a), 1e-3) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--chains", type=int, default=13)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = [str(options.data / name) for name in ("integrated.expt", "integrated.refl", "quartz_P3221.cif")]
    args = [*files, "nproc=1", *(_CHEAP if options.quick else [])]
    root = Path(tempfile.mkdtemp())
    (root / "whole").mkdir()
    before = time.time()
    finish(root / "whole", args)
    duration = time.time() - before
    expected = figures(root / "whole")
    print(f"undisturbed: {duration:.1f} s, R1_obs {expected[0]:.4f}, {len(expected)} numbers", flush=True)
    rng = random.Random(0)
    kills = read = left = remaining = 0
    worst = 0.0
    for number in range(options.chains):
        folder = root / str(number)
        folder.mkdir()
        stages = []
        for kill in range(_KILLS + 1):
            writing = kill == _KILLS
            moment = rng.uniform(0.0, _LONGEST * (1.0 if writing else duration))
            kills += kill_at(folder, resuming(folder, args), moment, writing)
            stages.append(stage_of(folder))
            read += read_all(folder)
        left += hidden(folder)
        finish(folder, resuming(folder, args))
        read += read_all(folder)
        remaining += hidden(folder)
        difference = largest_difference(expected, figures(folder))
        worst = max(worst, difference)
        print(f"chain {number}: killed after {', '.join(stages)}: {difference:.1e}", flush=True)
    print(f"{kills} kills: {read} files read, all whole; largest relative difference {worst:.1e}")
    print(f"hidden temporary files: {left} after the last kill of a chain, {remaining} after the next run")


if __name__ == "__main__":
    main()
