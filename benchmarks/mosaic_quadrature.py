"""How many rocking steps a mosaic spread costs, with interleaved quantiles and without.

    python benchmarks/mosaic_quadrature.py FOLDER_WITH_QUARTZ_DIALS

Intensities of the start model with a wedge of 1100 A and a mosaic spread of 0.04 degree, against a
calculation with 41 quantiles at every step of 0.02 degree. "interleaved": each step takes the next
quantile. "repeated": every quantile at every step. The error is sum |dF| / sum F.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.experiments import read_sweep
from dials_hybrid.io.reflections import read_reflections
from dials_hybrid.io.structure import prepare_structure, read_structure
from dials_hybrid.io.tensors import atomic_model
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Wedge
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.rocking.measurement import Measurement

SPREAD, THICKNESS = 0.04, 1100.0


def amplitudes(folder: Path, step: float, quantiles: int, repeated: bool):
    """|F| of every observation, the number of steps and the seconds they took."""
    experiments = ExperimentList.from_file(str(folder / "integrated.expt"), check_format=False)
    table = flex.reflection_table.from_file(str(folder / "integrated.refl"))
    structure = prepare_structure(read_structure(folder / "quartz_P3221.cif"))
    sweeps = [read_sweep(experiment) for experiment in experiments]
    reflections, _ = read_reflections(
        table,
        sweeps,
        column="profile",
        half_width=[1.0],
        min_partiality=0.99,
        min_zeta=0.05,
        d_min=None,
        d_max=None,
    )
    wavelength = experiments[0].beam.get_wavelength()
    dataset = Measurement(tuple(sweeps), reflections, wavelength, len(table)).dataset(
        step / quantiles, quantiles
    )
    steps, observations = dataset.steps, dataset.observations
    # Steps repeated `quantiles` times are interleaved steps whose orientations are made equal.
    if repeated:
        group = torch.arange(len(steps)) // quantiles * quantiles + quantiles // 2
        steps = replace(steps, basis=steps.basis[group.clamp(max=len(steps) - 1)])
        dataset = replace(dataset, steps=steps)
    free = constraints(structure)
    hybrid = Hybrid(
        dataset,
        Crystal(atomic_model(structure), free.jacobian, free.names),
        Orientation(steps, n_nodes=2, mosaic_spread=SPREAD, restraint=0.05),
        [Wedge(ThicknessGrid(1600.0, 32), THICKNESS)],
        Scale(observations, 1, 1),
        BeamPolicy(g_max=2.0, sg_max=0.01),
    )
    started = time.perf_counter()
    intensity = hybrid.evaluate().intensity
    return intensity.clamp(min=0).sqrt(), len(steps), time.perf_counter() - started


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    reference, _, _ = amplitudes(folder, 0.02, 41, True)
    print(f"{'':12s} {'quantiles':>9s} {'degree':>7s} {'steps':>6s} {'error %':>8s} {'s':>5s}")
    for repeated in (True, False):
        for quantiles, step in ((1, 0.02), (3, 0.02), (3, 0.04), (5, 0.02), (5, 0.04), (5, 0.06), (5, 0.08)):
            f, n, seconds = amplitudes(folder, step, quantiles, repeated)
            error = 100.0 * float((f - reference).abs().sum() / reference.sum())
            name = "repeated" if repeated else "interleaved"
            print(f"{name:12s} {quantiles:9d} {step:7.3f} {n:6d} {error:8.2f} {seconds:5.1f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
