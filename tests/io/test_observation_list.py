"""The rows of virtual frames: those of the files, not those of the sweeps beside them."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("cctbx")

from dials_hybrid.data import Observations
from dials_hybrid.io.observation_list import COLUMNS, observation_rows, write_observations


@pytest.fixture
def rows():
    """A sweep (crystal 0) and two files; the second row belongs to the sweep."""
    n = 4
    observations = Observations(
        hkl=torch.tensor([[1, 0, 0], [2, 0, 0], [0, -3, 1], [0, 0, 4]]),
        intensity=torch.tensor([10.0, 20.0, -1.5, 40.0], dtype=torch.float64),
        sigma=torch.full((n,), 2.0, dtype=torch.float64),
        first=torch.zeros(n, dtype=torch.long),
        last=torch.ones(n, dtype=torch.long),
        crystal=torch.tensor([1, 0, 2, 1]),
        angle=torch.zeros(n),
        row=torch.arange(n),
        frame=torch.tensor([1, -1, 0, 0]),
        share=torch.tensor([1.0, 1.0, 1 / 3, 0.5], dtype=torch.float64),
        free=torch.tensor([False, False, True, False]),
    )
    files = [
        SimpleNamespace(filename="/data/a.cif_pets", names=("7", "9")),
        SimpleNamespace(filename="b.cif_pets", names=("3",)),
    ]
    calculated = torch.tensor([11.0, 21.0, 0.123456, 41.0], dtype=torch.float64)
    scale = torch.tensor([1.5, 9.0, 1234567.0, 1.25], dtype=torch.float64)
    return observation_rows(files, 1, observations, calculated, scale)


def test_rows_have_the_names_of_their_files_and_frames(rows):
    assert [dict(zip(COLUMNS, row, strict=True)) for row in rows] == [
        {"file": "a.cif_pets", "frame": "9", "h": 1, "k": 0, "l": 0, "intensity": 10.0, "sigma": 2.0,
         "calculated": 11.0, "scale": 1.5, "share": 1.0, "free": 0},
        {"file": "b.cif_pets", "frame": "3", "h": 0, "k": -3, "l": 1, "intensity": -1.5, "sigma": 2.0,
         "calculated": 0.123, "scale": 1234570.0, "share": 0.3333, "free": 1},
        {"file": "a.cif_pets", "frame": "7", "h": 0, "k": 0, "l": 4, "intensity": 40.0, "sigma": 2.0,
         "calculated": 41.0, "scale": 1.25, "share": 0.5, "free": 0},
    ]  # fmt: skip


def test_the_file_is_csv_with_a_heading(rows, tmp_path):
    write_observations(tmp_path / "rows.csv", rows)
    with open(tmp_path / "rows.csv", newline="", encoding="utf-8") as file:
        heading, *content = csv.reader(file)
    assert tuple(heading) == COLUMNS
    assert content == [[str(value) for value in row] for row in rows]


def test_without_files_there_are_no_rows(tmp_path):
    write_observations(tmp_path / "rows.csv", [])
    assert (tmp_path / "rows.csv").read_text().strip() == ",".join(COLUMNS)
