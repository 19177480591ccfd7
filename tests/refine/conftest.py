"""A model before the choice of its thickness distribution, and a builder of others."""

from __future__ import annotations

import pytest
from simulated import SETTINGS, quartz_crystal, simulate

from dials_hybrid.model.simulation import silent
from dials_hybrid.model.thickness import Flat, Normal
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.joint_fit import JointFit
from dials_hybrid.refine.state import State
from dials_hybrid.refine.target import Weighting

GRID = (700.0, 20)
TRUTH = {"flat": lambda grid: Flat(grid, 300.0), "normal": lambda grid: Normal(grid, 250.0, 130.0)}


@pytest.fixture(scope="module")
def prepared():
    """Function of the name of a truth: builder, fit of a model, and the model before the choice."""
    crystal = quartz_crystal()

    def prepare(truth):
        measured = simulate(crystal.scan, TRUTH[truth](ThicknessGrid(700.0, 40)), step=0.05)
        build = Builder(crystal.inputs(measured, crystal.truth), SETTINGS, silent)
        dataset = build.dataset(GRID[0], 1)
        state = State("joint", None, GRID, "normal", [[280.0, 80.0]])

        def make_fit(hybrid):
            return JointFit(hybrid, Weighting({"instability": 0.0}, 3.0), crystal.origin_shifts)

        hybrid = build.hybrid(dataset, state)
        make_fit(hybrid).set_scale()
        return build, make_fit, hybrid, state

    return prepare
