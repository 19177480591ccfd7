"""Spoilt files by the thousand: does every one end in a result or in one sentence?

    python benchmarks/hostile_files.py [cases of each kind] [folder of real data]

Each case is a file of `tests/fuzz/targets.py`, cut off or changed, and a command that reads it, in a child
process with 2 GiB of memory and 20 s. The table says how they ended, the lines above it what went wrong.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import torch  # noqa: E402
from fuzz import runner, targets  # noqa: E402

_REAL = {
    "experiments": ["quartz_dials/integrated.expt", "quartz_dials/scaled.expt"],
    "reflections": ["quartz_dials/integrated.refl", "quartz_dials/scaled.refl"],
    "cif": ["quartz_dials/quartz_P3121.cif", "cspbbr3_pets/cspbbr3.cif"],
    "cif_pets": ["quartz_pets/quartz.cif_pets"],
}


def run(n: int, data: Path | None) -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    targets.prepare(folder)
    more = {kind: [data / name for name in names] for kind, names in _REAL.items()} if data else None
    print(f"{'kind':<14}{'cases':>7}{'cut off':>9}{'read':>7}{'refused':>9}{'faults':>8}{'seconds':>9}")
    for target in targets.targets(folder, more).values():
        started = time.time()
        found = Counter()
        for ending in runner.run(target, range(target.n_cuts() + n), folder):
            found[ending.outcome] += 1
            if ending.outcome not in runner.GOOD:
                print(f"  {ending.target} {ending.number}: {ending.outcome}, {ending.what[:300]}")
        good = found["read"], found["refused"]
        faults = found.total() - sum(good)
        print(
            f"{target.name:<14}{found.total():>7}{target.n_cuts():>9}{good[0]:>7}{good[1]:>9}{faults:>8}"
            f"{time.time() - started:>9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
