from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dials_hybrid.model.memory import GIB, Sizes, control_group_limits, plan, quarter_of_machine

SIZES = Sizes(
    n_observations=100_000,
    n_parameters=1000,
    n_propagated=900,
    n_thickness=64,
    smallest=10**6,
    amplitudes=10**5,
    table=10**8,
    smallest_table=10**7,
    complex_bytes=8,
)


def test_with_more_memory_nothing_gets_less():
    plans = [plan(memory, SIZES, 8) for memory in (1.5, 2.0, 3.0, 5.0, 9.0, 20.0)]
    assert [p.nproc for p in plans] == sorted(p.nproc for p in plans)
    assert plans[0].nproc < plans[-1].nproc == 8
    assert plans[0].in_file and not plans[-1].in_file
    assert plans[0].table < plans[-1].table == SIZES.table
    assert all(p.workspace >= SIZES.smallest and p.table >= SIZES.smallest_table for p in plans)


def test_without_a_limit_everything_wanted_is_there():
    found = plan(math.inf, SIZES, 8)
    assert (found.nproc, found.in_file, found.table) == (8, False, SIZES.table)
    assert found == plan(1000.0, SIZES, 8)


def test_segments_together_take_more_workspace_where_there_is_room():
    together = replace(SIZES, together=True)
    assert plan(math.inf, together, 1).workspace > plan(math.inf, SIZES, 1).workspace
    for memory in (3.0, 5.0, 20.0):
        found = plan(memory, together, 1)
        assert found.workspace >= plan(memory, SIZES, 1).workspace
        assert found.memory <= memory


def test_a_larger_jacobian_takes_no_more_memory_but_its_file():
    """Only what each observation has at each thickness grows."""
    larger = replace(SIZES, n_propagated=2700, n_parameters=2800, table=0, smallest_table=0)
    assert larger.jacobian == 3 * SIZES.jacobian
    found = plan(larger.jacobian / GIB, larger, 1)
    assert found.in_file


def test_crystals_in_turn_take_one_jacobian_more():
    once, in_turn = (plan(1000.0, replace(SIZES, in_turn=x), 4) for x in (False, True))
    assert in_turn.memory - once.memory == pytest.approx(SIZES.jacobian / GIB)


def test_too_little_memory_is_refused_with_advice():
    with pytest.raises(
        ValueError, match=r"100000 observations, 1000 parameters .* memory=0.5 is less: raise"
    ):
        plan(0.5, SIZES, 8)


def test_what_the_refusal_asks_for_is_enough():
    with pytest.raises(ValueError) as refusal:
        plan(0.1, SIZES, 1)
    needed = float(str(refusal.value).split(" takes ")[1].split()[0])
    assert plan(1.05 * needed, SIZES, 1).nproc == 1
    with pytest.raises(ValueError):
        plan(0.9 * needed, SIZES, 1)


def test_a_quarter_of_the_machine():
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert 0.0 < quarter_of_machine("cpu") <= int(total.split()[1]) * 1024 / GIB / 4.0 * 1.01


def test_limits_of_control_groups(tmp_path):
    """Both versions; the limits of all groups above count."""
    own = tmp_path / "cgroup"
    for group, limit in (("memory/job", "4000000"), ("job/step", "max\n"), ("job", "3000000\n")):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        name = "memory.limit_in_bytes" if group.startswith("memory") else "memory.max"
        (tmp_path / group / name).write_text(limit)
    own.write_text("5:cpu,cpuacct:/job\n3:memory:/job\n0::/job/step\n")
    assert sorted(control_group_limits(tmp_path, own)) == [3_000_000, 4_000_000]
    assert control_group_limits(tmp_path, tmp_path / "none") == []


