"""Names, values and uncertainties of all refined numbers, against the model and its covariance."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import small_problem
from synthetic import quartz

from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.refine.parameters import (
    all_parameters,
    displacements,
    largest_correlations,
    refined_parameters,
)
from dials_hybrid.refine.protocol import Protocol


@pytest.fixture(scope="module")
def outcome():
    problem = small_problem()
    settings = replace(problem.settings, max_cycles=1, thickness_model="normal", mosaic_points=3)
    return Protocol(problem.inputs, settings).run()


@pytest.fixture(scope="module")
def parameters(outcome):
    return all_parameters(outcome)


def test_all_are_there_with_their_uncertainties(outcome, parameters):
    assert [p.index for p in parameters] == list(range(len(outcome.hybrid.vector())))
    uncertainty = np.sqrt(np.diag(outcome.fit.covariance.numpy()))
    assert [p.su for p in parameters] == pytest.approx(uncertainty)
    names = [p.name for p in parameters]
    assert len(set(names)) == len(names)
    assert {"orientation tilt 1, 1", "thickness mean 1", "log scale 1, 2"} <= set(names)


def test_values_are_those_of_the_vector(outcome, parameters):
    """But for the structure, whose vector holds shifts."""
    vector = outcome.hybrid.vector().tolist()
    blocks = outcome.hybrid.slices()
    for p in parameters:
        assert blocks[p.block].start <= p.index < blocks[p.block].stop
        if p.block != "crystal":
            assert p.value == vector[p.index]


def test_values_of_the_structure_are_those_of_its_atoms(outcome, parameters):
    atoms = outcome.hybrid.crystal.atoms()
    rows = refined_parameters(outcome)
    assert rows == [(p.name, p.value, p.su) for p in parameters if p.block == "crystal"]
    found = {name: value for name, value, _ in rows}
    assert found["Si0.x"] == atoms.parameters[0, 0].item()
    assert found["O1.z"] == atoms.parameters[1, 2].item()


def test_the_value_of_a_parameter_of_several_atoms_is_its_shift(outcome):
    """As that of the turn of a methyl group, which no number of an atom is."""
    changed = copy.deepcopy(outcome)
    crystal = changed.hybrid.crystal
    crystal.jacobian[0] *= 0.3
    with torch.no_grad():
        crystal.shifts[0] = 0.05
    (_, value, _), *others = refined_parameters(changed)
    assert value == 0.05
    assert [row[1] for row in others] == [row[1] for row in refined_parameters(outcome)[1:]]


def test_the_weights_of_a_network_are_left_out(outcome):
    """And the numbers behind them keep their places."""
    problem = small_problem()
    settings = replace(problem.settings, max_cycles=1, thickness_model="neural")
    network = Protocol(problem.inputs, settings).run()
    names = {p.name: p for p in all_parameters(network)}
    assert not any("hidden" in name or "output" in name for name in names)
    scale = network.hybrid.slices()["scale"]
    assert names["scale constant 1"].index == scale.start
    assert names["log scale 1, 2"].value == network.hybrid.vector()[scale.start + 2].item()


def test_correlations_by_numpy(outcome, parameters):
    found = largest_correlations(outcome, parameters)
    correlation = outcome.fit.covariance.numpy()
    deviation = np.sqrt(np.diag(correlation))
    correlation = correlation / np.outer(deviation, deviation)
    place = {p.name: p.index for p in parameters}
    for pair in found:
        assert pair["value"] == pytest.approx(correlation[place[pair["first"]], place[pair["second"]]])
    sizes = [abs(pair["value"]) for pair in found]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 20
    block = [p.block for p in parameters]
    pairs = [(i, j) for i in range(len(block)) for j in range(i)]
    upper = sorted(abs(correlation[i, j]) for i, j in pairs if block[i] == "crystal" or block[i] != block[j])
    assert sizes == pytest.approx(upper[::-1][:20])


def test_a_number_without_uncertainty_is_correlated_with_nothing(outcome, parameters):
    covariance = outcome.fit.covariance.clone()
    covariance[0] = covariance[:, 0] = 0.0
    held = replace(outcome, fit=replace(outcome.fit, covariance=covariance))
    pairs = largest_correlations(held, parameters)
    assert all(np.isfinite(pair["value"]) for pair in pairs)
    assert not any(parameters[0].name in (pair["first"], pair["second"]) and pair["value"] for pair in pairs)


def test_displacements_are_the_eigenvalues_of_u_star_times_the_metric():
    """A U* A^T and U* A^T A = U* G have the same eigenvalues."""
    atoms = quartz()
    atoms = replace(atoms, anisotropic=torch.tensor([False, True]))
    atoms.parameters[1, 4:10] = torch.tensor([9e-4, 5e-4, -1e-4, 2e-4, 1e-4, 3e-4], dtype=torch.float64)
    u11, u22, u33, u12, u13, u23 = atoms.parameters[1, 4:10].tolist()
    u_star = np.array([[u11, u12, u13], [u12, u22, u23], [u13, u23, u33]])
    expected = np.linalg.eigvals(u_star @ metric_tensor(atoms.cell).numpy()).real
    silicon, oxygen = displacements(atoms, atoms)
    assert oxygen["smallest"] == pytest.approx(expected.min()) and oxygen["smallest"] < 0.0
    assert oxygen["mean"] == pytest.approx(expected.mean())
    assert silicon["mean"] == silicon["smallest"] == atoms.parameters[0, 3].item()
    assert silicon["moved"] == oxygen["moved"] == 0.0
    assert (oxygen["atom"], oxygen["element"]) == (atoms.labels[1], atoms.elements[1])


def test_atoms_have_moved_by_the_length_of_their_shift():
    """Against the metric tensor: |x|^2 = x G x."""
    start = quartz()
    atoms = replace(start, parameters=start.parameters.clone())
    shift = torch.tensor([0.02, -0.03, 0.01], dtype=torch.float64)
    atoms.parameters[1, :3] += shift
    silicon, oxygen = displacements(atoms, start)
    assert silicon["moved"] == 0.0
    assert oxygen["moved"] == pytest.approx(float(shift @ metric_tensor(start.cell) @ shift) ** 0.5)
