"""Fixtures for all tests: real data where there is some, one thread. Imports neither DIALS nor cctbx."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


def missing(what: str) -> None:
    """Real data are optional for a person, never in CI."""
    where = ROOT.parent / "shared/data"
    sentence = f"{what}: set DIALS_HYBRID_DATA to the folder of the test data, or put it at {where}."
    if os.environ.get("CI"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def folder_with(data_dir: Path, name: str, file: str) -> Path:
    """The data set `name`: a folder of data_dir, or data_dir itself, that holds `file`."""
    for folder in (data_dir / name, data_dir):
        if (folder / file).is_file():
            return folder
    missing(f"No {name}/{file} in {data_dir}")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets."""
    folder = Path(os.environ.get("DIALS_HYBRID_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        missing(f"There is no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def quartz_dials(data_dir: Path) -> Path:
    """Alpha-quartz, integrated by DIALS: integrated.expt and .refl, start models of both hands."""
    return folder_with(data_dir, "quartz_dials", "integrated.refl")


@pytest.fixture(scope="session")
def quartz_pets(data_dir: Path) -> Path:
    """The same crystal and run, processed by PETS2: quartz.cif_pets."""
    return folder_with(data_dir, "quartz_pets", "quartz.cif_pets")


@pytest.fixture(scope="session")
def cspbbr3_pets(data_dir: Path) -> Path:
    """CsPbBr3, processed by PETS2: cspbbr3_dyn.cif_pets, start model cspbbr3.cif."""
    return folder_with(data_dir, "cspbbr3_pets", "cspbbr3_dyn.cif_pets")
