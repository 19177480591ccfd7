"""Whole refinements: time, memory and R values of the commands, and how they share out over processes.

    python benchmarks/refinement.py FOLDER_OF_DATA_SETS [--sets quartz_dials,cspbbr3_pets] [--json FILE]

FOLDER_OF_DATA_SETS holds quartz_dials, quartz_pets and cspbbr3_pets. Each command is run once with one
process and once with two. The table of ranks is a model: CPU times of the segments of a cycle as
measured here, shared out as the program does it, plus the addition over the ranks as a ring,

    T(n) = T_serial + max_rank sum(segments) + 2 (n - 1) / n B / bandwidth + 2 (n - 1) latency,

B the bytes that a cycle adds up. T_serial is what every rank does itself: choosing beams, the potential
and the least squares.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from dials_hybrid.model.batches import cost
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.parallel import share_out
from dials_hybrid.problem import read_problem, read_result
from dials_hybrid.report.tables import table

SETS = {
    "quartz_dials": ("integrated.expt", "integrated.refl", "quartz_P3221.cif"),
    "quartz_pets": ("quartz.cif_pets", "../quartz_dials/quartz_P3221.cif"),
    "cspbbr3_pets": ("cspbbr3_dyn.cif_pets", "cspbbr3.cif"),
}
PROGRAM = [sys.executable, "-m", "dials_hybrid.command_line.hybrid_refine"]
BANDWIDTH, LATENCY = 1e9, 50e-6  # [byte/s], [s]: of ten-gigabit Ethernet
RANKS = (1, 2, 4, 16, 64)
REPETITIONS = 3


def run(args: list[str], folder: Path) -> dict:
    """One command: seconds, CPU seconds and the largest memory of a process."""
    started = time.perf_counter()
    with open(folder / "output", "w") as output:
        process = subprocess.Popen(args, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "output").read_text()[-2000:])
    return {
        "wall": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024.0,
    }


def whole_command(files: list[str], nproc: int, options: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        used = run([*PROGRAM, *files, f"nproc={nproc}", *options], folder)
        summary = json.loads((folder / "dials.hybrid_refine.json").read_text())
    figures = {key: summary[key] for key in ("r1_obs", "r1_all", "wr_all", "r1_free", "seconds", "n_used")}
    return {"nproc": nproc, **used, **figures}


def scaling(files: list[str], options: list[str]) -> dict:
    """A cycle with derivatives on more ranks than there are, from the times of its segments."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([*PROGRAM, *files, "output.problem=problem", *options], folder)
        run(
            [sys.executable, "-m", "dials_hybrid.refine", "problem", "nproc=1", "output.result=result"],
            folder,
        )
        inputs = read_problem(folder / "problem").inputs
        hybrid = read_result(folder / "result", inputs)[0].hybrid
    hybrid.dtype = torch.float64
    started = time.process_time()
    simulation = hybrid.simulation
    beams = time.process_time() - started
    runs = [segment_times(hybrid) for _ in range(REPETITIONS)]
    serial = statistics.median(total - sum(each) for total, each in runs)
    times = torch.tensor([each for _, each in runs]).median(0).values
    costs = torch.tensor([cost(task) for task in simulation.tasks])
    width = len(hybrid.grid) + sum(
        part.stop - part.start for key, part in hybrid.slices().items() if key in ("crystal", "orientation")
    )
    exchanged = 8 * len(hybrid.dataset.observations) * width
    rows = []
    for n in RANKS:
        share = max(float(times[own].sum()) if own else 0.0 for own in share_out(costs.tolist(), n))
        talk = 0.0 if n == 1 else 2 * (n - 1) / n * exchanged / BANDWIDTH + 2 * (n - 1) * LATENCY
        rows.append(
            {
                "ranks": n,
                "balance": float(times.sum()) / n / share,
                "segments": share,
                "exchange": talk,
                "cycle": serial + share + talk,
            }
        )
    return {
        "segments": len(times),
        "largest_segment": float(times.max()),
        "correlation": float(torch.corrcoef(torch.stack([costs, times]))[0, 1]),
        "beams": beams,
        "serial": serial,
        "bytes": exchanged,
        "ranks": rows,
    }


def segment_times(hybrid: Hybrid) -> tuple[float, list[float]]:
    """CPU seconds of a cycle with derivatives, and of each of its segments: what else runs does not count."""
    times = []

    def timed(done, total):
        started = time.process_time()
        for segment in done:
            times.append(time.process_time() - started)
            yield segment
            started = time.process_time()

    hybrid.simulation.progress = timed
    started = time.process_time()
    hybrid.evaluate(derivatives=True)
    return time.process_time() - started, times


def show(name: str, commands: list[dict], model: dict) -> None:
    rows = [
        [f"{c['nproc']}", *(f"{c[key]:.1f}" for key in ("wall", "cpu")), f"{c['memory']:.0f}",
         *(f"{100 * c[key]:.2f}" for key in ("r1_obs", "r1_all", "wr_all"))]
        for c in commands
    ]  # fmt: skip
    print(f"\n{name}, {commands[0]['n_used']} observations")
    print(table(rows, ["nproc", "wall s", "CPU s", "MiB", "R1_obs %", "R1_all %", "wR %"]))
    stages = list(commands[0]["seconds"])
    print(table([[f"{c['nproc']}", *(f"{c['seconds'][s]:.1f}" for s in stages)] for c in commands],
                ["nproc", *stages]))  # fmt: skip
    if len(commands) > 1:
        print(f"speed-up of two processes: {commands[0]['wall'] / commands[1]['wall']:.2f}")
    one = model["ranks"][0]["cycle"]
    rows = [
        [f"{r['ranks']}", f"{r['cycle']:.3f}", f"{r['segments']:.3f}", f"{1e3 * r['exchange']:.2f}",
         f"{r['balance']:.2f}", f"{one / r['cycle']:.1f}"]
        for r in model["ranks"]
    ]  # fmt: skip
    print(
        f"{model['segments']} segments, the longest {1e3 * model['largest_segment']:.1f} ms; costs and times "
        f"correlate with {model['correlation']:.3f}; {model['serial']:.3f} s of a cycle and "
        f"{model['beams']:.2f} s for beams are not shared; {model['bytes'] / 2**20:.2f} MiB exchanged at "
        f"{BANDWIDTH / 1e9:g} GB/s and {1e6 * LATENCY:g} us"
    )
    print(table(rows, ["ranks", "cycle s", "segments s", "exchange ms", "balance", "speed-up"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", default="quartz_dials,quartz_pets,cspbbr3_pets")
    parser.add_argument("--nproc", default="1,2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="parameters of dials.hybrid_refine")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    results = {}
    for name in args.sets.split(","):
        files = [str((args.folder / name / file).resolve()) for file in SETS[name]]
        commands = [whole_command(files, int(n), args.options) for n in args.nproc.split(",")]
        results[name] = {"commands": commands, "scaling": scaling(files, args.options)}
        show(name, **{"commands": commands, "model": results[name]["scaling"]})
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
