"""`python -m dials_hybrid.refine`, as on a machine without DIALS, alone and under torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import hearing_ctrl_c
from problems import small_problem

from dials_hybrid.problem import read_result, write_problem

PROGRAM = ["-m", "dials_hybrid.refine"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
# As where neither is installed.
WITHOUT_DIALS = """
import runpy, sys
for name in ("boost_adaptbx", "cctbx", "dials", "dxtbx", "iotbx", "libtbx", "scitbx", "smtbx", "tabulate"):
    sys.modules[name] = None
runpy.run_module("dials_hybrid.refine", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("problem") / "problem.npz"
    write_problem(path, small_problem())
    return str(path)


def call(args, folder, **options):
    return subprocess.run(
        [sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=120, **options
    )


@pytest.fixture(scope="module")
def alone(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    done = call(["-c", WITHOUT_DIALS, file, "nproc=1"], folder)
    assert done.returncode == 0, done.stderr
    return done, read_result(folder / "dials.hybrid_refine.result", small_problem().inputs)


def assert_same(found, expected):
    np.testing.assert_allclose(found.state.vector, expected.state.vector, rtol=1e-6, atol=1e-9)
    for name in ("intensity", "scale"):
        values, others = (getattr(outcome.fit.evaluation, name) for outcome in (found, expected))
        np.testing.assert_allclose(values, others, rtol=1e-6)
    np.testing.assert_allclose(found.fit.covariance, expected.fit.covariance, rtol=1e-6, atol=1e-15)


def test_it_needs_no_dials(alone):
    done, (outcome, finished) = alone
    assert not done.stderr
    assert outcome.state.stage == "final" and finished.figures["r1_obs"] < 0.02
    assert "R1, I > 3 sigma" in done.stdout and "Saved the result" in done.stdout


def test_two_ranks_of_two_processes_give_the_same(file, alone, tmp_path):
    done = call([*TORCHRUN, *PROGRAM, file, "nproc=2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Saved the result") == 1
    outcome, _ = read_result(tmp_path / "dials.hybrid_refine.result", small_problem().inputs)
    assert_same(outcome, alone[1][0])


def test_a_checkpoint_is_continued(file, alone, tmp_path):
    args = [*PROGRAM, file, "nproc=1", "output.checkpoint=checkpoint"]
    assert call(args, tmp_path).returncode == 0
    content = json.loads((tmp_path / "checkpoint").read_text())
    assert content["stage"] == "joint"
    done = call([*args, "resume=checkpoint"], tmp_path)
    assert "Continuing after stage" in done.stdout
    outcome, _ = read_result(tmp_path / "dials.hybrid_refine.result", small_problem().inputs)
    assert_same(outcome, alone[1][0])


@pytest.mark.parametrize(
    "args, sentence",
    [
        ([], "dials_hybrid.refine needs one problem file"),
        (["none.npz"], "dials_hybrid.refine: cannot read none.npz: No such file or directory"),
        (["FILE", "nproc=0"], "dials_hybrid.refine: nproc=0 is no number of at least 1"),
        (["FILE", "memory=much"], "dials_hybrid.refine: memory=much is no number of at least 0.001"),
        (["FILE", "speed=1"], "dials_hybrid.refine does not understand speed=1"),
        (["FILE", "device=abacus"], "dials_hybrid.refine: device=abacus cannot be used here"),
        (
            ["FILE", "output.result=no/where"],
            "dials_hybrid.refine cannot write output.result=no/where: there",
        ),
        (["FILE", "resume=none"], "dials_hybrid.refine: cannot read the checkpoint none"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(file, tmp_path, args, sentence):
    done = call([*PROGRAM, *(arg.replace("FILE", file) for arg in args)], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence) and done.stderr.count("\n") == 1
    assert not (tmp_path / "dials.hybrid_refine.result").exists()


def test_an_error_on_all_ranks_is_said_once(file, tmp_path):
    done = call([*TORCHRUN, *PROGRAM, file, "resume=none"], tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("dials_hybrid.refine: cannot read the checkpoint none") == 1


# A rank that leaves in the middle of the second sum over segments after the scan.
LEAVING = """
import os, runpy, signal, sys, time
from dials_hybrid.model.held import Held
count, add = 0, Held.add_all
def leave(self, others):
    global count
    count += 1
    if count == {count} and os.environ["RANK"] == "{rank}":
        {how}
    return add(self, others)
Held.add_all = leave
runpy.run_module("dials_hybrid.refine", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "rank, how, sentence",
    [
        (1, "os.kill(os.getpid(), signal.SIGKILL)", "dials_hybrid.refine: a process of this run was lost"),
        (1, "raise ValueError('the disc of rank 1 is full')", "the disc of rank 1 is full"),
        pytest.param(
            *(0, "raise ValueError('the disc of rank 0 is full')", "the disc of rank 0 is full"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(0, "os.kill(os.getpid(), signal.SIGKILL)", "Signal 9 (SIGKILL)"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_rank_that_leaves_ends_the_run_and_keeps_the_checkpoint(file, tmp_path, rank, how, sentence):
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING.format(rank=rank, how=how, count=4))
    started = time.time()
    done = call([*TORCHRUN, str(script), file, "nproc=1"], tmp_path)
    assert done.returncode != 0 and time.time() - started < 60
    assert done.stderr.count(sentence) == 1, done.stderr
    content = json.loads((tmp_path / "dials.hybrid_refine.checkpoint").read_text())
    assert content["stage"] == "scan"
    assert not (tmp_path / "dials.hybrid_refine.result").exists()


def test_an_interrupt_says_how_to_continue(file, tmp_path):
    script = tmp_path / "slow.py"
    wait = "print('waiting', flush=True); time.sleep(60)"
    script.write_text(LEAVING.format(rank=0, how=wait, count=4))
    process = subprocess.Popen(
        [sys.executable, str(script), file],
        cwd=tmp_path,
        env={**os.environ, "RANK": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hearing_ctrl_c,
    )
    while "waiting" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "Interrupted; continue with resume=dials.hybrid_refine.checkpoint\n"
