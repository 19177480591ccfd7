"""What is fuzzed: for each kind of file some sound ones, ways to spoil them, and a command that reads them.

The commands are the programs themselves, from their arguments to the point where a refinement would begin.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from fuzz import mutations
from pets_files import PetsFile
from problems import small_problem
from simulated_experiments import experiments, quartz_structure

from cctbx.array_family import flex

import dials.util.log

from dials_hybrid import running
from dials_hybrid.command_line import hybrid_refine
from dials_hybrid.io.prediction import blank, predicted, with_intensities
from dials_hybrid.io.structure import read_model
from dials_hybrid.machine import versions
from dials_hybrid.problem import write_problem, write_result
from dials_hybrid.refine import __main__ as refine
from dials_hybrid.refine.figures import figures, thickness_result
from dials_hybrid.refine.finished import Finished
from dials_hybrid.refine.protocol import Protocol
from dials_hybrid.refine.state import State


@dataclass(frozen=True)
class Target:
    """A kind of file."""

    name: str
    filename: str  # under which the command finds the spoilt file
    seeds: tuple[bytes, ...]  # sound files
    mutate: mutations.Mutation
    command: Callable[[], None]  # run in a folder with the spoilt file and those that it needs

    def n_cuts(self) -> int:
        return sum(len(mutations.cut_lengths(len(seed))) for seed in self.seeds)

    def case(self, number: int) -> bytes:
        """The spoilt file of this number: first the sound ones cut off at all places, then any."""
        for seed in self.seeds:
            cuts = mutations.cut_lengths(len(seed))
            if number < len(cuts):
                return seed[: cuts[number]]
            number -= len(cuts)
        rng = Random(f"{self.name} {number}")
        return self.mutate(rng, rng.choice(self.seeds))


QUARTZ_CIF = """data_quartz
_symmetry_space_group_name_H-M 'P 32 2 1'
_cell_length_a 4.913
_cell_length_b 4.913
_cell_length_c 5.405
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-y, x-y, z+2/3'
'-x+y, -x, z+1/3'
'y, x, -z'
'x-y, -y, -z+1/3'
'-x, -x+y, -z+2/3'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
_atom_site_adp_type
_atom_site_occupancy
Si1 Si 0.4697(2) 0 0.66667 0.008 Uani 1
O1 O 0.4135 0.2669 0.78577 0.014 Uiso 1.0
loop_
_atom_site_aniso_label
_atom_site_aniso_U_11
_atom_site_aniso_U_22
_atom_site_aniso_U_33
_atom_site_aniso_U_12
_atom_site_aniso_U_13
_atom_site_aniso_U_23
Si1 0.008 0.008 0.008 0.004 0 0
"""
QUARTZ_RES = """TITL quartz
CELL 0.02508 4.913 4.913 5.405 90 90 120
ZERR 3 0.001 0.001 0.001 0 0 0
LATT -1
SYMM -Y, X-Y, 0.666667+Z
SYMM -X+Y, -X, 0.333333+Z
SYMM Y, X, -Z
SYMM X-Y, -Y, 0.333333-Z
SYMM -X, -X+Y, 0.666667-Z
SFAC SI O
UNIT 3 6
EQIV $1 -y, x-y, z+2/3
DFIX 1.61 0.01 SI1 O1
SADI 0.02 SI1 O1 SI1 O1_$1
SIMU 0.04 SI1 O1
DELU SI1 O1
RIGU SI1 O1
ISOR 0.1 O1
FVAR 1.0 0.5
SI1 1 0.4697 0.0 0.666667 10.5 0.008 0.008 =
 0.008 0.0 0.0 0.004