# What belongs to observations outweighs the waves: each is listed `times` times in each of `runs` equal runs.
PREPARE = """
import os, resource, sys
from dataclasses import replace
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from problems import SETTINGS, small_problem
from dials_hybrid.model.simulation import silent
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.joint_fit import JointFit
from dials_hybrid.refine.state import State
from dials_hybrid.refine.target import Weighting
from dials_hybrid.rocking.measurement import joined

torch.set_num_threads(1)


def joint_fit(times, runs, **settings):
    inputs = small_problem().inputs
    rows = np.arange(len(inputs.measurement.reflections)).repeat(times)
    one = replace(inputs.measurement, reflections=inputs.measurement.reflections.select(rows))
    build = Builder(replace(inputs, measurement=joined([one] * runs)), replace(SETTINGS, **settings), silent)
    state = State("scan", None, (600.0, 16), "flat", [[250.0]] * runs)
    hybrid = build.hybrid(build.dataset(600.0, 1), state)
    weighting = Weighting({"gain": 1.0, "instability": 0.0, "floor": 0.0}, None)
    fit = JointFit(hybrid, weighting, inputs.origin_shifts)
    fit.set_scale()
    return fit


def cycle(fit):
    fit.refine(stage="joint", max_cycles=1, tolerance=0.0, on_cycle=lambda cycle: None)
"""

MEASURE = """
cycle(joint_fit(1, 1))  # loads what a cycle loads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fit = joint_fit(30, 20, tilt_nodes=int(sys.argv[2]), memory=float(sys.argv[3]))
cycle(fit)
growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
hybrid = fit.hybrid
print(growth, hybrid.simulation.plan.in_file, len(fit.target.intensity) * len(hybrid.vector()) * 8)
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    tests = Path(__file__).resolve().parent.parent
    words = [sys.executable, "-c", PREPARE + script, tests, *arguments]
    return subprocess.run([str(word) for word in words], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("tilt_nodes", "memory", "in_file"), [(2, 0.35, False), (25, 0.33, True)])
def test_a_cycle_stays_within_its_memory(tilt_nodes, memory, in_file):
    """Measured as the growth of the process; two Jacobians are not in it where they are in files."""
    done = run(MEASURE, tilt_nodes, memory)
    assert done.returncode == 0, done.stderr
    growth, found, jacobian = done.stdout.split()
    assert (found == "True") == in_file
    assert int(growth) * 1024 < memory * GIB
    if in_file:
        assert 2 * int(jacobian) > 0.5 * memory * GIB


@pytest.mark.slow
def test_a_cycle_beyond_its_memory_is_refused():
    done = run(MEASURE, 2, 0.06)
    assert "ValueError: a cycle of least squares with" in done.stderr


NORMAL_MATRIX = """
import resource
import torch
from dials_hybrid.model.held import Held
from dials_hybrid.refine.least_squares import Linearisation

torch.set_num_threads(1)
rows, columns, size = 300_000, 200, 3000
matrix = Held((rows, columns), torch.device("cpu"), in_file=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for first in range(0, rows, size):
    part = torch.arange(first, first + size)
    matrix.add(part, (part[:, None] % 7 == torch.arange(columns)).double())
n, g = Linearisation(torch.ones(rows, dtype=torch.float64), matrix).normal_equations()
assert n.sum() == g.sum() == rows
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_jacobian_in_a_file_is_not_in_memory():
    """0.45 GiB of it, of which a tenth is ever there."""
    done = subprocess.run([sys.executable, "-c", NORMAL_MATRIX], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 0.1 * 300_000 * 200 * 8 + 2**25


CYCLES = """
fit = joint_fit(int(sys.argv[3]), 1, nproc=int(sys.argv[2]))
start = fit.hybrid.vector()


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cycles(n):
    for _ in range(n):
        fit.hybrid.load_vector(start)
        fit.hybrid.update_beams()
        cycle(fit)


cycles(15)
before = resident()
cycles(int(sys.argv[4]))
print(resident() - before)
"""


@pytest.mark.parametrize(
    ("nproc", "times", "n"), [(1, 40, 15), pytest.param(2, 40, 40, marks=pytest.mark.slow)]
)
def test_many_cycles_do_not_grow(nproc, times, n):
    """Nothing as large as the intensities at each thickness is kept, which is 0.28 MB a cycle."""
    done = run(CYCLES, nproc, times, n)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3 * 2**20
