"""Spoilt files of each kind end in a result or in one sentence; benchmarks/hostile_files.py has more."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("dials.array_family.flex")

from fuzz import mutations, runner, targets

KINDS = (
    *("experiments", "reflections", "cif", "shelx", "shelx_organic", "pdb", "cif_pets"),
    *("problem", "checkpoint", "result"),
)
CUTS, SPOILT = 12, 28


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("dials.util.log.config", None)  # `prepare` replaces it
        targets.prepare(folder)
        yield folder


@pytest.fixture(scope="module")
def kinds(folder):
    return targets.targets(folder)


def test_all_kinds_are_tried(kinds):
    assert set(kinds) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_are_read(kinds, folder, kind):
    target = replace(kinds[kind], mutate=lambda rng, content: content)
    first = target.n_cuts()
    assert [ending.outcome for ending in runner.run(target, range(first, first + 3), folder)] == ["read"] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_files_get_one_sentence(kinds, folder, kind):
    target = kinds[kind]
    n = target.n_cuts()
    numbers = [*range(0, n, -(-n // CUTS)), *range(n, n + SPOILT)]
    endings = list(runner.run(target, numbers, folder))
    assert [ending.number for ending in endings] == numbers
    assert [ending for ending in endings if ending.outcome not in runner.GOOD] == []
    assert sum(ending.outcome == "refused" for ending in endings) >= CUTS // 2


@pytest.mark.parametrize("kind", ["problem", "result"])
def test_arrays_of_other_types_get_one_sentence(kinds, folder, kind):
    """Single precision where double is expected, say, which chance seldom finds."""
    cases = mutations.retyped(kinds[kind].seeds[0])
    waiting = iter(cases)
    target = replace(kinds[kind], mutate=lambda rng, content: next(waiting))
    first = target.n_cuts()
    endings = list(runner.run(target, range(first, first + len(cases)), folder))
    assert [ending for ending in endings if ending.outcome not in runner.GOOD] == []
    assert sum(ending.outcome == "refused" for ending in endings) > 0.7 * len(cases) > 70


def faults(kinds, folder, command, seconds=20.0):
    target = replace(kinds["cif"], command=command)
    return [ending.outcome for ending in runner.run(target, [0, 1], folder, seconds)]


def test_the_runner_sees_faults(kinds, folder):
    """A fuzzer that finds nothing must be able to."""
    import ctypes
    import sys
    import time

    assert faults(kinds, folder, lambda: ctypes.string_at(0)) == ["crash", "crash"]
    assert faults(kinds, folder, lambda: time.sleep(9), 0.3) == ["hang", "hang"]
    assert faults(kinds, folder, lambda: 1 / 0) == ["exception", "exception"]
    assert faults(kinds, folder, lambda: bytearray(4 * 1024**3)) == ["exception", "exception"]
    assert faults(kinds, folder, lambda: sys.exit("two\nlines")) == ["talk", "talk"]
    assert faults(kinds, folder, lambda: sys.exit("one line")) == ["refused", "refused"]
