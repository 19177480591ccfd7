from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from dials_hybrid.model.memory import GIB, control_group_limits, plan, quarter_of_machine

SIZE = {
    "n_observations": 100_000,
    "n_parameters": 1000,
    "n_thickness": 64,
    "smallest": 10**6,
    "amplitudes": 10**5,
}


def test_more_memory_gives_more_processes_and_workspace():
    plans = [plan(memory, **SIZE, nproc=8) for memory in (10.0, 12.0, 20.0, 60.0)]
    assert [p.nproc for p in plans] == sorted(p.nproc for p in plans)
    assert plans[0].nproc == 1 and plans[-1].nproc == 8
    assert all(p.workspace >= SIZE["smallest"] for p in plans)


def test_without_a_limit_everything_wanted_is_there():
    found = plan(math.inf, **SIZE, nproc=8)
    assert found.nproc == 8
    assert found == plan(1000.0, **SIZE, nproc=8)


def test_too_little_memory_is_refused_with_advice():
    with pytest.raises(ValueError, match=r"100000 observations, 1000 parameters .* memory=2 is less: raise"):
        plan(2.0, **SIZE, nproc=8)


def test_what_the_refusal_asks_for_is_enough():
    with pytest.raises(ValueError) as refusal:
        plan(0.1, **SIZE, nproc=1)
    needed = float(str(refusal.value).split(" takes ")[1].split()[0])
    assert plan(1.05 * needed, **SIZE, nproc=1).nproc == 1
    with pytest.raises(ValueError):
        plan(0.9 * needed, **SIZE, nproc=1)


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


# Every observation is listed `times` times: the Jacobian then outweighs the waves.
MEASURE = """
import resource, sys
from dataclasses import replace
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from problems import SETTINGS, small_problem
from dials_hybrid.refine.protocol import Protocol

torch.set_num_threads(1)
times, memory = int(sys.argv[2]), float(sys.argv[3])
inputs = small_problem().inputs
Protocol(inputs, SETTINGS).run()  # loads what a refinement loads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = np.arange(len(inputs.measurement.reflections)).repeat(times)
measurement = replace(inputs.measurement, reflections=inputs.measurement.reflections.select(rows))
settings = replace(SETTINGS, memory=memory, tilt_nodes=12, scale_nodes=12)
Protocol(replace(inputs, measurement=measurement), settings).run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak(times: int, memory: float):
    tests = Path(__file__).resolve().parent.parent
    return subprocess.run(
        [sys.executable, "-c", MEASURE, str(tests), str(times), str(memory)], capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0.5, 1.0])
def test_a_refinement_stays_within_its_memory(memory):
    """Measured as the growth of the process."""
    done = peak(500, memory)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < memory * GIB


@pytest.mark.slow
def test_a_refinement_beyond_its_memory_is_refused():
    done = peak(4000, 0.1)
    assert "ValueError: a cycle of least squares with" in done.stderr
