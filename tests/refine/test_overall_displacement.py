"""A dose series: the second crystal's atoms vibrate more, and that is found together with the structure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import dataset, free_parameters, sweep, triclinic, turned

from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Wedge
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.joint_fit import JointFit
from dials_hybrid.refine.target import Weighting

TRUTH = 0.006  # [A^2]
ATOMS = triclinic()


def model(data, n_displacements: int) -> Hybrid:
    jacobian, names = free_parameters(ATOMS, ("x", "y", "z", "uiso"))
    grid = ThicknessGrid(500.0, 24)
    return Hybrid(
        data,
        Crystal(ATOMS, jacobian, names, n_displacements=n_displacements),
        Orientation(data.steps, n_nodes=1, mosaic_spread=None, restraint=0.05),
        [Wedge(grid, 300.0), Wedge(grid, 250.0)],
        Scale(data.observations, 2, 1),
        BeamPolicy(g_max=1.4, sg_max=0.02),
    )


@pytest.fixture(scope="module")
def data():
    """Without noise, sigma 1 % of I and of the mean."""
    bases = turned(ATOMS, 0.3, -0.5, 0.2), turned(ATOMS, 0.9, 0.4, -0.2)
    made = dataset(ATOMS, [sweep(basis, n=60, width=0.1, crystal=i) for i, basis in enumerate(bases)])
    truth = model(made, 1)
    truth.crystal.overall_u.data[:] = TRUTH
    intensity = truth.evaluate().intensity
    sigma = 0.01 * (intensity + intensity.mean())
    return replace(made, observations=replace(made.observations, intensity=intensity, sigma=sigma))


def refined(data, n_displacements: int):
    hybrid = model(data, n_displacements)
    weighting = Weighting({"gain": 1.0, "instability": 0.0, "floor": 0.0}, None)
    fit = JointFit(hybrid, weighting, torch.zeros(0, len(hybrid.crystal.names), dtype=torch.float64))
    found = fit.refine(stage="final", max_cycles=8, tolerance=1e-6, on_cycle=lambda cycle: None)
    return hybrid, found


def test_the_displacement_is_found(data):
    hybrid, fit = refined(data, 1)
    place = hybrid.slices()["crystal"].stop - 1
    assert float(hybrid.crystal.overall_u.detach()) == pytest.approx(TRUTH, abs=2e-5)
    assert fit.covariance[place, place] > 0.0
    shifts = hybrid.crystal.atoms().parameters - ATOMS.parameters
    assert shifts.abs().max() < 1e-4


def test_without_it_the_structure_pays(data):
    hybrid, fit = refined(data, 0)
    _, better = refined(data, 1)
    assert fit.goodness_of_fit > 10.0 * better.goodness_of_fit
    shifts = hybrid.crystal.atoms().parameters - ATOMS.parameters
    assert shifts[:, 3].abs().max() > 0.2 * TRUTH
