"""What is put together is found again, with zeros about it."""

from __future__ import annotations

import pytest
import torch
from synthetic import BEAM, WAVELENGTH, free_parameters, sweep, triclinic, turned

from dials_hybrid.bloch.batch import together
from dials_hybrid.bloch.beams import cut_segments, reflections_within
from dials_hybrid.bloch.bethe import WeakBeams
from dials_hybrid.bloch.matrix import DifferenceTable, symmetrisation
from dials_hybrid.bloch.propagate import (
    Potential,
    SegmentTask,
    StructureMatrixDerivatives,
    structure_matrix,
)
from dials_hybrid.bloch.scattering import (
    potential_scale,
    structure_factor_derivatives,
    structure_factors,
)

K = 1.0 / WAVELENGTH


class Scene:
    """Segments of 4, 4 and 2 steps, the second without its weak beams."""

    def __init__(self):
        atoms = triclinic()
        steps = sweep(turned(atoms, 0.3, -0.5, 0.2), n=10, width=0.3)
        self.basis = steps.basis
        segments = cut_segments(
            self.basis,
            BEAM.expand(10, 3),
            torch.zeros(10, dtype=torch.long),
            reflections_within(atoms.cell, 0.9),
            wave_number=K,
            sg_max=0.01,
            length=4,
            weak_sg_max=0.03,
        )
        self.table = DifferenceTable.of_beams([s.hkl for s in segments], [s.weak for s in segments])
        self.tasks = [self.task(i, segment) for i, segment in enumerate(segments)]
        scale, jacobian = potential_scale(atoms.cell, WAVELENGTH), free_parameters(atoms, ("x", "occ"))[0]
        u = scale * structure_factors(atoms, self.table.hkl)
        du = scale * structure_factor_derivatives(atoms, self.table.hkl, jacobian)
        self.potential = Potential(u, du)
        self.absorbing = Potential(u * 1.1j + u, du * (0.3 + 1j), absorption=0.002)

    def task(self, i, segment):
        basis, m = self.basis[segment.first : segment.last], 2 + i
        path = 1.0 + 0.1 * i
        factors = path**0.5 * symmetrisation(segment.hkl.double() @ basis[1].T, BEAM, K)
        weak = WeakBeams.of_segment(segment.hkl, segment.weak, self.table, basis, BEAM, factors, K)
        window = torch.rand(m, len(segment), generator=torch.Generator().manual_seed(i)).double()
        pairs, beams = self.table.pairs(segment.hkl, segment.hkl), torch.arange(1, m + 1)
        return SegmentTask(
            segment, pairs, 5 * i + beams, beams, window, factors, None if i == 1 else weak, path
        )

    def matrices(self, potential):
        """Of the batch, then of each segment."""
        batch = together(self.tasks)
        for task in (batch, *self.tasks):
            yield structure_matrix(task, self.basis[task.segment.steps], BEAM, potential, K)[:2]


@pytest.fixture(scope="module")
def scene():
    return Scene()


def test_matrices_are_those_of_the_segments_and_zero_elsewhere(scene):
    for potential in (scene.potential, scene.absorbing):
        (a, d), *single = scene.matrices(potential)
        assert len({len(one) for one, _ in single}) > 1
        for i, (one, diagonal) in enumerate(single):
            (k, n), expected = diagonal.shape, torch.zeros_like(a[i])
            expected[:n, :n] = one
            torch.testing.assert_close(a[i], expected, rtol=1e-13, atol=1e-16)
            torch.testing.assert_close(d[i, :k, :n], diagonal, rtol=1e-13, atol=0)
            assert not d[i, :, n:].real.any()


def test_derivatives_of_matrices_are_those_of_the_segments(scene):
    batch = together(scene.tasks)
    for potential in (scene.potential, scene.absorbing):
        found = StructureMatrixDerivatives(batch, potential, potential.derivatives)[1:4]
        for i, task in enumerate(scene.tasks):
            one = StructureMatrixDerivatives(task, potential, potential.derivatives)[1:4]
            expected, n = torch.zeros_like(found[i]), one.shape[-1]
            expected[:, :n, :n] = one
            torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-16)


def test_contraction_is_the_product_with_the_derivatives(scene):
    batch = together(scene.tasks)
    n = batch.segment.hkl.shape[1]
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(3, 4, n, n, dtype=torch.complex128, generator=generator)
    for potential in (scene.potential, scene.absorbing):
        derivatives = StructureMatrixDerivatives(batch, potential, potential.derivatives)
        expected = 2.0 * torch.einsum("smij,spij->smp", g, derivatives[:]).real
        torch.testing.assert_close(derivatives.contracted(g), expected, rtol=1e-12, atol=1e-12)


def test_observations_that_are_filled_in_have_no_weight(scene):
    batch = together(scene.tasks)
    assert batch.window.shape == (3, 4, 4) and batch.n_segments == 3
    for i, task in enumerate(scene.tasks):
        m, k = task.window.shape
        assert torch.equal(batch.window[i, :m, :k], task.window)
        assert batch.window[i].sum() == task.window.sum()
        assert batch.rows[i].tolist() == [*task.rows.tolist(), *[int(task.rows[-1])] * (4 - m)]
