"""Segments together against one by one, for `propagation.py`.

Rocking sums of a sweep, and their derivatives by sites and U_iso of all atoms, for single precision and
Chebyshev polynomials throughout. "operations" are those of PyTorch that are no views: each starts at least
one kernel on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from segments import CRYSTALS, sweep
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dials_hybrid.bloch import waves
from dials_hybrid.bloch.propagate import Potential
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.simulation import BeamPolicy, Simulation

POLICY = BeamPolicy(g_max=1.6, sg_max=0.0075, weak_sg_max=0.03)
ATOMIC = [0, 1, 2, 3]  # x, y, z, U_iso


class Operations(TorchDispatchMode):
    """Counts them."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **kwargs or {})


class Sweep:
    """A crystal and its observations; simulations of it with batches of any size."""

    def __init__(self, name: str, images: float, device: str):
        self.atoms = CRYSTALS[name]().to(device)
        self.data = sweep(CRYSTALS[name](), images, 0.06, 1.2, 12).to(device)
        n = self.atoms.n_atoms
        free = torch.eye(11 * n, dtype=torch.float64, device=device).view(n, 11, -1)[:, ATOMIC]
        names = tuple(str(i) for i in range(n * len(ATOMIC)))
        self.crystal = Crystal(self.atoms, free.reshape(-1, 11 * n), names)
        self.orientation = Orientation(self.data.steps, n_nodes=6, mosaic_spread=None, restraint=0.05)
        self.basis = self.orientation.basis(self.data.steps).detach()
        self.thickness = torch.linspace(20.0, 800.0, 40, dtype=torch.float64, device=device)
        self.p = torch.full((len(self.data.observations), 40), 1 / 40, dtype=torch.float64, device=device)

    def simulation(self, batch: int) -> Simulation:
        return Simulation(
            self.data,
            self.atoms,
            self.basis,
            POLICY,
            mean_inner_potential=0.05,
            n_structure=len(self.crystal.shifts),
            n_thickness=40,
            dtype=torch.float32,
            batch=batch,
        )

    def potential(self, hkl: Tensor, derivatives: bool = True) -> Potential:
        return self.crystal.potential(hkl, self.data.wavelength, derivatives)

    def run(self, simulation: Simulation) -> None:
        simulation.run(self.potential(simulation.table.hkl, False), self.basis, self.thickness)

    def differentiate(self, simulation: Simulation) -> None:
        axes, design = self.orientation.axes, self.orientation.design_matrix()
        simulation.differentiate(self.potential, self.basis, axes, design, self.thickness, self.p)


def measured(work: Callable[[], None], device: str) -> tuple[float, int]:
    """Least seconds of three calls, of the process on a CPU, and operations."""
    with Operations() as operations:
        work()
    clock, times = (time.process_time if device == "cpu" else time.perf_counter), []
    for _ in range(3):
        started = clock()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - started)
    return min(times), operations.count


def batch_table(quick: bool, device: str) -> list[dict]:
    print("\nSegments of a sweep in batches: milliseconds and operations for each, Chebyshev polynomials")
    print(f"{'case':18s} {'N':>4s} {'segments':>8s} {'batch':>5s} {'sums':>8s} {'':>9s} {'derivatives':>12s}")
    rows = []
    more = 1 if device == "cpu" else 8
    cases = [("quartz", 30.0), ("L-alanine size", 30.0), ("organic, 28 atoms", 4.0)][: 1 if quick else 3]
    least = waves._Cost.least
    with patch.object(waves._Cost, "least", lambda cost, costs, _: least(cost, costs, hermitian=False)):
        for name, images in cases:
            scene = Sweep(name, more * images, device)
            for batch in (1, 4, 16, 64, 256):
                rows.append(_row(scene, name, batch, device))
                if batch >= rows[-1]["segments"]:
                    break
    return rows


def _row(scene: Sweep, name: str, batch: int, device: str) -> dict:
    simulation = scene.simulation(batch)
    n, segments = max(simulation.n_beams), len(simulation.tasks)
    sums = measured(lambda: scene.run(simulation), device)
    derivatives = measured(lambda: scene.differentiate(simulation), device)
    numbers = [
        x for seconds, count in (sums, derivatives) for x in (1e3 * seconds / segments, count / segments)
    ]
    print(
        f"{name:18s} {n:4d} {segments:8d} {batch:5d} {{:8.2f}} {{:9.1f}} {{:9.2f}} {{:9.1f}}".format(
            *numbers
        ),
        flush=True,
    )
    return dict(case=name, n=n, segments=segments, batch=batch, sums=sums, derivatives=derivatives)
