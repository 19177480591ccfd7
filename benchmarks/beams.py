"""Which beams to take: the error of calculated amplitudes and the time of each choice.

    python benchmarks/beams.py FOLDER_OF_DATA_SETS [--sets quartz_dials,cspbbr3_pets] [--json FILE]

FOLDER_OF_DATA_SETS holds quartz_dials, quartz_pets and cspbbr3_pets. Their start models and a truncated
normal distribution of thickness give intensities of the measured reflections of a few short arcs or frames,
with mosaicity and rocking steps as in a refinement, single precision. The reference has all beams with
|S_g| < 0.04 1/A and, by perturbation, those up to 0.2 1/A, with |g| up to 0.8 1/A more than the data; that
of CsPbBr3, of which there is one table only, 0.02, 0.1 and 0.6 1/A.

union   beams with |S_g| < sg_max at any step of a segment: what the program does
clamp   the same, with |S_g| cut off at twice sg_max in the steps where a beam is far
steps   each step has beams of its own: segments of one step
bethe   union, and beams up to weak_sg_max by perturbation

g       how much farther the beams go than the data [1/A]
N, W    beams and weak beams of a segment, on average
all     sum |F - F_ref| / sum F_ref after one scale [%]
obs     the same of reflections measured with I > 3 sigma
I, J    CPU time of intensities and of all derivatives, over that of "union 0.01" with the least g of the
        table; medians, policies take turns in one process
jump    of intensities after a tilt by 0.01 degree, with beams chosen anew and with those chosen before:
        sum |F - F'| / sum F [%]
slope   rms of the finite difference over +-0.01 degree, beams chosen anew at either end, less the
        derivative, over the rms of the derivative [%]; the same with beams kept: "kept"
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_hybrid.bloch import propagate
from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.pets import read_pets
from dials_hybrid.io.structure import prepare_structure, read_structure
from dials_hybrid.io.tensors import atomic_model
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.simulation import BeamPolicy, silent
from dials_hybrid.phil import phil_scope
from dials_hybrid.prepare import measured, measured_frames, resolve_settings
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.state import Inputs, State

MEAN, WIDTH, MAXIMUM = 400.0, 300.0, 1200.0  # of thickness [A]
ARCS = {"quartz_dials": [(22, 28), (72, 78)]}  # images
FRAMES = {"quartz_pets": "25,75", "cspbbr3_pets": "30"}
FILES = {
    "quartz_pets": ("quartz.cif_pets", "../quartz_dials/quartz_P3221.cif"),
    "cspbbr3_pets": ("cspbbr3_dyn.cif_pets", "cspbbr3.cif"),
}
TILT = 0.01  # [degree]


@dataclass(frozen=True)
class Policy:
    kind: str
    beyond: float  # g_max - largest |g| of the data [1/A]
    sg_max: float
    weak_sg_max: float = 0.0

    def beams(self, largest: float) -> BeamPolicy:
        length = 1 if self.kind == "steps" else 8
        return BeamPolicy(largest + self.beyond, self.sg_max, length, self.weak_sg_max)


REFERENCE = Policy("bethe", 0.8, 0.04, 0.2)
HEAVY_REFERENCE = Policy("bethe", 0.6, 0.02, 0.1)
# How well the reference stands against wider limits, and against beams without perturbation
CHECKS = [
    Policy("bethe", 0.8, 0.03, 0.3),
    Policy("bethe", 1.1, 0.03, 0.2),
    Policy("union", 0.8, 0.02),
    Policy("union", 0.8, 0.04),
    Policy("union", 0.8, 0.08),
]
SG_MAX = (0.005, 0.0075, 0.01, 0.015, 0.02)
KINDS = ("union", "clamp", "steps")
POLICIES = [Policy(kind, 0.8, sg_max) for kind in KINDS for sg_max in SG_MAX]
POLICIES += [Policy("bethe", 0.8, sg_max, factor * sg_max) for factor in (2, 4, 8) for sg_max in SG_MAX[:3]]
# What to take: the limits of |g|, and of |S_g|
DEFAULT = Policy("union", 0.2, 0.01)
CHOICES = [DEFAULT, *(Policy("union", 0.2, sg_max) for sg_max in (0.015, 0.02)), Policy("union", 0.4, 0.01)]
CHOICES += [
    Policy("bethe", beyond, *limits)
    for beyond in (0.2, 0.3, 0.4)
    for limits in ((0.005, 0.02), (0.005, 0.04), (0.0075, 0.03), (0.0075, 0.06), (0.01, 0.04))
]
HEAVY_CHOICES = [policy for policy in CHOICES if policy.weak_sg_max <= 4.0 * policy.sg_max <= 0.06]
SMOOTH = [Policy(kind, 0.2, 0.01) for kind in KINDS] + [Policy("bethe", 0.2, 0.01, 0.04)]


class Sample:
    """Part of a data set, and models of it that differ in their beams only."""

    def __init__(self, folder: Path, name: str, arc: tuple[int, int] | None = None):
        params = phil_scope.extract()
        params.nproc = 1
        model = folder / name / (FILES[name][1] if name in FILES else "quartz_P3221.cif")
        structure = prepare_structure(read_structure(model))
        if name in FILES:
            params.data.frames = [FRAMES[name]]
            measurement = measured_frames(read_pets(folder / name / FILES[name][0]), params)
        else:
            experiments = ExperimentList.from_file(str(folder / name / "integrated.expt"), check_format=False)
            table = flex.reflection_table.from_file(str(folder / name / "integrated.refl"))
            measurement = measured(experiments, table, params)
        sample = measurement.dataset(1.0, 1)
        observations = sample.observations
        middle = (observations.first + observations.last) // 2
        g = torch.einsum("mij,mj->mi", sample.steps.basis[middle], observations.hkl.double()).norm(dim=-1)
        self.largest = float(g.max())
        settings = resolve_settings(params, sample)
        if arc:
            measurement = _part(measurement, *arc)
        free = constraints(structure)
        inputs = Inputs(
            measurement, atomic_model(structure), free.jacobian, free.names, free.origin_shifts, None
        )
        self.builder = Builder(inputs, settings, silent)
        self.dataset = self.builder.dataset(MAXIMUM, settings.mosaic_points)
        self.state = State(
            stage="scan",
            scan=None,
            grid=(MAXIMUM, self.builder.n_nodes(self.dataset, MAXIMUM)),
            thickness_model="normal",
            thickness_start=[[MEAN, WIDTH]],
        )

    def hybrid(self, policy: Policy) -> Hybrid:
        hybrid = self.builder.hybrid(self.dataset, self.state)
        hybrid.policy = policy.beams(self.largest)
        return hybrid

    @property
    def observed(self) -> torch.Tensor:
        observations = self.dataset.observations
        return observations.intensity > 3.0 * observations.sigma


def _part(measurement, first: int, last: int):
    """The images between two scan points, and what was integrated from these alone."""
    (sweep,), reflections = measurement.runs, measurement.reflections
    points = slice(first, last + 1)
    sweep = replace(sweep, rotations=sweep.rotations[points], b=sweep.b[points], z=sweep.z[points])
    low, high = sorted(sweep.angle(sweep.z[[0, -1]]))
    inside = (reflections.angle - reflections.half_width > low) & (
        reflections.angle + reflections.half_width < high
    )
    return replace(measurement, runs=(sweep,), reflections=reflections.select(np.flatnonzero(inside)))


@contextmanager
def clamped(policy: Policy):
    """|S_g| cut off in the structure matrix, where the policy asks for it."""

    def cut(r, beam, wave_number):
        limit = 2.0 * policy.sg_max
        return excitation_errors(r, beam, wave_number).clamp(-limit, limit)

    propagate.excitation_errors = cut if policy.kind == "clamp" else excitation_errors
    try:
        yield
    finally:
        propagate.excitation_errors = excitation_errors


def intensity(hybrid: Hybrid, policy: Policy, derivatives: bool = False):
    with clamped(policy):
        return hybrid.evaluate(derivatives=derivatives)


def tilted(hybrid: Hybrid, policy: Policy, tilt: float, anew: bool) -> torch.Tensor:
    """Intensities after a tilt across the rotation axis [degree], with beams chosen for it or for none."""
    hybrid.update_beams()
    choose_beams(hybrid)
    hybrid.orientation.tilt.data.fill_(tilt)
    if anew:
        hybrid.update_beams()
    found = intensity(hybrid, policy).intensity
    hybrid.orientation.tilt.data.zero_()
    hybrid.update_beams()
    return found


def continuity(sample: Sample, policy: Policy) -> dict:
    hybrid = sample.hybrid(policy)
    hybrid.dtype = torch.float64
    up, down, kept_up, kept_down = (
        tilted(hybrid, policy, tilt, anew) for anew in (True, False) for tilt in (TILT, -TILT)
    )
    jacobian = intensity(hybrid, policy, derivatives=True).jacobian
    start = hybrid.slices()["orientation"].start
    derivative = jacobian[:, start : start + hybrid.orientation.tilt.numel()].sum(1)
    anew, kept = ((a - b) / (2.0 * TILT) - derivative for a, b in ((up, down), (kept_up, kept_down)))
    f, f_kept = (x.clamp(min=0.0).sqrt() for x in (up, kept_up))
    return {
        **asdict(policy),
        "jump": 100.0 * float((f - f_kept).abs().sum() / f.sum()),
        "slope": 100.0 * float(anew.norm() / derivative.norm()),
        "kept": 100.0 * float(kept.norm() / derivative.norm()),
    }


def amplitudes(samples: list[Sample], policy: Policy) -> torch.Tensor:
    parts = [intensity(sample.hybrid(policy), policy).intensity for sample in samples]
    return torch.cat(parts).clamp(min=0.0).sqrt()


def errors(f: torch.Tensor, reference: torch.Tensor, observed: torch.Tensor) -> dict:
    difference = (f * (f @ reference) / (f @ f) - reference).abs()
    return {
        "all": 100.0 * float(difference.sum() / reference.sum()),
        "obs": 100.0 * float(difference[observed].sum() / reference[observed].sum()),
    }


def choose_beams(hybrid: Hybrid) -> list:
    """The segments and their beams, which are chosen when first asked for."""
    return hybrid.simulation.tasks


def compare(
    samples: list[Sample], policies: list[Policy], reference, unit: Policy, repetitions: int = 3
) -> list[dict]:
    """A row for each policy, with times relative to those of `unit`."""
    observed = torch.cat([sample.observed for sample in samples])
    models = [[sample.hybrid(policy) for sample in samples] for policy in policies]
    seconds = {"I": {policy: [] for policy in policies}, "J": {policy: [] for policy in policies}}
    rows = []
    for policy, own in zip(policies, models, strict=True):
        tasks = [task for hybrid in own for task in choose_beams(hybrid)]
        f = torch.cat([intensity(hybrid, policy).intensity for hybrid in own]).clamp(min=0.0).sqrt()
        rows.append(
            {
                **asdict(policy),
                "beams": statistics.mean(len(task.segment.hkl) for task in tasks),
                "weak": statistics.mean(len(task.segment.weak) for task in tasks),
                **errors(f, reference, observed),
            }
        )
    for _ in range(repetitions):
        for policy, own in zip(policies, models, strict=True):
            for name, times in seconds.items():
                started = time.process_time()
                for hybrid in own:
                    intensity(hybrid, policy, derivatives=name == "J")
                times[policy].append(time.process_time() - started)
    for policy, row in zip(policies, rows, strict=True):
        for name, times in seconds.items():
            row[name] = statistics.median(times[policy]) / statistics.median(times[unit])
    return rows


COLUMNS = {"beams": "5.0f", "weak": "6.0f", "all": "7.2f", "obs": "7.2f", "I": "6.2f", "J": "6.2f"}
COLUMNS |= {"jump": "8.3f", "slope": "8.2f", "kept": "8.2f"}
NAMES = {"beams": "N", "weak": "W", "all": "all %", "obs": "obs %"}


def show(title: str, rows: list[dict]) -> list[dict]:
    columns = [name for name in COLUMNS if name in rows[0]]
    widths = {name: int(COLUMNS[name].split(".")[0]) for name in columns}
    print(f"\n{title}\n{'policy':6s}{'g':>5s}{'sg_max':>8s}{'weak':>8s}", end="")
    print("".join(f"{NAMES.get(name, name):>{widths[name]}s}" for name in columns))
    for row in rows:
        print(
            f"{row['kind']:6s}{row['beyond']:5.1f}{row['sg_max']:8.4f}{row['weak_sg_max'] or '':>8}", end=""
        )
        print("".join(f"{row[name]:{COLUMNS[name]}}" for name in columns), flush=True)
    return rows


def run(folder: Path, name: str) -> dict:
    samples = [Sample(folder, name, arc) for arc in ARCS.get(name, [None])]
    observed = torch.cat([sample.observed for sample in samples])
    numbers = f"{len(observed)} reflections, {int(observed.sum())} observed"
    print(f"\n{name}: {numbers}, |g| up to {samples[0].largest:.2f} 1/A")
    if name == "cspbbr3_pets":
        reference = amplitudes(samples, HEAVY_REFERENCE)
        return {"choices": show("Choices", compare(samples, HEAVY_CHOICES, reference, DEFAULT, 1))}
    reference = amplitudes(samples, REFERENCE)
    checks = [{**asdict(p), **errors(amplitudes(samples, p), reference, observed)} for p in CHECKS]
    show("The reference against others", checks)
    smooth = show("Continuity", [continuity(samples[0], policy) for policy in SMOOTH])
    choices = show("Choices", compare(samples, CHOICES, reference, DEFAULT))
    policies = show("Policies", compare(samples, POLICIES, reference, Policy("union", 0.8, 0.01)))
    return {"checks": checks, "continuity": smooth, "choices": choices, "policies": policies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", default="quartz_dials,quartz_pets,cspbbr3_pets")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: run(args.folder, name) for name in args.sets.split(",")}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
