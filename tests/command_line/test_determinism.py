"""The same command gives the same numbers, whatever the number of processes."""

from __future__ import annotations

import pytest
from commands import CHEAP, program, summary_in

pytest.importorskip("dials.array_family.flex")

pytestmark = pytest.mark.slow


def without_times(content):
    """What is measured by a clock, and the one setting that differs."""
    if isinstance(content, dict):
        kept = {key: value for key, value in content.items() if key not in ("seconds", "nproc")}
        return {key: without_times(value) for key, value in kept.items()}
    return [without_times(item) for item in content] if isinstance(content, list) else content


def leaves(content, name=""):
    """Names and values of all that is no dictionary or list."""
    if isinstance(content, (dict, list)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, f"{name}.{key}")
    else:
        yield name, content


@pytest.fixture(scope="module")
def summary(finished):
    return without_times(summary_in(finished[0]))


def test_the_same_seed_gives_the_same_figures(summary, expt, refl, cif, tmp_path):
    assert program(expt, refl, cif, *CHEAP, cwd=tmp_path).returncode == 0
    assert without_times(summary_in(tmp_path)) == summary


def test_another_number_of_processes_gives_nearly_the_same(summary, expt, refl, cif, tmp_path):
    assert program(expt, refl, cif, *CHEAP, "nproc=2", cwd=tmp_path).returncode == 0
    expected = dict(leaves(summary))
    found = dict(leaves(without_times(summary_in(tmp_path))))
    numbers = {name: value for name, value in expected.items() if isinstance(value, float)}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-9, abs=1e-12)
    assert {n: x for n, x in found.items() if n not in numbers} == {
        n: x for n, x in expected.items() if n not in numbers
    }
