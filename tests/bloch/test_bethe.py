"""Bethe's potentials against the calculation that holds the weak beams in the structure matrix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import (
    BEAM,
    ROTATION_AXIS,
    WAVELENGTH,
    central_differences,
    double,
    free_parameters,
    largest_error,
    sweep,
    triclinic,
    turned,
)

from dials_hybrid.bloch.beams import cut_segments, reflections_within
from dials_hybrid.bloch.bethe import WeakBeams
from dials_hybrid.bloch.geometry import excitation_errors, tilt_axes
from dials_hybrid.bloch.matrix import DifferenceTable, symmetrisation
from dials_hybrid.bloch.propagate import (
    Potential,
    SegmentTask,
    segment_derivatives,
    segment_intensities,
    structure_matrix,
)
from dials_hybrid.bloch.scattering import (
    potential_scale,
    structure_factor_derivatives,
    structure_factors,
)

K = 1 / WAVELENGTH
STEPS = 3
THICKNESS = double([90.0, 240.0, 500.0])
ATOMS = triclinic()
BASIS = sweep(turned(ATOMS, 0.3, -0.5, 0.2), n=STEPS, width=0.05).basis
OBSERVED = 4


def prepared(sg_max: float, weak_sg_max: float = 0.0):
    """The table and the task of a segment whose observations are the `OBSERVED` beams closest to S_g = 0."""
    (segment,) = cut_segments(
        BASIS,
        BEAM.expand(STEPS, 3),
        torch.zeros(STEPS, dtype=torch.long),
        reflections_within(ATOMS.cell, 1.2),
        wave_number=K,
        sg_max=sg_max,
        length=STEPS,
        weak_sg_max=weak_sg_max,
    )
    r = torch.einsum("kij,nj->kni", BASIS, segment.hkl.double())
    nearest = excitation_errors(r, BEAM, K).abs().amax(0)
    table = DifferenceTable.of_beams([segment.hkl], [segment.weak])
    m = symmetrisation(r[STEPS // 2], BEAM, K)
    window = torch.full((OBSERVED, STEPS), 0.1, dtype=torch.float64)
    beams = nearest[1:].argsort()[:OBSERVED] + 1
    task = SegmentTask(
        segment, table.pairs(segment.hkl, segment.hkl), torch.arange(OBSERVED), beams, window, m
    )
    if len(segment.weak):
        arguments = segment.hkl, segment.weak, table, BASIS, BEAM, m, K
        task = replace(task, weak=WeakBeams.of_segment(*arguments))
    return table, task


def potential(table, parameters=None):
    return Potential(
        potential_scale(ATOMS.cell, WAVELENGTH) * structure_factors(ATOMS, table.hkl, parameters)
    )


def sums(table, task, parameters=None):
    return segment_intensities(task, BASIS, BEAM, potential(table, parameters), THICKNESS, K).intensity


def test_the_weak_beams_are_those_between_the_two_limits():
    _, task = prepared(0.01, 0.02)
    strong = {tuple(h) for h in prepared(0.01)[1].segment.hkl.tolist()}
    both = {tuple(h) for h in prepared(0.02)[1].segment.hkl.tolist()}
    weak = {tuple(h) for h in task.segment.weak.tolist()}
    assert weak == both - strong and len(weak) > 5
    assert {tuple(h) for h in task.segment.hkl.tolist()} == strong


def test_weak_beams_by_perturbation_are_nearer_to_the_whole_than_none():
    whole, bare, bethe = (sums(*prepared(*limits)) for limits in ((0.04,), (0.01,), (0.01, 0.04)))
    error = [float((part - whole).abs().sum() / whole.sum()) for part in (bare, bethe)]
    assert error[1] < 0.35 * error[0]
    assert error[0] > 1e-3


@pytest.mark.parametrize("forward", [True, False])
def test_derivatives_by_structure(forward):
    """Few parameters go through forward mode, many through adjoints."""
    table, task = prepared(0.01, 0.03)
    jacobian, _ = free_parameters(ATOMS, ("x",) if forward else ("x", "y", "z", "uiso", "occ"))
    jacobian = jacobian[:1] if forward else jacobian.repeat(4, 1)
    scale = potential_scale(ATOMS.cell, WAVELENGTH)
    du = scale * structure_factor_derivatives(ATOMS, table.hkl, jacobian)
    p = torch.rand(OBSERVED, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = tilt_axes(BEAM, ROTATION_AXIS).expand(STEPS, 2, 3)
    made = replace(potential(table), derivatives=du)
    found = segment_derivatives(task, BASIS, BEAM, axes, made, THICKNESS, p, K, 2**20).by_structure

    def average(shifts):
        parameters = ATOMS.parameters + (jacobian.T @ shifts).reshape(-1, 11)
        return (p * sums(table, task, parameters)).sum(1)

    x = torch.zeros(len(jacobian), dtype=torch.float64)
    assert largest_error(found, central_differences(average, x, 1e-4)) < 1e-7


def test_what_is_added_is_what_elimination_of_the_weak_beams_gives():
    """From the blocks of the matrix of all beams; M_w of the weak ones is in both, and in neither."""
    table, task = prepared(0.01, 0.03)
    whole_table, whole = prepared(0.03)
    a, diagonal, _ = structure_matrix(whole, BASIS, BEAM, potential(whole_table), K)
    position = {tuple(h): i for i, h in enumerate(whole.segment.hkl.tolist())}
    strong, weak = (
        [position[tuple(h)] for h in hkl.tolist()] for hkl in (task.segment.hkl, task.segment.weak)
    )
    back, there = a[strong][:, weak], a[weak][:, strong]
    expected = -(back * (1.0 / diagonal[:, weak]).mean(0)) @ there
    assert largest_error(task.weak.correction(potential(table).u), expected) < 1e-9


@pytest.mark.parametrize("hermitian", [True, False])
def test_derivatives_of_what_is_added(hermitian):
    """It is quadratic in U: central differences are exact. With absorption U has no symmetry."""
    table, task = prepared(0.01, 0.04)
    assert len(task.segment.weak) > len(task.segment.hkl)  # more than are taken at a time
    u, *du = torch.randn(
        4, len(table.hkl), generator=torch.Generator().manual_seed(3), dtype=torch.complex128
    )
    if hermitian:
        opposite = (table.hkl[:, None] == -table.hkl).all(-1).long().argmax(1)
        u, *du = (x + x[opposite].conj() for x in (u, *du))
    du = torch.stack(du)
    expected = [(task.weak.correction(u + d) - task.weak.correction(u - d)) / 2.0 for d in du]
    found = task.weak.correction_derivatives(u, du, hermitian=hermitian)
    assert largest_error(found, torch.stack(expected)) < 1e-9