O1 2 0.4135 0.2669 0.78577 11.0 0.014
HKLF 4
END
"""
CHAIN_RES = """TITL CHAIN
CELL 0.0251 8.0 9.0 10.0 90 95 90
LATT 1
SYMM -X, 0.5+Y, 0.5-Z
SFAC C H O
UNIT 16 24 8
FVAR 1.0 0.6
RESI 1 ABC
C1 1 0.1 0.2 0.3 11.0 0.02
C2 1 0.25 0.25 0.3 11.0 0.02 0.02 0.02 0.0 0.001 0.0
AFIX 23
H2A 2 0.27 0.33 0.22 11.0 -1.2
H2B 2 0.28 0.31 0.38 11.0 -1.2
AFIX 0
C3 1 0.32 0.1 0.31 11.0 0.02
AFIX 137
H3A 2 0.45 0.11 0.31 11.0 -1.5
H3B 2 0.29 0.04 0.23 11.0 -1.5
H3C 2 0.29 0.04 0.40 11.0 -1.5
AFIX 0
RESI 0
PART 1 21
O1 3 0.05 0.3 0.32 21.0 0.03
PART 2 -21
O1B 3 0.02 0.1 0.35 -21.0 0.03
PART 0
AFIX 66
C11 1 0.6 0.5 0.5 11.0 0.02
C12 1 0.7 0.55 0.58 11.0 0.02
C13 1 0.8 0.45 0.6 11.0 0.02
C14 1 0.8 0.3 0.55 11.0 0.02
C15 1 0.7 0.25 0.47 11.0 0.02
C16 1 0.6 0.35 0.44 11.0 0.02
AFIX 0
EADP O1 O1B
DFIX_ABC 1.5 C1 C2 C2 C3
FLAT C11 > C16
SIMU $C
HKLF 4
END
"""
PETS_CIF = """data_model
_symmetry_space_group_name_H-M 'P 2 2 2'
_cell_length_a 5
_cell_length_b 6
_cell_length_c 7
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
Si1 Si 0 0 0 0.01
O1 O 0.5 0.5 0 0.01
"""
_COMMON = ["output.log=None", "output.problem=p", "output.checkpoint=None"]


def prepare(folder: Path) -> None:
    """Write the sound files into `folder`, and keep the programs from refining and logging."""
    os.chdir(folder)
    expt = experiments(images=30)
    table = predicted(expt, 1.0)
    f_calc = quartz_structure().structure_factors(d_min=0.9).f_calc().expand_to_p1()
    f_calc = f_calc.generate_bijvoet_mates() if f_calc.anomalous_flag() is False else f_calc
    strength = dict(zip(f_calc.indices(), flex.norm(f_calc.data()), strict=True))
    intensity = 1.0 + np.array([100.0 * strength.get(h, 0.0) for h in table["miller_index"]])
    table = with_intensities(blank(table), intensity, np.sqrt(intensity))
    table.experiment_identifiers()[0] = expt[0].identifier
    expt.as_file("good.expt")
    table.as_file("good.refl")
    Path("good.cif").write_text(QUARTZ_CIF)
    Path("good.res").write_text(QUARTZ_RES)
    Path("good.pdb").write_text(quartz_structure().as_pdb_file())
    Path("pets.cif").write_text(PETS_CIF)
    Path("good.cif_pets").write_text(PetsFile().text())
    _write_problem()
    dials.util.log.config = lambda **options: None


def _write_problem() -> None:
    """A problem, the checkpoint of its scan, and its result."""
    problem = small_problem()
    write_problem("good.problem", problem)
    kept = []
    write_json = running.write_json
    running.write_json = lambda name, content: kept.append(write_json(f"good{len(kept)}.checkpoint", content))
    try:
        outcome, _ = running.run_protocol(problem.inputs, problem.settings, checkpoint="good.checkpoint")
    finally:
        running.write_json = write_json
    summary = figures(outcome, thickness_result(outcome))
    finished = Finished.of(
        outcome,
        problem.inputs,
        settings=problem.settings,
        seconds={"total": 1.0},
        versions=versions(),
        figures=summary,
    )
    write_result("good.result", finished)


class _Begun(Exception):
    """A refinement would begin."""


def _begin(self, state: State | None = None) -> None:
    """Stands in for `Protocol.run`: the model of the state is made, nothing is calculated."""
    if state:
        dataset = self.build.dataset(state.grid[0], self.settings.mosaic_points)
        self.build.hybrid(dataset, state)
    raise _Begun


def _command(*args: str) -> Callable[[], None]:
    return lambda: hybrid_refine.run([*args, *_COMMON])


def _problem(*args: str) -> Callable[[], None]:
    def command() -> None:
        whole, Protocol.run = Protocol.run, _begin
        try:
            refine.run([*args, "nproc=1", "output.checkpoint=None"])
        except _Begun:
            pass
        finally:
            Protocol.run = whole

    return command


def _result() -> None:
    """What follows the reading of a result needs nothing from it but numbers of the right shapes."""
    from dials_hybrid.problem import read_result
    from dials_hybrid.program import one_sentence

    with one_sentence("dials.hybrid_refine", "cpu", None):
        outcome, _ = read_result("spoilt.result", small_problem().inputs)
        figures(outcome, thickness_result(outcome))


def _structure(name: str) -> Callable[[], None]:
    """Reading alone: for models that no data here belong to."""

    def command() -> None:
        from dials_hybrid.io.start_model import prepare_model
        from dials_hybrid.program import one_sentence

        with one_sentence("dials.hybrid_refine", "cpu", None):
            prepare_model(read_model(name), ions="neutral")

    return command


def targets(folder: Path, more: dict[str, list[Path]] | None = None) -> dict[str, Target]:
    """All kinds of files, by name; `prepare` has been called for `folder`.

    Args:
        more: further sound files of a kind.
    """

    def target(name: str, filename: str, seeds: list[str], mutate, command) -> Target:
        paths = [folder / seed for seed in seeds] + (more or {}).get(name, [])
        return Target(name, filename, tuple(path.read_bytes() for path in paths), mutate, command)

    either, any_bytes, text = mutations.either, mutations.any_bytes, mutations.text
    chain = Target(
        "shelx_organic", "chain.res", (CHAIN_RES.encode(),), either(text, text, text, any_bytes), None
    )
    checkpoints = sorted(path.name for path in folder.glob("good*.checkpoint"))
    tree, table, archive = mutations.json_text, mutations.reflection_table, mutations.archive
    found = [
        target(
            "experiments",
            "spoilt.expt",
            ["good.expt"],
            either(tree, tree, tree, any_bytes, text),
            _command("spoilt.expt", "good.refl", "good.cif"),
        ),
        target(
            "reflections",
            "spoilt.refl",
            ["good.refl"],
            either(table, table, table, any_bytes),
            _command("good.expt", "spoilt.refl", "good.cif"),
        ),
        target(
            "cif",
            "spoilt.cif",
            ["good.cif"],
            either(text, text, text, any_bytes),
            _command("good.expt", "good.refl", "spoilt.cif", "structure.ions=neutral"),
        ),
        target(
            "shelx",
            "spoilt.res",
            ["good.res"],
            either(text, text, text, any_bytes),
            _command("good.expt", "good.refl", "spoilt.res", "structure.ions=neutral"),
        ),
        Target(chain.name, chain.filename, chain.seeds, chain.mutate, _structure(chain.filename)),
        target(
            "pdb",
            "spoilt.pdb",
            ["good.pdb"],
            either(text, text, any_bytes),
            _command("good.expt", "good.refl", "spoilt.pdb", "structure.ions=neutral"),
        ),
        target(
            "cif_pets",
            "spoilt.cif_pets",
            ["good.cif_pets"],
            either(text, text, text, any_bytes),
            _command("spoilt.cif_pets", "pets.cif"),
        ),
        target(
            "problem",
            "spoilt.problem",
            ["good.problem"],
            either(archive, archive, archive, any_bytes),
            _problem("spoilt.problem"),
        ),
        target(
            "checkpoint",
            "spoilt.checkpoint",
            checkpoints,
            either(tree, tree, tree, any_bytes, text),
            _problem("good.problem", "resume=spoilt.checkpoint"),
        ),
        target(
            "result", "spoilt.result", ["good.result"], either(archive, archive, archive, any_bytes), _result
        ),
    ]
    return {each.name: each for each in found}
