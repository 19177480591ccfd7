"""States as plain data, through a file and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from dials_hybrid.io.checkpoint import write_json
from dials_hybrid.refine.joint_fit import Cycle
from dials_hybrid.refine.state import State
from dials_hybrid.refine.thickness_choice import Candidate
from dials_hybrid.refine.thickness_scan import ThicknessScan

# Numbers that decimal notation of fewer than 17 digits changes
THIRD, TINY = 1.0 / 3.0, 4.9406564584124654e-310


def state(**changes) -> State:
    best = {"flat": [210.0], "wedge": [400.0 + THIRD], "normal": [200.0, 80.0], "gamma": [300.0, 90.0]}
    minima = {name: [numbers, numbers] for name, numbers in best.items()}
    scan = ThicknessScan([10.0, 20.0], [THIRD, 1e300], best, {name: THIRD for name in best}, minima)
    candidate = Candidate("wedge", 9.0 + THIRD, 0.08, 0.09, 0.0, 0.0, True)
    cycle = Cycle("joint", 1, 0.08, 0.15, 0.1, math.nan, 1.7, 210.0, 0.3)
    vector = [THIRD, -TINY, 0.1]
    whole = State("joint", scan, (650.0, 16), "wedge", [[400.0 + THIRD]], vector, [cycle], [candidate])
    return replace(whole, **{"scale_prior": THIRD / 10.0, "network_prior": THIRD, **changes})


def through_a_file(content: dict, tmp_path) -> dict:
    write_json(tmp_path / "checkpoint", content)
    return json.loads((tmp_path / "checkpoint").read_text())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stage": "scan", "vector": None, "history": [], "comparison": []},
        {"reach": 4.0 + THIRD},
        {"chosen_again": True},
    ],
)
def test_there_and_back_exactly(changes, tmp_path):
    before = state(**changes)
    after = State.from_dict(through_a_file(before.as_dict(), tmp_path))
    assert repr(after) == repr(before)  # equal numbers, and nan where there was nan
    assert isinstance(after.scan, ThicknessScan)


def damaged(**changes):
    content = {**state().as_dict(), **changes}
    return {name: value for name, value in content.items() if value != "gone"}


@pytest.mark.parametrize(
    "content",
    [
        {},
        *(damaged(**{name: "gone"}) for name in state().as_dict()),
        damaged(stage="lunch"),
        damaged(grid=[650.0]),
        damaged(grid=650.0),
        damaged(grid=[-650.0, 16]),
        damaged(thickness_model="sphere"),
        damaged(scale_prior=0.0),
        damaged(network_prior=math.nan),
        damaged(reach=-1.0),
        damaged(thickness_start=[[math.nan]]),
        damaged(comparison=[{"model": "flat"}]),
        damaged(scan=None),
        damaged(scan={"thickness": [1.0]}),
        damaged(vector=[1.0, "x"]),
        damaged(vector=[1.0, None]),
        damaged(vector=[1.0, math.inf]),
        damaged(thickness_start=None),
        damaged(thickness_start=[["x"]]),
        damaged(history=[{"stage": "joint"}]),
    ],
    ids=lambda content: str(len(content)),
)
def test_damaged_content(content):
    with pytest.raises(ValueError, match="damaged"):
        State.from_dict(content)


@pytest.mark.parametrize("name", ["grid", "scan", "thickness_start", "history", "comparison"])
@pytest.mark.parametrize("value", [7, "text", [None], {"a": 1}])
def test_content_of_another_type(name, value):
    with pytest.raises(ValueError, match="damaged"):
        State.from_dict(damaged(**{name: value}))
