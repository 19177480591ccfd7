"""Does a refinement find the crystal that a simulation was made of?

    python benchmarks/recovery.py FOLDER_WITH_QUARTZ_DIALS [--quick] [--json FILE]

Two crystals, quartz and the organic one of organic_P21.cif, in the geometry of the quartz scan; three
distributions of thickness; starts with every atom moved by the same distance in a random direction (the
directions that its symmetry allows) and all U reset. Hydrogen atoms stay where they are. Counts are those of
the quartz data, to 0.6 A (quartz) and 0.8 A (the organic crystal). The refinement has its default settings,
but for structure.hydrogens=fixed; the beams: more for quartz, since those of the default are worse than the
noise of these counts, and fewer for the organic crystal, to save time, which is simulated with beams to |g| =
1.6 1/A; and the free set of quartz, of which the default would be 12 unique reflections. The other hand is
not refined. Quartz that is 0.3 A off is refined first with the default beams and to 0.8 A, which takes
minutes, and then from there as the others (a single run with more beams had not ended after 25 minutes);
not where the first run says poor_start.

rmsd          of the other atoms to the truth, an origin that is free taken out [A]; fixed hydrogens hold it
|e|/s.u.      mean over all refined coordinates
mean, spread  of p(t): largest relative error over the scan, but for its outer twentieths
R1_free/truth R1_free over that of the truth against the same reflections
hints         what the program tells the user to worry about

The second table has R1_free of all thickness models that were compared, and behind it how far each is behind
the best in cross-validated log-likelihood. The last one sums up the seeds: how many found the truth (an rmsd
within 0.005 A for quartz, 0.01 A for the organic crystal), and of these the largest rmsd and errors of mean
and spread, the mean |e|/s.u., the sums of R1_obs and R1_free over those of the truth, and how many chose the
network.
--quick does one case: quartz, a wedge, one seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from dials.array_family import flex
from dxtbx.model import Crystal
from dxtbx.model.experiment_list import ExperimentList

import dials_hybrid.phil
import dials_hybrid.phil_simulate
from dials_hybrid.algorithm import HybridRefinement
from dials_hybrid.io.structure import read_structure
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.specimen import StatedThickness
from dials_hybrid.result import Result
from dials_hybrid.synthesis import Synthesis

HERE = Path(__file__).resolve().parent
CRYSTALS = ("quartz", "organic")
THICKNESS = {
    "flat": {"model": "flat", "mean": 600.0},
    "normal": {"model": "normal", "mean": 430.0, "width": 450.0},
    "wedge": {"model": "wedge", "mean": 500.0, "change": "linear", "amplitude": 0.2},
}
DISTANCES = (0.1, 0.2, 0.3)
U_START = {"quartz": 0.01, "organic": 0.02}  # [A^2]
D_MIN = {"quartz": 0.6, "organic": 0.8}  # [A]
BEAMS = {
    "quartz": {"g_max": 2.2, "sg_max": 0.015, "weak_sg_max": 0.08},
    "organic": {"g_max": 1.5},
}  # of the refinement [1/A]
POOR = {"quartz": 0.3}  # moved so far [A], atoms are refined first with the default beams, to FIRST_D_MIN
FIRST_D_MIN = 0.8  # [A]
FREE_FRACTION = {"quartz": 0.15, "organic": 0.05}
G_MAX_SIMULATED = 1.6  # of the organic crystal [1/A]
COUNTS = {"mean": 3270.0, "background": 1000.0}  # of the quartz data
LIMIT = {"quartz": 0.005, "organic": 0.01}  # of the rmsd [A]
HEADER = (
    f"{'crystal':8s}{'truth':8s}{'moved':>6s}{'seed':>5s}{'rmsd':>8s}{'|e|/s.u.':>9s}{'mean %':>8s}"
    f"{'spread %':>9s}{'R1_free':>9s}{'/truth':>7s}{'R1_obs':>8s}  {'model':8s}{'s':>5s}  hints"
)


@dataclass(frozen=True)
class Case:
    crystal: str
    thickness: str
    distance: float
    seed: int


def geometry(folder: Path, crystal: str):
    """Structure, experiments and (for quartz) the measured reflections of a simulation."""
    experiments = ExperimentList.from_file(str(folder / "integrated.expt"), check_format=False)
    if crystal == "quartz":
        table = flex.reflection_table.from_file(str(folder / "integrated.refl"))
        return read_structure(folder / "quartz_P3221.cif"), experiments, table
    structure = read_structure(HERE / "organic_P21.cif")
    cell = structure.unit_cell()
    axes = Rotation.from_rotvec([0.4, -0.7, 0.5]).as_matrix() @ np.reshape(
        cell.orthogonalization_matrix(), (3, 3)
    )
    experiments[0].crystal = Crystal(*map(tuple, axes.T), space_group=structure.space_group())
    return structure, experiments, None


def synthesis(folder: Path, crystal: str, thickness: str, args) -> Synthesis:
    structure, experiments, table = geometry(folder, crystal)
    params = dials_hybrid.phil_simulate.phil_scope.extract()
    for name, value in THICKNESS[thickness].items():
        setattr(params.thickness, name, value)
    for name, value in COUNTS.items():
        setattr(params.counts, name, value)
    params.misorientation.constant, params.misorientation.smooth = 0.02, 0.01
    params.d_min = D_MIN[crystal]
    params.numerics.check = False
    if crystal == "organic":
        params.numerics.g_max = G_MAX_SIMULATED
    params.nproc = args.nproc
    return Synthesis(experiments, structure, params, table)


def displaced(structure, distance: float, u: float, seed: int):
    """Every atom but hydrogen moved by `distance` [A], as far as its symmetry allows, with U_iso = u."""
    generator = np.random.default_rng([seed, 7])
    moved = structure.deep_copy_scatterers()
    cell, table = moved.unit_cell(), moved.site_symmetry_table()
    for index, scatterer in enumerate(moved.scatterers()):
        if scatterer.scattering_type == "H":
            continue
        operation = np.reshape(table.get(index).special_op().r().as_double(), (3, 3))
        length = 0.0
        while length < 0.3:  # of a unit vector: nearly nothing is left of some on a special position
            direction = generator.normal(size=3)
            direction = operation @ cell.fractionalize(tuple(direction / np.linalg.norm(direction)))
            length = np.linalg.norm(cell.orthogonalize(tuple(direction)))
        scatterer.site = tuple(np.array(scatterer.site) + distance / length * direction)
        scatterer.flags.set_use_u_aniso(False)
        scatterer.flags.set_use_u_iso(True)
        scatterer.u_iso = u
        scatterer.u_star = (-1.0,) * 6
    return moved


def coordinate_errors(result, truth) -> tuple[float, float]:
    """RMSD [A] of the atoms other than hydrogen, and mean |error| / s.u. of the refined coordinates."""
    refined, cell = result.xray_structure, truth.unit_cell()
    heavy = (~refined.element_selection("H")).as_numpy_array()
    shift = np.array(refined.sites_frac()) - np.array(truth.sites_frac())
    shift -= np.round(shift)
    for direction in _free_directions(truth) if len(result.constraints.origin_shifts) else ():
        shift -= direction * (shift[heavy] @ direction).mean() / (direction @ direction)
    squares = [cell.length(tuple(row)) ** 2 for row in shift[heavy]]
    names, labels = list(result.constraints.names), list(refined.scatterers().extract_labels())
    ratios = []
    for name, variance in zip(names, np.diag(result.covariance), strict=True):
        label, _, axis = name.rpartition(".")
        if axis in "xyz" and variance > 0.0:
            ratios.append(abs(shift[labels.index(label), "xyz".index(axis)]) / variance**0.5)
    return float(np.mean(squares) ** 0.5), float(np.mean(ratios))


def _free_directions(structure) -> list[np.ndarray]:
    seminvariants = structure.space_group_info().structure_seminvariants()
    free = seminvariants.select(discrete=False).vectors_and_moduli()
    return [np.array(item.v, dtype=float) for item in free]


def thickness_errors(curve: list[dict], law: StatedThickness, limits) -> tuple[float, float | None]:
    """Largest relative error of mean and spread over the inner nine tenths of the scan."""
    angle, mean, spread = (np.array([point[name] for point in curve]) for name in ("angle", "mean", "spread"))
    x = (2.0 * angle - sum(limits)) / (limits[1] - limits[0])
    inner = np.abs(x) < 0.9
    true_mean, true_spread = law.moments(x[inner])
    worst = float(np.abs(mean[inner] / true_mean - 1.0).max())
    if not true_spread.all():
        return worst, None
    return worst, float(np.abs(spread[inner] / true_spread - 1.0).max())


def settings(case: Case, args, beams: dict):
    params = dials_hybrid.phil.phil_scope.extract()
    params.nproc = args.nproc
    params.output.checkpoint = None
    params.absolute_structure = "ignore"
    params.structure.hydrogens = "fixed"
    for name, value in beams.items():
        setattr(params.beams, name, value)
    params.data.free_fraction = FREE_FRACTION[case.crystal]
    params.seed = case.seed
    return params


def refine(case: Case, experiments, table, start, args) -> Result:
    """Far from the truth in two runs, unless the first says that it did not get there."""
    if case.distance >= POOR.get(case.crystal, math.inf):
        params = settings(case, args, {})
        params.data.d_min = FIRST_D_MIN
        first = HybridRefinement(experiments, table, start, params).run()
        if any(hint["code"] == "poor_start" for hint in first.summary["hints"]):
            return first
        start = first.xray_structure
    return HybridRefinement(experiments, table, start, settings(case, args, BEAMS[case.crystal])).run()


def recover(case: Case, made: Synthesis, args) -> dict:
    made.params.seed = case.seed
    experiments, table, truth = made.run()
    start = displaced(made.structure, case.distance, U_START[case.crystal], case.seed)
    started = time.time()
    result = refine(case, experiments, table, start, args)
    observations = result.outcome.hybrid.dataset.to("cpu").observations
    true = torch.as_tensor(table["intensity.true.value"].as_numpy_array())[observations.row]
    free = observations.free
    of_truth = r_values(observations.intensity[free], observations.sigma[free], true[free]).r1_obs
    rmsd, ratio = coordinate_errors(result, made.structure)
    sweep = made.measurement.runs[0]
    limits = float(sweep.angle(sweep.z[0])), float(sweep.angle(sweep.z[-1]))
    mean, spread = thickness_errors(result.summary["thickness"]["curve"], made.specimen.thickness, limits)
    return {
        **vars(case),
        "rmsd": rmsd,
        "error_over_su": ratio,
        "thickness_mean_error": mean,
        "thickness_spread_error": spread,
        "r1_obs": result.summary["r1_obs"],
        "r1_free": result.summary["r1_free"],
        "r1_free_of_truth": of_truth,
        "r1_obs_of_truth": truth["r_of_truth"]["r1_obs"],
        "goodness_of_fit": result.summary["goodness_of_fit"],
        "thickness_model": result.summary["thickness_model"],
        "thickness_comparison": result.summary["thickness_comparison"],
        "mosaic_spread": result.summary["mosaic_spread"],
        "tilts": result.summary["tilts"],
        "converged": result.summary["converged"],
        "recovered": rmsd <= LIMIT[case.crystal],
        "hints": [hint["code"] for hint in result.summary["hints"]],
        "error_model": result.summary["error_model"],
        "seconds": time.time() - started,
        "thickness_curve": result.summary["thickness"]["curve"],
        "coordinates": [list(site) for site in result.xray_structure.sites_frac()],
    }


def line(row: dict) -> str:
    start = f"{row['crystal']:8s}{row['thickness']:8s}{row['distance']:6.1f}{row['seed']:5d}"
    if "error" in row:
        return f"{start}  failed: {row['error']}"
    spread = row["thickness_spread_error"]
    return (
        f"{start}{row['rmsd']:8.4f}{row['error_over_su']:9.2f}{100 * row['thickness_mean_error']:8.1f}"
        f"{'-' if spread is None else f'{100 * spread:.1f}':>9s}{row['r1_free']:9.4f}"
        f"{row['r1_free'] / row['r1_free_of_truth']:7.2f}{row['r1_obs']:8.4f}  {row['thickness_model']:8s}"
        f"{row['seconds']:5.0f}  {', '.join(row['hints']) or '-'}"
    )


def comparison(row: dict) -> str:
    """The thickness models of one refinement, and the truth against the same reflections [%]."""
    models = "".join(
        f"  {c['model']} {100 * c['r1_free']:.2f} ({c['behind']:.1f} +- {c['standard_error']:.1f})"
        for c in row.get("thickness_comparison", ())
    )
    start = f"{row['crystal']:8s}{row['thickness']:8s}{row['distance']:6.1f}{row['seed']:5d}"
    return f"{start}  {row.get('thickness_model', 'failed'):8s}{models}" + (
        f"  truth {100 * row['r1_free_of_truth']:.2f}" if models else ""
    )


def summary(rows: list[dict]) -> list[str]:
    """A line for each crystal, truth and distance, over the seeds."""
    lines = [
        f"{'crystal':8s}{'truth':8s}{'moved':>6s}{'found':>9s}{'rmsd':>8s}{'|e|/s.u.':>9s}{'mean %':>8s}"
        f"{'spread %':>9s}{'R1_obs':>8s}{'R1_free':>8s}{'network':>8s}"
    ]
    keys = [(row["crystal"], row["thickness"], row["distance"]) for row in rows]
    for key in dict.fromkeys(keys):
        group = [row for row, of in zip(rows, keys, strict=True) if of == key]
        found = [row for row in group if row.get("recovered")]
        start = f"{key[0]:8s}{key[1]:8s}{key[2]:6.1f}{f'{len(found)} of {len(group)}':>9s}"
        lines.append(start + (_of_found(found) if found else ""))
    return lines


def _of_found(rows: list[dict]) -> str:
    def total(name: str) -> float:
        return sum(row[name] for row in rows)

    mean, spread = (
        [100 * row[f"thickness_{name}_error"] for row in rows if row[f"thickness_{name}_error"] is not None]
        for name in ("mean", "spread")
    )
    return (
        f"{max(row['rmsd'] for row in rows):8.4f}{total('error_over_su') / len(rows):9.2f}{max(mean):8.1f}"
        f"{f'{max(spread):.1f}' if spread else '-':>9s}{total('r1_obs') / total('r1_obs_of_truth'):8.2f}"
        f"{total('r1_free') / total('r1_free_of_truth'):8.2f}"
        f"{sum(row['thickness_model'] == 'neural' for row in rows):8d}"
    )


def cases(args) -> list[Case]:
    if args.quick:
        return [Case("quartz", "wedge", 0.1, 0)]
    return [
        Case(crystal, thickness, distance, seed)
        for crystal in args.crystal
        for thickness in args.thickness
        for distance in args.distance
        for seed in range(args.seeds)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--crystal", nargs="+", choices=CRYSTALS, default=CRYSTALS)
    parser.add_argument("--thickness", nargs="+", choices=THICKNESS, default=list(THICKNESS))
    parser.add_argument("--distance", nargs="+", type=float, default=DISTANCES, help="[A]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="the refinements' own log")
    args = parser.parse_args()
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(HEADER, flush=True)
    rows, made = [], {}
    for case in cases(args):
        key = case.crystal, case.thickness
        if key not in made:
            made = {key: synthesis(args.folder, *key, args)}
        try:
            rows.append(recover(case, made[key], args))
        except Exception as error:  # one failure must not end a study of hours
            traceback.print_exc(file=sys.stderr)
            rows.append({**vars(case), "error": " ".join(str(error).split())})
        print(line(rows[-1]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print("\nR1_free of the thickness models compared")
    print("\n".join(map(comparison, rows)))
    print("\nOver the seeds")
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
