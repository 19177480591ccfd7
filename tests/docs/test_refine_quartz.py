"""The example script of the documentation runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "refine_quartz.py"
QUICK = ["thickness.model=flat", "max_cycles=1", "mosaic_points=1", "data.d_min=0.9"]


@pytest.mark.slow
def test_the_script_refines_and_prints(quartz_dials, tmp_path):
    files = [quartz_dials / name for name in ("integrated.expt", "integrated.refl", "quartz_P3221.cif")]
    done = subprocess.run(
        [sys.executable, SCRIPT, *files, *QUICK],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    r1 = float(lines[0].split()[2])
    assert 0.04 < r1 < 0.08  # 0.060 for these strong reflections
    assert any(line.startswith("Si1.x") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_without_arguments_it_explains_itself():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert "integrated.expt" in done.stderr
