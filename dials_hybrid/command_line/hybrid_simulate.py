# LIBTBX_SET_DISPATCHER_NAME dials.hybrid_simulate
"""
Simulate electron diffraction data of a known crystal with the dynamical theory of diffraction, for
planning experiments and for tests of a refinement: a crystal of the given structure is put where the
experiments have theirs, with a stated distribution of thickness, a misorientation and a mosaic spread,
and its electrons are counted.

Input are experiments with a rotation scan (of dials.integrate, say), the structure as CIF, SHELX (.ins,
.res) or PDB and, if only certain reflections are wanted, a reflection table. Output are experiments and
reflections for dials.hybrid_refine, and the truth as JSON; on request a .cif_pets file of virtual frames.

Examples::

  dials.hybrid_simulate integrated.expt model.cif thickness.mean=800 thickness.width=300

  dials.hybrid_simulate integrated.expt integrated.refl model.cif thickness.model=wedge \\
    thickness.change=linear thickness.amplitude=0.2 misorientation.constant=0.02

  dials.hybrid_simulate integrated.expt model.cif output.pets=simulated.cif_pets
"""

from __future__ import annotations

import os

# Before NumPy is loaded: see hybrid_refine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging
import sys

import libtbx.phil

import dials.util
import dials.util.log
from dials.util.options import ArgumentParser, reflections_and_experiments_from_files
from dials.util.version import dials_version

from dials_hybrid.arguments import changed_parameters, check_outputs, parse_arguments
from dials_hybrid.phil_simulate import phil_scope
from dials_hybrid.program import one_sentence

logger = logging.getLogger("dials.hybrid_simulate")

_PROGRAM = "dials.hybrid_simulate"


@dials.util.show_mail_handle_errors()
def run(args: list[str] | None = None, phil: libtbx.phil.scope = phil_scope) -> None:
    """The command. Ends the program with status 1 and one sentence when it cannot do its work."""
    parser = ArgumentParser(
        usage=f"{_PROGRAM} [options] integrated.expt [integrated.refl] model.cif",
        phil=phil,
        read_experiments=True,
        read_reflections=True,
        check_format=False,
        epilog=__doc__,
    )
    args = sys.argv[1:] if args is None else args
    params, options, structures, _ = parse_arguments(_PROGRAM, parser, args)
    needed = {
        "experiments (.expt)": params.input.experiments,
        "a structure (.cif, .ins, .res, .pdb)": structures,
    }
    if not all(needed.values()):
        parser.print_help()
        missing = [what for what, given in needed.items() if not given]
        sys.exit(f"{_PROGRAM} needs {' and '.join(missing)}" if args else 0)
    check_outputs(_PROGRAM, phil_scope, params.output)
    with one_sentence(_PROGRAM, "cpu", None):
        _simulate(parser, params, options, structures[0])


def _simulate(parser, params, options, structure_file: str) -> None:
    dials.util.log.config(verbosity=options.verbose, logfile=params.output.log)
    logger.info(dials_version())
    diff_phil = changed_parameters(parser)
    if diff_phil:
        logger.info("The following parameters have been modified:\n")
        logger.info(diff_phil)
    logger.info(f"Structure from {structure_file}\n")

    # Here, not at the top: help and parameter listings need no torch.
    from dials_hybrid.io.structure import read_structure
    from dials_hybrid.synthesis import Synthesis

    try:
        reflections, experiments = reflections_and_experiments_from_files(
            params.input.reflections, params.input.experiments
        )
    except RuntimeError as error:  # of dxtbx
        raise ValueError(f"{error}: was it given twice?") from error
    synthesis = Synthesis(experiments, read_structure(structure_file), params, reflections or None)
    experiments, table, truth = synthesis.run()
    if params.output.pets:
        logger.info(f"Saving virtual frames to {params.output.pets}")
        truth["virtual_frames"] = synthesis.write_pets(params.output.pets)
    _report(truth)
    _save(experiments, table, truth, params.output)


def _report(truth: dict) -> None:
    r = truth["r_of_truth"]
    logger.info(
        f"{truth['n_reflections']} reflections, {truth['n_observed']} with I > 3 sigma; of the truth "
        f"against them R1_obs = {100 * r['r1_obs']:.2f} %, R1_all = {100 * r['r1_all']:.2f} %"
    )
    for name, difference in truth["convergence"].items():
        if name == "last_chebyshev_terms":
            logger.info(f"Interpolation in thickness is good to {100 * difference:.3f} % of I")
        else:
            logger.info(f"Coarser numerics.{name} would change F by {100 * difference:.2f} %")


def _save(experiments, table, truth: dict, output) -> None:
    from dials_hybrid.io.atomic import atomic_write
    from dials_hybrid.io.checkpoint import write_json

    if output.experiments:
        logger.info(f"Saving experiments to {output.experiments}")
        with atomic_write(output.experiments) as path:
            experiments.as_file(str(path))
    if output.reflections:
        logger.info(f"Saving reflections to {output.reflections}")
        with atomic_write(output.reflections) as path:
            table.as_file(str(path))
    if output.json:
        logger.info(f"Saving the truth to {output.json}")
        write_json(output.json, truth)


if __name__ == "__main__":
    run()
