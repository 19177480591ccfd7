"""Quartz for the tests of the programs, and one run that many of them look at."""

from __future__ import annotations

import pytest
from commands import CHEAP, program


@pytest.fixture(scope="session")
def expt(quartz_dials):
    return str(quartz_dials / "integrated.expt")


@pytest.fixture(scope="session")
def refl(quartz_dials):
    return str(quartz_dials / "integrated.refl")


@pytest.fixture(scope="session")
def cif(quartz_dials):
    return str(quartz_dials / "quartz_P3221.cif")


@pytest.fixture
def experiments(expt):
    from dxtbx.model.experiment_list import ExperimentList

    return ExperimentList.from_file(expt, check_format=False)


@pytest.fixture
def table(refl):
    from dials.array_family import flex

    return flex.reflection_table.from_file(refl)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory, expt, refl, cif):
    """A run in a folder of its own, as a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, program(expt, refl, cif, *CHEAP, cwd=folder)
