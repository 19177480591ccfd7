"""What the programs do with their arguments alike: parse them, and refuse in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import libtbx.phil

from dials.util.options import ArgumentParser

from dials_hybrid.io.dials_files import checked_readers, read_experiments, read_table
from dials_hybrid.presets import PRESETS
from dials_hybrid.program import check_output

STRUCTURE_ENDINGS = (".cif", ".ins", ".res", ".pdb")
FRAMES_ENDING = ".cif_pets"
_INPUT_ENDINGS = (*STRUCTURE_ENDINGS, FRAMES_ENDING, ".expt", ".refl", ".json", ".pickle", ".phil")


def parse_arguments(program: str, parser: ArgumentParser, args: list[str], *, others: tuple[str, ...] = ()):
    """Parameters, options, names of structure files and of files with one of the endings `others`.

    Ends the program where the arguments make no sense.
    """
    _check_files(program, args)
    try:
        with checked_readers():
            params, options, unhandled = parser.parse_args(
                args=args, show_diff_phil=False, return_unhandled=True
            )
            preset = PRESETS.get(getattr(params, "preset", "none"))
            if preset:  # first, so that all that was asked for overrides it
                params, options, unhandled = parser.parse_args(
                    args=[*preset, *args], show_diff_phil=False, return_unhandled=True
                )
    except Exception as error:
        guilty = [arg for arg in args if not _parses(parser, arg)]
        reason = " ".join(str(error).split())
        if guilty and guilty[0].startswith("input.") and Path(guilty[0].partition("=")[2]).exists():
            reason = f"this is not such a file ({reason})"
        sys.exit(": ".join([program, *guilty[:1], reason]))
    structures = [name for name in unhandled if name.lower().endswith(STRUCTURE_ENDINGS)]
    named = [name for name in unhandled if name.lower().endswith(others)] if others else []
    strange = [name for name in unhandled if name not in structures and name not in named]
    if strange:
        _refuse(program, strange, parser.phil)
    if len(structures) > 1:
        sys.exit(f"{program} takes one structure, not {' and '.join(structures)}")
    return params, options, structures, named


def changed_parameters(parser: ArgumentParser) -> str:
    """The parameters that differ from their defaults; the parser reads the input files once more for this."""
    with checked_readers():
        return parser.diff_phil.as_str()


def check_outputs(program: str, scope: libtbx.phil.scope, output: libtbx.phil.scope_extract) -> None:
    """Stop before the work if a result of scope `output` cannot be written."""
    taken: dict[Path, str] = {}
    for definition in scope.get("output").all_definitions():
        filename = getattr(output, definition.object.name)
        if not filename:
            continue
        check_output(program, definition.path, filename)
        path = Path(filename).resolve()
        if path in taken and not path.is_char_device():
            sys.exit(f"{program} cannot write both {taken[path]} and {definition.path} to {filename}")
        taken[path] = definition.path


def _check_files(program: str, args: list[str]) -> None:
    """Stop if an argument that can only be an input file does not exist."""
    for name in args:
        if "=" not in name and name.lower().endswith(_INPUT_ENDINGS) and not Path(name).exists():
            sys.exit(f"{program} cannot find the file {name}")


def _parses(parser: ArgumentParser, arg: str) -> bool:
    try:
        with checked_readers():
            parser.parse_args(args=[arg], show_diff_phil=False, return_unhandled=True)
    except Exception:
        return False
    return True


def _refuse(program: str, strange: list[str], scope: libtbx.phil.scope) -> None:
    """Stop because of arguments that are neither parameters nor input that can be read."""
    readers = {(".expt", ".json"): read_experiments, (".refl", ".pickle"): read_table}
    for name in strange:
        for endings, read in readers.items():
            if name.lower().endswith(endings) and Path(name).is_file():
                try:
                    read(name)
                except ValueError as error:
                    sys.exit(f"{program}: {error}")
    paths = [definition.path for definition in scope.all_definitions()]
    for name, equals, _ in (arg.partition("=") for arg in strange):
        meant = [path for path in paths if f".{path}".endswith(f".{name}")]
        if equals and len(meant) > 1:
            sys.exit(f"{program} does not understand {name}=: it may be {' or '.join(meant)}")
    if "=" in strange:
        sys.exit(f"{program} does not understand {' '.join(strange)}: leave out the spaces around =")
    sys.exit(
        f"{program} does not understand {' '.join(strange)}: neither a parameter "
        f"(see {program} -c -e2) nor an input file"
    )
