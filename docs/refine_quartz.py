"""Refine a structure from Python and look at the result.

    python refine_quartz.py integrated.expt integrated.refl model.cif [parameter=value ...]

The same as the command `dials.hybrid_refine`, but with everything at hand as DIALS, cctbx and NumPy
objects. Nothing is written.
"""

from __future__ import annotations

import sys

import numpy as np

from dials_hybrid import HybridRefinement
from dials_hybrid.phil import phil_scope


def main(experiments: str, reflections: str, model: str, *parameters: str) -> None:
    # Parameters as on the command line: "thickness.model=wedge", "data.intensity=sum" ...
    interpreter = phil_scope.command_line_argument_interpreter()
    changes = [interpreter.process(parameter) for parameter in parameters]
    params = phil_scope.fetch(sources=changes).extract()
    params.output.checkpoint = None

    refinement = HybridRefinement.from_files([experiments], [reflections], model, params)
    result = refinement.run()

    print(f"R1 = {result.r1_obs:.4f} for {result.summary['n_observed']} observed reflections")
    print(f"mean thickness {result.thickness.mean:.0f} A ({result.thickness.model})")

    # The refined structure is a cctbx xray.structure ...
    result.xray_structure.show_scatterers()

    # ... its independent parameters have a covariance matrix ...
    uncertainty = np.sqrt(np.diag(result.covariance))
    for name, su in zip(result.constraints.names, uncertainty, strict=True):
        print(f"{name:8s} s.u. {su:.6f}")

    # ... and the reflection table has calculated intensities on the scale of the data.
    table = result.reflections
    used = table.select(table.get_flags(table.flags.used_in_refinement))
    print(f"{len(used)} reflections, sum of calculated intensities {sum(used['intensity.dyn.value']):.0f}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
