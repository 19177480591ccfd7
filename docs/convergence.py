"""How far the settings of a refinement are from convergence, on reflections of a crystal that you have.

    python convergence.py integrated.expt integrated.refl model.cif [thickness]

Prints sum |F - F_ref| / sum F_ref of calculated amplitudes over the reflections within five degrees of the
middle of the scan. "period" is the distance of two rocking steps with the same mosaic quantile [degree].
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_hybrid.io.structure import read_structure
from dials_hybrid.phil_simulate import phil_scope
from dials_hybrid.refine.simulate import Numerics, ideal_intensities
from dials_hybrid.synthesis import Synthesis

NODES = 40  # of thickness
# The beams, with the same steps as their reference; the steps, with the same beams.
BEAMS = Numerics(2.6, sg_max=0.03, rocking_step=0.01, mosaic_points=5, nodes=NODES, weak_sg_max=0.12)
STEPS = Numerics(g_max=2.0, sg_max=0.01, rocking_step=0.02 / 15, mosaic_points=15, nodes=NODES)
TRIED_G_MAX = 1.8, 1.9, 2.0, 2.2, 2.4
TRIED_SG_MAX = [(value, 0.0) for value in (0.005, 0.0075, 0.01, 0.015, 0.02, 0.03)]
TRIED_SG_MAX += [(0.005, 0.03), (0.0075, 0.03), (0.0075, 0.06), (0.01, 0.03), (0.015, 0.03)]
TRIED_STEPS = [(5, 0.024), (5, 0.048), (5, 0.072), (5, 0.096), (1, 0.024), (3, 0.024), (9, 0.024)]


def main(experiments: str, reflections: str, model: str, thickness: str = "600") -> None:
    params = phil_scope.extract()
    params.thickness.mean, params.nproc = float(thickness), 1
    table = flex.reflection_table.from_file(reflections)
    expt = ExperimentList.from_file(experiments, check_format=False)
    synthesis = Synthesis(expt, read_structure(model), params, table)
    angle = synthesis.measurement.reflections.angle
    rows = np.flatnonzero(np.abs(angle - np.median(angle)) < 5.0)
    measurement = replace(synthesis.measurement, reflections=synthesis.measurement.reflections.select(rows))

    def amplitudes(numerics: Numerics) -> np.ndarray:
        return np.sqrt(ideal_intensities(measurement, synthesis.atoms, synthesis.specimen, numerics)[0])

    def report(label: str, numerics: Numerics) -> None:
        error = np.abs(amplitudes(numerics) - reference).sum() / reference.sum()
        print(f"{label:36s}{100.0 * error:6.2f} %", flush=True)

    print(f"{len(rows)} reflections, mean thickness {thickness} A")
    reference = amplitudes(BEAMS)
    for g_max in TRIED_G_MAX:
        report(f"g_max {g_max:g}", replace(BEAMS, g_max=g_max))
    for strong, weak in TRIED_SG_MAX:
        label = f"sg_max {strong:g}" + (f", weak_sg_max {weak:g}" if weak else "")
        report(label, replace(BEAMS, sg_max=strong, weak_sg_max=weak))
    reference = amplitudes(STEPS)
    for points, period in TRIED_STEPS:
        variant = replace(STEPS, mosaic_points=points, rocking_step=period / points)
        report(f"{points} mosaic points, period {period:g}", variant)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
