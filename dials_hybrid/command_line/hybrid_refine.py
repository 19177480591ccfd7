# LIBTBX_SET_DISPATCHER_NAME dials.hybrid_refine
"""
Refine a crystal structure against electron diffraction intensities integrated by DIALS, with the
dynamical theory of diffraction: every electron is scattered many times on its way through the
crystal, and what the detector saw is calculated from that. Atoms, crystal orientation, thickness
distribution and scale are refined together by least squares.

Input are the experiments and reflections of dials.integrate (a rotation scan) and a start model as
CIF, SHELX (.ins, .res) or PDB. Output are the refined structure as CIF with standard uncertainties,
the experiments with the refined orientation, the reflections with calculated intensities, a log and
all figures as JSON.

Examples::

  dials.hybrid_refine integrated.expt integrated.refl model.cif

  dials.hybrid_refine integrated.expt integrated.refl model.res thickness.model=wedge nproc=4

  dials.hybrid_refine integrated.expt integrated.refl model.cif resume=dials.hybrid_refine.checkpoint
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import libtbx.phil

import dials.util
import dials.util.log
from dials.util.options import ArgumentParser, reflections_and_experiments_from_files
from dials.util.version import dials_version

from dials_hybrid.phil import phil_scope

logger = logging.getLogger("dials.hybrid_refine")

_STRUCTURE_ENDINGS = (".cif", ".ins", ".res", ".pdb")
_INPUT_ENDINGS = (*_STRUCTURE_ENDINGS, ".expt", ".refl", ".json", ".pickle", ".phil")


@dials.util.show_mail_handle_errors()
def run(args: list[str] | None = None, phil: libtbx.phil.scope = phil_scope) -> None:
    """The command. Ends the program with status 1 and one sentence when it cannot do its work."""
    usage = "dials.hybrid_refine [options] integrated.expt integrated.refl model.cif"
    parser = ArgumentParser(
        usage=usage,
        phil=phil,
        read_experiments=True,
        read_reflections=True,
        check_format=False,
        epilog=__doc__,
    )
    args = sys.argv[1:] if args is None else args
    _check_files(args)
    params, options, unhandled = parser.parse_args(args=args, show_diff_phil=False, return_unhandled=True)
    structures = [name for name in unhandled if name.lower().endswith(_STRUCTURE_ENDINGS)]
    strange = [name for name in unhandled if name not in structures]
    if strange:
        sys.exit(
            f"dials.hybrid_refine does not understand {' '.join(strange)}: neither a parameter "
            "(see dials.hybrid_refine -c -e2) nor an input file"
        )
    if not (params.input.experiments and params.input.reflections and structures):
        parser.print_help()
        missing = [
            what
            for what, given in (
                ("experiments (.expt)", params.input.experiments),
                ("reflections (.refl)", params.input.reflections),
                ("structure (.cif, .ins, .res, .pdb)", structures),
            )
            if not given
        ]
        sys.exit(f"dials.hybrid_refine needs {' and '.join(missing)}" if args else 0)
    if len(structures) > 1:
        sys.exit(f"dials.hybrid_refine takes one structure, not {' and '.join(structures)}")
    _refine(parser, params, options, structures[0])


def _check_files(args: list[str]) -> None:
    """Stop if an argument that can only be an input file does not exist."""
    for name in args:
        if "=" not in name and name.lower().endswith(_INPUT_ENDINGS) and not Path(name).exists():
            sys.exit(f"dials.hybrid_refine cannot find the file {name}")


def _refine(parser, params, options, structure_file: str) -> None:
    dials.util.log.config(verbosity=options.verbose, logfile=params.output.log)
    logger.info(dials_version())
    diff_phil = parser.diff_phil.as_str()
    if diff_phil:
        logger.info("The following parameters have been modified:\n")
        logger.info(diff_phil)

    # Here, not at the top: help and parameter listings need no torch.
    from dials_hybrid.algorithm import run_hybrid_refine
    from dials_hybrid.io.structure import read_structure

    reflections, experiments = reflections_and_experiments_from_files(
        params.input.reflections, params.input.experiments
    )
    try:
        structure = read_structure(structure_file)
        result = run_hybrid_refine(experiments, reflections, structure, params)
        _save(result, params)
    except (ValueError, OSError) as error:
        logger.debug("", exc_info=True)
        sys.exit(f"dials.hybrid_refine: {error}")
    except KeyboardInterrupt:
        hint = params.output.checkpoint
        sys.exit(f"Interrupted; continue with resume={hint}" if hint else "Interrupted")


def _save(result, params) -> None:
    from dials_hybrid.io.atomic import atomic_write
    from dials_hybrid.io.checkpoint import write_json
    from dials_hybrid.io.cif import write_cif
    from dials_hybrid.result import cif_block

    output = params.output
    logger.info(f"Saving the refined structure to {output.cif}")
    write_cif(output.cif, {"hybrid_refined": cif_block(result)})
    logger.info(f"Saving refined experiments to {output.experiments}")
    with atomic_write(output.experiments) as path:
        result.experiments.as_file(str(path))
    logger.info(f"Saving reflections with calculated intensities to {output.reflections}")
    with atomic_write(output.reflections) as path:
        result.reflections.as_file(str(path))
    logger.info(f"Saving all figures to {output.json}")
    write_json(output.json, result.summary)


if __name__ == "__main__":
    run()
