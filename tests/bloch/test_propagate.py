from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from synthetic import (
    BEAM,
    ROTATION_AXIS,
    WAVELENGTH,
    central_differences,
    double,
    fourfold,
    free_parameters,
    largest_error,
    sweep,
    triclinic,
    turned,
)

from dials_hybrid.bloch.absorption import (
    absorption_scale,
    absorptive_structure_factor_derivatives,
    absorptive_structure_factors,
)
from dials_hybrid.bloch.beams import cut_segments, reflections_within
from dials_hybrid.bloch.geometry import excitation_errors, rotation_matrix, tilt_axes
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
STEPS = 5
THICKNESS = double([90.0, 240.0, 500.0])
CASES = {"general": (triclinic, (0.3, -0.5, 0.2)), "zone_axis": (fourfold, (0.0, 0.0, 0.0))}


class Scene:
    """A segment whose middle step has the orientation of the case, and four of its beams observed."""

    def __init__(self, crystal, rotation):
        self.atoms = crystal()
        self.basis = sweep(turned(self.atoms, *rotation), n=STEPS, width=0.1).basis
        candidates = reflections_within(self.atoms.cell, 0.9)
        (segment,) = cut_segments(
            self.basis,
            BEAM.expand(STEPS, 3),
            torch.zeros(STEPS, dtype=torch.long),
            candidates,
            wave_number=K,
            sg_max=0.01,
            length=STEPS,
        )
        self.table = DifferenceTable.of_beams([segment.hkl])
        generator = torch.Generator().manual_seed(0)
        window, p = (torch.rand(4, n, generator=generator, dtype=torch.float64) for n in (STEPS, 3))
        beams = torch.tensor([1, 4, 2, 4])
        pairs = self.table.pairs(segment.hkl, segment.hkl)
        m = symmetrisation(segment.hkl.to(torch.float64) @ self.basis[STEPS // 2].T, BEAM, K)
        self.task = SegmentTask(segment, pairs, torch.arange(4), beams, window * (window > 0.2), m)
        self.p = p
        turns = sweep(torch.eye(3, dtype=torch.float64), n=STEPS, width=20.0).basis
        self.axes = tilt_axes(BEAM, ROTATION_AXIS) @ turns
        self.jacobian, _ = free_parameters(self.atoms, ("x", "uiso", "occ"))

    def potential(self, shifts=None):
        """U, with derivatives; without them after `shifts` of the parameters."""
        scale = potential_scale(self.atoms.cell, WAVELENGTH)
        if shifts is not None:
            table = self.atoms.parameters + (self.jacobian.T @ shifts).reshape(-1, 11)
            return Potential(scale * structure_factors(self.atoms, self.table.hkl, table))
        u = structure_factors(self.atoms, self.table.hkl)
        du = structure_factor_derivatives(self.atoms, self.table.hkl, self.jacobian)
        return Potential(scale * u, scale * du)

    def tilted(self, angles):
        """The basis after turns of every step by `angles` (STEPS, 2) [radian]."""
        return rotation_matrix(torch.einsum("ka,kai->ki", angles, self.axes)) @ self.basis

    def sums(self, basis=None, potential=None):
        basis = self.basis if basis is None else basis
        potential = self.potential() if potential is None else potential
        return segment_intensities(self.task, basis, BEAM, potential, THICKNESS, K).intensity

    def derivatives(self, workspace=2**22):
        return segment_derivatives(
            self.task, self.basis, BEAM, self.axes, self.potential(), THICKNESS, self.p, K, workspace
        )


@pytest.fixture(params=CASES)
def scene(request):
    return Scene(*CASES[request.param])


def test_diagonal_holds_the_excitation_errors_of_each_step(scene):
    a, diagonal, r = structure_matrix(scene.task, scene.basis, BEAM, scene.potential(), K)
    m = symmetrisation(r[STEPS // 2], BEAM, K)
    torch.testing.assert_close(scene.task.symmetrisation, m, rtol=1e-15, atol=0)
    expected = 2 * K * m**2 * excitation_errors(r, BEAM, K)
    torch.testing.assert_close(diagonal, expected, rtol=0, atol=1e-13)
    assert (a - a.mH).abs().max() < 1e-15
    assert not torch.diagonal(a).any()


def test_sums_are_those_of_a_plain_loop(scene):
    task = scene.task
    a, diagonal, _ = structure_matrix(task, scene.basis, BEAM, scene.potential(), K)
    a = a + torch.diag_embed(diagonal)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for k in range(STEPS):
        for j, t in enumerate(THICKNESS):
            psi = torch.linalg.matrix_exp(1j * math.pi * t / K * a[k])[:, 0]
            for i, beam in enumerate(task.beams):
                expected[i, j] += task.window[i, k] * psi[beam].abs() ** 2
    torch.testing.assert_close(scene.sums(), expected, rtol=0, atol=1e-12)
    assert expected.max() > 1e-3


def test_intensities_are_the_same_with_and_without_derivatives(scene):
    torch.testing.assert_close(scene.derivatives().intensity, scene.sums(), rtol=1e-12, atol=0)


def test_derivatives_by_structure(scene):
    def average(shifts):
        return (scene.p * scene.sums(potential=scene.potential(shifts))).sum(1)

    x = torch.zeros(len(scene.jacobian), dtype=torch.float64)
    assert largest_error(scene.derivatives().by_structure, central_differences(average, x, 1e-4)) < 1e-8


def test_derivatives_by_tilt_of_each_step(scene):
    def average(angles):
        return (scene.p * scene.sums(scene.tilted(angles.reshape(STEPS, 2)))).sum(1)

    x = torch.zeros(2 * STEPS, dtype=torch.float64)
    found = scene.derivatives().by_tilt.flatten(1)
    assert largest_error(found, central_differences(average, x, 1e-6)) < 1e-6


@pytest.mark.parametrize("workspace", [1, 2**12, 2**24])
def test_chunks_change_nothing(scene, workspace):
    whole, parts = scene.derivatives(), scene.derivatives(workspace)
    for name in ("intensity", "by_structure", "by_tilt"):
        one, other = getattr(whole, name), getattr(parts, name)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13 * float(one.abs().max()))


def test_structure_derivatives_may_be_left_out(scene):
    potential = Potential(scene.potential().u)
    derivatives = partial(segment_derivatives, scene.task, scene.basis, BEAM, scene.axes)
    found = derivatives(potential, THICKNESS, scene.p, K, 2**22)
    assert found.by_structure is None
    torch.testing.assert_close(found.by_tilt, scene.derivatives().by_tilt)


def test_derivatives_with_absorption(scene):
    def potential(shifts=None):
        elastic = scene.potential(shifts)
        parameters = scene.atoms.parameters
        if shifts is not None:
            parameters = parameters + (scene.jacobian.T @ shifts).reshape(-1, 11)
        origin = torch.zeros(1, 3, dtype=torch.long)
        hkl = torch.cat([origin, scene.table.hkl])
        scale = 20.0 * absorption_scale(scene.atoms.cell, WAVELENGTH)  # so that it matters
        loss = scale * absorptive_structure_factors(scene.atoms, hkl, parameters)
        made = Potential(elastic.u + 1j * loss[1:], absorption=float(loss[0].real))
        if shifts is not None:
            return made
        d_loss = scale * absorptive_structure_factor_derivatives(scene.atoms, hkl, scene.jacobian)
        return replace(
            made,
            derivatives=elastic.derivatives + 1j * d_loss[:, 1:],
            absorption_derivatives=d_loss[:, 0].real,
        )

    def average(shifts):
        return (scene.p * scene.sums(potential=potential(shifts))).sum(1)

    rest = scene.basis, BEAM, scene.axes, potential(), THICKNESS, scene.p, K, 2**20
    found = segment_derivatives(scene.task, *rest)
    x = torch.zeros(len(scene.jacobian), dtype=torch.float64)
    assert largest_error(found.by_structure, central_differences(average, x, 1e-4)) < 1e-7
    elastic = (scene.p * scene.sums()).sum(1)
    assert (average(x) / elastic - 1.0).abs().min() > 0.003
