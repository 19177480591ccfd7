"""How a program ends: one sentence for every kind of failure, and what to do next where something is left."""

from __future__ import annotations

import os
import time

import pytest
import torch

from dials_hybrid.program import check_output, is_first_rank, local_device, one_sentence

NO_MEMORY = "dials.something: there is not enough memory: try a smaller memory= or nproc="


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ending(error, checkpoint=None, write=False) -> str | int | None:
    """What a program ends with in which `error` is raised."""
    with pytest.raises(SystemExit) as end:
        with one_sentence("dials.something", "cpu", checkpoint):
            if write:
                checkpoint.write_text("{}")
            raise error
    return end.value.code


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("the cell is wrong"), "dials.something: the cell is wrong"),
        (FileNotFoundError(2, "No such file", "a.cif"), "dials.something: a.cif: No such file"),
        (OSError("broken"), "dials.something: a file: broken"),
        (ConnectionError("a rank was lost"), "dials.something: a rank was lost"),
        (ChildProcessError("a worker was killed"), "dials.something: a worker was killed"),
        (MemoryError(), NO_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory."), NO_MEMORY),
    ],
)
def test_one_sentence_for_each_failure(error, sentence):
    assert ending(error) == sentence


def test_no_memory_for_a_tensor():
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**15)
    assert ending(error.value) == NO_MEMORY


@pytest.mark.parametrize("error", [MemoryError(), ConnectionError("lost")])
def test_a_checkpoint_of_this_run_is_recommended(error, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    assert ending(error, checkpoint, write=True).endswith(f"; continue with resume={checkpoint}")


def test_an_interrupt_has_a_status_of_its_own(tmp_path, capsys):
    checkpoint = tmp_path / "checkpoint"
    assert ending(KeyboardInterrupt(), checkpoint, write=True) == 130
    assert capsys.readouterr().err == f"Interrupted; continue with resume={checkpoint}\n"


def test_one_of_an_earlier_run_is_not(tmp_path, capsys):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_text("{}")
    os.utime(checkpoint, (time.time() - 100.0,) * 2)
    assert ending(KeyboardInterrupt(), checkpoint) == 130
    assert capsys.readouterr().err == "Interrupted\n"


@pytest.mark.parametrize("fault", [IndexError("a fault"), RuntimeError("a fault")])
def test_a_fault_of_the_program_is_not_hidden(fault):
    with pytest.raises(type(fault)), one_sentence("dials.something", "cpu", None):
        raise fault


def test_without_failure_nothing_is_said(capsys):
    with one_sentence("dials.something", "cpu", None):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("filename", "reason"),
    [
        ("no/x.cif", r"there is no folder .*/no$"),
        (".", "it is a folder"),
        ("locked", "permission denied"),
        ("mine/new", "permission denied"),
    ],
)
def test_what_cannot_be_written(here, monkeypatch, filename, reason):
    (here / "mine").mkdir()
    (here / "locked").write_text("")
    denied = {str(here / "mine"), str(here / "locked")}  # root, who may run this, may write everywhere
    monkeypatch.setattr("os.access", lambda path, mode: str(path) not in denied)
    with pytest.raises(SystemExit, match=rf"^dials.x cannot write output.cif={filename}: {reason}"):
        check_output("dials.x", "output.cif", filename)


@pytest.mark.parametrize("filename", ["new.cif", "there.cif", "/dev/null"])
def test_what_can_be_written(here, filename):
    (here / "there.cif").write_text("before")
    check_output("dials.x", "output.cif", filename)
    assert (here / "there.cif").read_text() == "before"
    assert not (here / "new.cif").exists()


@pytest.mark.parametrize(
    ("world", "rank", "first"), [(None, None, True), ("1", "0", True), ("4", "0", True), ("4", "3", False)]
)
def test_only_the_first_rank_writes(monkeypatch, world, rank, first):
    for name, value in (("WORLD_SIZE", world), ("RANK", rank)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert is_first_rank() is first


@pytest.mark.parametrize(
    ("device", "here", "found"), [("cuda", "4", "cuda:2"), ("cuda:0", "4", "cuda:0"), ("cpu", "4", "cpu")]
)
def test_each_rank_has_a_device_of_its_own(monkeypatch, device, here, found):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert local_device(device) == found
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert local_device(device) == device
