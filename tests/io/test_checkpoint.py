from __future__ import annotations

import json
import math
import random

import pytest

pytest.importorskip("torch")

from dials_hybrid.io.checkpoint import read_checkpoint, write_json

FORMAT = {"format": "dials.hybrid_refine checkpoint"}


def test_numbers_survive_exactly(tmp_path):
    generator = random.Random(1)
    values = [generator.uniform(-1, 1) * 10.0 ** generator.randint(-300, 300) for _ in range(200)]
    values += [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    write_json(tmp_path / "a", {**FORMAT, "vector": values})
    assert read_checkpoint(tmp_path / "a")["vector"] == values


def test_what_is_not_a_number_becomes_null_at_any_depth(tmp_path):
    content = {**FORMAT, "a": [{"b": (math.nan, 1.0)}, math.inf], "c": {"d": -math.inf}, "e": None}
    write_json(tmp_path / "a", content)
    found = read_checkpoint(tmp_path / "a")
    assert (found["a"], found["c"], found["e"]) == ([{"b": [None, 1.0]}, None], {"d": None}, None)
    assert "NaN" not in (tmp_path / "a").read_text()


def test_the_file_is_json_that_people_can_read(tmp_path):
    write_json(tmp_path / "a.json", {"r1_obs": 0.08, 1: "one"})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"r1_obs": 0.08, "1": "one"}
    assert text.endswith("}\n") and text.count("\n") == 4


def test_a_failure_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a", {**FORMAT, "n": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a", {**FORMAT, "n": object()})
    assert read_checkpoint(tmp_path / "a")["n"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_missing_folder_is_named_as_the_user_wrote_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError) as caught:
        write_json("nowhere/a.json", {})
    assert caught.value.filename == "nowhere/a.json"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"{}",
        b"[]",
        b"null",
        b'{"format": "something else"}',
        b'{"format": "dials.hybrid_refine checkpoint", "vector": [1.0, 2',  # cut off
        b"\x80\x04\x95 a pickle",
        b"\xff\xfe\x00\x00",
        b"[" * 100000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "some.file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.file is not a checkpoint of dials\.hybrid_refine"):
        read_checkpoint(path)


@pytest.mark.parametrize(("name", "reason"), [("missing", "No such file"), ("folder", "Is a directory")])
def test_unreadable_files_are_refused_by_name(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=f"cannot read the checkpoint .*{name}: {reason}"):
        read_checkpoint(tmp_path / name)
