# LIBTBX_SET_DISPATCHER_NAME dials.hybrid_refine
"""
Refine a crystal structure against electron diffraction intensities integrated by DIALS or PETS, with the
dynamical theory of diffraction: every electron is scattered many times on its way through the
crystal, and what the detector saw is calculated from that. Atoms, crystal orientation, thickness
distribution and scale are refined together by least squares.

Input are the experiments and reflections of dials.integrate (a rotation scan), or virtual frames of PETS
(.cif_pets, also as DIALS exports them), or both, of one or several crystals, and a start model as CIF,
SHELX (.ins, .res) or PDB. Output are the refined structure as CIF with standard uncertainties,
the experiments with the refined orientation, the reflections with calculated intensities, a log and
all figures as JSON.

Examples::

  dials.hybrid_refine integrated.expt integrated.refl model.cif

  dials.hybrid_refine integrated.expt integrated.refl model.res thickness.model=wedge nproc=4

  dials.hybrid_refine dataset_dyn.cif_pets model.cif

  dials.hybrid_refine integrated.expt integrated.refl model.cif resume=dials.hybrid_refine.checkpoint

  torchrun --nproc-per-node 4 -m dials_hybrid.command_line.hybrid_refine integrated.expt integrated.refl \\
    model.cif device=cuda
"""

from __future__ import annotations

import os

# Before NumPy is loaded: its BLAS keeps a thread for each core, which waits by spinning on cores that
# the processes of this program need (twice the time on two cores).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging
import sys

import libtbx.phil

import dials.util
import dials.util.log
from dials.util.options import ArgumentParser, reflections_and_experiments_from_files
from dials.util.version import dials_version

from dials_hybrid.arguments import FRAMES_ENDING, check_outputs, parse_arguments
from dials_hybrid.phil import phil_scope
from dials_hybrid.program import is_first_rank, local_device, one_sentence

logger = logging.getLogger("dials.hybrid_refine")

_PROGRAM = "dials.hybrid_refine"


@dials.util.show_mail_handle_errors()
def run(args: list[str] | None = None, phil: libtbx.phil.scope = phil_scope) -> None:
    """The command. Ends the program with status 1 and one sentence when it cannot do its work."""
    usage = "dials.hybrid_refine [options] integrated.expt integrated.refl | dataset.cif_pets model.cif"
    parser = ArgumentParser(
        usage=usage,
        phil=phil,
        read_experiments=True,
        read_reflections=True,
        check_format=False,
        epilog=__doc__,
    )
    args = sys.argv[1:] if args is None else args
    endings = (FRAMES_ENDING,)
    params, options, structures, frames = parse_arguments(_PROGRAM, parser, args, others=endings)
    needed = {"structure (.cif, .ins, .res, .pdb)": structures}
    if params.input.experiments or params.input.reflections or not frames:
        needed = {
            "experiments (.expt)": params.input.experiments,
            "reflections (.refl)": params.input.reflections,
            **needed,
        }
    if not all(needed.values()):
        parser.print_help()
        missing = [what for what, given in needed.items() if not given]
        sys.exit(f"{_PROGRAM} needs {' and '.join(missing)}" if args else 0)
    check_outputs(_PROGRAM, phil_scope, params.output)
    params.device = local_device(params.device)
    with one_sentence(_PROGRAM, params.device, params.output.checkpoint):
        _refine(parser, params, options, structures[0], frames)


def _refine(parser, params, options, structure_file: str, frame_files: list[str]) -> None:
    dials.util.log.config(verbosity=options.verbose, logfile=params.output.log if is_first_rank() else None)
    logger.info(dials_version())
    diff_phil = parser.diff_phil.as_str()
    if diff_phil:
        logger.info("The following parameters have been modified:\n")
        logger.info(diff_phil)
    logger.info(f"Start model from {structure_file}\n")

    # Here, not at the top: help and parameter listings need no torch.
    from dials_hybrid.algorithm import run_hybrid_refine
    from dials_hybrid.io.pets import read_pets
    from dials_hybrid.io.structure import read_model

    try:
        reflections, experiments = reflections_and_experiments_from_files(
            params.input.reflections, params.input.experiments
        )
    except RuntimeError as error:  # of dxtbx
        raise ValueError(f"{error}: was it given twice?") from error
    structure = read_model(structure_file)
    frames = [read_pets(name) for name in frame_files]
    result = run_hybrid_refine(experiments, reflections, structure, params, frames)
    if result is None:
        logger.info(f"Saved the problem to {params.output.problem}: python -m dials_hybrid.refine refines it")
    elif is_first_rank():
        _save(result, params)


def _save(result, params) -> None:
    from dials_hybrid.io.atomic import atomic_write
    from dials_hybrid.io.checkpoint import write_json
    from dials_hybrid.io.cif import write_cif
    from dials_hybrid.io.difference_map import write_mtz
    from dials_hybrid.io.observation_list import write_observations
    from dials_hybrid.result import cif_blocks

    output = params.output
    if output.cif:
        logger.info(f"Saving the refined structure to {output.cif}")
        write_cif(output.cif, cif_blocks(result))
    if output.mtz:
        logger.info(f"Saving amplitudes and map coefficients to {output.mtz}")
        write_mtz(output.mtz, result.maps, result.summary["wavelength"])
    if output.observations and result.observations:
        logger.info(f"Saving the observations of virtual frames to {output.observations}")
        write_observations(output.observations, result.observations)
    if output.experiments and result.experiments:
        logger.info(f"Saving refined experiments to {output.experiments}")
        with atomic_write(output.experiments) as path:
            result.experiments.as_file(str(path))
    if output.reflections and result.reflections:
        logger.info(f"Saving reflections with calculated intensities to {output.reflections}")
        with atomic_write(output.reflections) as path:
            result.reflections.as_file(str(path))
    if output.json:
        logger.info(f"Saving all figures to {output.json}")
        write_json(output.json, result.summary)
    if output.html:
        from dials_hybrid.report.page import render
        from dials_hybrid.report_data import report_data

        logger.info(f"Saving the report to {output.html}")
        with atomic_write(output.html) as path:
            path.write_text(render(report_data(result)), encoding="utf-8")


if __name__ == "__main__":
    run()
