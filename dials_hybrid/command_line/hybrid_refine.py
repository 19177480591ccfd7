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
from pathlib import Path

import libtbx.phil

import dials.util
import dials.util.log
from dials.util.options import ArgumentParser, reflections_and_experiments_from_files
from dials.util.version import dials_version
from dxtbx.model.experiment_list import ExperimentList

from dials_hybrid.phil import phil_scope
from dials_hybrid.program import check_output, is_first_rank, local_device, one_sentence

logger = logging.getLogger("dials.hybrid_refine")

_STRUCTURE_ENDINGS = (".cif", ".ins", ".res", ".pdb")
_FRAMES_ENDING = ".cif_pets"
_INPUT_ENDINGS = (*_STRUCTURE_ENDINGS, _FRAMES_ENDING, ".expt", ".refl", ".json", ".pickle", ".phil")


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
    _check_files(args)
    params, options, unhandled = _parse(parser, args)
    structures = [name for name in unhandled if name.lower().endswith(_STRUCTURE_ENDINGS)]
    frames = [name for name in unhandled if name.lower().endswith(_FRAMES_ENDING)]
    strange = [name for name in unhandled if name not in structures and name not in frames]
    if strange:
        _refuse(strange)
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
        sys.exit(f"dials.hybrid_refine needs {' and '.join(missing)}" if args else 0)
    if len(structures) > 1:
        sys.exit(f"dials.hybrid_refine takes one structure, not {' and '.join(structures)}")
    _check_outputs(params.output)
    params.device = local_device(params.device)
    with one_sentence("dials.hybrid_refine", params.device, params.output.checkpoint):
        _refine(parser, params, options, structures[0], frames)


def _check_files(args: list[str]) -> None:
    """Stop if an argument that can only be an input file does not exist."""
    for name in args:
        if "=" not in name and name.lower().endswith(_INPUT_ENDINGS) and not Path(name).exists():
            sys.exit(f"dials.hybrid_refine cannot find the file {name}")


def _parse(parser: ArgumentParser, args: list[str]):
    try:
        return parser.parse_args(args=args, show_diff_phil=False, return_unhandled=True)
    except Exception as error:
        guilty = [arg for arg in args if not _parses(parser, arg)]
        reason = " ".join(str(error).split())
        if guilty and guilty[0].startswith("input.") and Path(guilty[0].partition("=")[2]).exists():
            reason = f"this is not such a file ({reason})"
        sys.exit(": ".join(["dials.hybrid_refine", *guilty[:1], reason]))


def _parses(parser: ArgumentParser, arg: str) -> bool:
    try:
        parser.parse_args(args=[arg], show_diff_phil=False, return_unhandled=True)
    except Exception:
        return False
    return True


def _refuse(strange: list[str]) -> None:
    """Stop because of arguments that are neither parameters nor input that can be read."""
    for name in strange:
        if name.lower().endswith((".expt", ".json")) and Path(name).is_file():
            try:
                ExperimentList.from_file(name, check_format=False)
            except Exception as error:
                sys.exit(f"dials.hybrid_refine cannot read experiments from {name}: {error}")
        elif name.lower().endswith((".refl", ".pickle")) and Path(name).is_file():
            sys.exit(f"dials.hybrid_refine cannot read reflections from {name}")
    sys.exit(
        f"dials.hybrid_refine does not understand {' '.join(strange)}: neither a parameter "
        "(see dials.hybrid_refine -c -e2) nor an input file"
    )


def _check_outputs(output: libtbx.phil.scope_extract) -> None:
    """Stop before the work if its result cannot be written."""
    for definition in phil_scope.get("output").all_definitions():
        filename = getattr(output, definition.object.name)
        if filename:
            check_output("dials.hybrid_refine", definition.path, filename)


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
