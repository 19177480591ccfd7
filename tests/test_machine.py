from __future__ import annotations

import re
from pathlib import Path

import pytest

from dials_hybrid.machine import check_device, of_this_machine, versions


def test_the_version_is_that_of_the_package():
    text = (Path(__file__).resolve().parent.parent / "setup.py").read_text()
    assert versions()["dials_hybrid"] == re.search(r'version="([^"]+)"', text)[1]


def test_what_is_not_asked_for_is_what_there_is():
    found = of_this_machine("cpu", None, None)
    assert found["device"] == "cpu" and found["nproc"] >= 1 and found["memory"] > 0.0
    assert of_this_machine("cpu", 3, 1.5) == {"device": "cpu", "nproc": 3, "memory": 1.5}
    assert of_this_machine("cuda", 3, 1.5)["nproc"] == 1


@pytest.mark.parametrize("device", ["abacus", "meta", "cuda:99"])
def test_a_device_that_cannot_compute_here(device):
    with pytest.raises(ValueError, match=f"device={device} cannot be used here"):
        check_device(device)
