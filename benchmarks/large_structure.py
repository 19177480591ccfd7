"""A cycle of least squares for a crystal of 100 atoms in the asymmetric unit: time and memory.

    python benchmarks/large_structure.py [--images 120] [--measured 2] [--memory 4]

Atoms at random in P212121, a sweep of so many images of one degree, about 600 beams in a segment, nine
parameters an atom. What a Jacobian holds is predicted for all images; it is made for the middle ones, once
with all the memory of the machine and once with `--memory`, and must come out the same.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from segments import sweep

from dials_hybrid.data import AtomicModel
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Normal
from dials_hybrid.model.thickness_grid import ThicknessGrid

N_ATOMS, STEP = 100, 0.125  # [degree]
CELL = (15.0, 18.0, 27.0)  # [A]
G_OBSERVED, HALF_WINDOW = 1.0, 5  # [1/A], steps
POLICY = BeamPolicy(g_max=1.15, sg_max=0.006)
GRID = ThicknessGrid(800.0, 40)
# carbon (Peng et al., 1996)
AMPLITUDES = (0.0893, 0.2563, 0.757, 1.0487, 0.3575)
WIDTHS = (0.2465, 1.71, 6.4094, 18.6113, 50.2523)


def atoms() -> AtomicModel:
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(N_ATOMS, 11, dtype=torch.float64)
    table[:, :3] = torch.rand(N_ATOMS, 3, generator=generator, dtype=torch.float64)
    table[:, 4:7] = 0.03 / torch.tensor(CELL, dtype=torch.float64) ** 2
    table[:, 10] = 1.0
    signs = [(1, 1, 1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1)]
    shifts = [(0.0, 0.0, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (0.5, 0.5, 0.0)]
    return AtomicModel(
        labels=tuple(f"C{i}" for i in range(N_ATOMS)),
        elements=("C",) * N_ATOMS,
        cell=torch.tensor([*CELL, 90.0, 90.0, 90.0], dtype=torch.float64),
        parameters=table,
        anisotropic=torch.ones(N_ATOMS, dtype=torch.bool),
        multiplicity=torch.ones(N_ATOMS, dtype=torch.float64),
        form_factor_type=torch.zeros(N_ATOMS, dtype=torch.long),
        form_factor_a=torch.tensor([AMPLITUDES], dtype=torch.float64),
        form_factor_b=torch.tensor([WIDTHS], dtype=torch.float64),
        rotations=torch.stack([torch.diag(torch.tensor(s, dtype=torch.float64)) for s in signs]),
        translations=torch.tensor(shifts, dtype=torch.float64),
    )


def model(images: float, memory: float) -> Hybrid:
    structure = atoms()
    data = sweep(structure, images, STEP, G_OBSERVED, HALF_WINDOW)
    free = torch.eye(11 * N_ATOMS, dtype=torch.float64).view(N_ATOMS, 11, -1)
    free = free[:, [0, 1, 2, 4, 5, 6, 7, 8, 9]].flatten(0, 1)
    names = tuple(map(str, range(len(free))))
    return Hybrid(
        data,
        Crystal(structure, free, names),
        Orientation(data.steps, n_nodes=6, mosaic_spread=None, restraint=0.05),
        [Normal(GRID, 400.0, 100.0)],
        Scale(data.observations, 1, 6),
        POLICY,
        memory=memory,
        dtype=torch.float32,
    )


def memory_of(name: str) -> float:
    """VmRSS, the memory of this process [GiB], or VmHWM, the most it has had."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 2**20


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def describe(hybrid: Hybrid) -> None:
    simulation, plan = hybrid.simulation, hybrid.simulation.plan
    print(
        f"{len(hybrid.dataset.observations)} observations, {len(hybrid.vector())} parameters, "
        f"{len(simulation.tasks)} segments, {np.mean(simulation.n_beams):.0f} beams on average and "
        f"{max(simulation.n_beams)} at most, {len(simulation.table.hkl)} differences of beams; "
        f"expected {hybrid.expected_seconds():.0f} s and {plan.memory:.2f} GiB, "
        f"Jacobian in {'a file' if plan.in_file else 'memory'}, "
        f"derivatives of {min(simulation.entries, len(simulation.table.hkl))} U_g at once"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=float, default=120.0)
    parser.add_argument("--measured", type=float, default=2.0)
    parser.add_argument("--memory", type=float, default=4.0)
    parser.add_argument("--ample", type=float, default=64.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{args.images:g} images, memory={args.memory:g}")
    describe(model(args.images, args.memory))
    results = []
    for memory in (args.memory, args.ample):
        hybrid = model(args.measured, memory)
        print(f"{args.measured:g} images, memory={memory:g}")
        describe(hybrid)
        forget_peak()
        before, started = memory_of("VmRSS"), time.process_time()
        jacobian = hybrid.evaluate(derivatives=True).jacobian
        seconds = time.process_time() - started
        growth = memory_of("VmHWM") - before
        results.append(jacobian[:].clone())
        print(f"{seconds:.1f} s, {seconds / args.measured:.1f} s an image; peak {growth:.2f} GiB more")
    difference = (results[0] - results[1]).abs().amax(0) / results[1].abs().amax(0)
    print(f"largest difference {float(difference.max()):.1e} of the largest derivative by a parameter")


if __name__ == "__main__":
    main()
