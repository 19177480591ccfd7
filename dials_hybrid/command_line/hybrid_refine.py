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
from collections.abc import Callable

import libtbx.phil

import dials.util
import dials.util.log
from dials.util.options import ArgumentParser, reflections_and_experiments_from_files
from dials.util.version import dials_version

from dials_hybrid.arguments import FRAMES_ENDING, changed_parameters, check_outputs, parse_arguments
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
    parser.add_argument("-q", "--quiet", action="store_true", help="Show nothing but warnings")
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
        instead = (
            "" if params.input.experiments or params.input.reflections else ", or virtual frames (.cif_pets)"
        )
        sys.exit(f"{_PROGRAM} needs {' and '.join(missing)}{instead}" if args else 0)
    check_outputs(_PROGRAM, phil_scope, params.output)
    params.device = local_device(params.device)
    with one_sentence(_PROGRAM, params.device, params.output.checkpoint):
        _refine(parser, params, options, structures[0], frames)


def _refine(parser, params, options, structure_file: str, frame_files: list[str]) -> None:
    _start_log(options, params.output.log if is_first_rank() else None)
    logger.info(dials_version())
    diff_phil = changed_parameters(parser)
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
    show = not options.quiet
    result = run_hybrid_refine(experiments, reflections, structure, params, frames, show_progress=show)
    if result is None:
        logger.info(f"Saved the problem to {params.output.problem}: python -m dials_hybrid.refine refines it")
    elif is_first_rank():
        _save(result, params)


def _start_log(options, filename: str | None) -> None:
    disabled = logging.root.manager.disable
    if options.quiet:
        logging.disable(logging.INFO)  # the banner
    dials.util.log.config(verbosity=options.verbose, logfile=filename)
    logging.disable(disabled)
    if options.quiet:
        for handler in logging.getLogger("dials").handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.WARNING)


def _save(result, params) -> None:
    from dials_hybrid.io.atomic import atomic_write
    from dials_hybrid.io.checkpoint import write_json
    from dials_hybrid.io.cif import write_cif
    from dials_hybrid.io.difference_map import write_mtz
    from dials_hybrid.io.observation_list import write_observations
    from dials_hybrid.refine.figures import check_free
    from dials_hybrid.result import cif_blocks

    output = params.output
    failures: list[OSError] = []

    def save(what: str, filename: str | None, write: Callable[[str], None], exists: bool = True) -> None:
        """What cannot be written must not take the rest with it."""
        if filename and exists:
            logger.info(f"Saving {what} to {filename}")
            try:
                write(filename)
            except OSError as error:
                failures.append(error)

    def as_file(content) -> Callable[[str], None]:
        def write(filename: str) -> None:
            with atomic_write(filename) as path:
                content.as_file(str(path))

        return write

    def report(filename: str) -> None:
        from dials_hybrid.report.page import render
        from dials_hybrid.report_data import report_data

        with atomic_write(filename) as path:
            path.write_text(render(report_data(result)), encoding="utf-8")

    save("the refined structure", output.cif, lambda name: write_cif(name, cif_blocks(result)))
    save(
        "amplitudes and map coefficients",
        output.mtz,
        lambda name: write_mtz(name, result.maps, result.summary["wavelength"]),
    )
    save(
        "the observations of virtual frames",
        output.observations,
        lambda name: write_observations(name, result.observations),
        bool(result.observations),
    )
    save("refined experiments", output.experiments, as_file(result.experiments), bool(result.experiments))
    save(
        "reflections with calculated intensities",
        output.reflections,
        as_file(result.reflections),
        bool(result.reflections),
    )
    save("all figures", output.json, lambda name: write_json(name, result.summary))
    save("the report", output.html, report)
    if failures:
        raise failures[0]
    check_free(result.summary)


if __name__ == "__main__":
    run()
