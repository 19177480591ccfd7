from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import BEAM, double, free_parameters, selected

from dials_hybrid.bloch import eigen
from dials_hybrid.bloch.propagate import Potential, structure_matrix
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.memory import Plan
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.simulation import BeamPolicy, Simulation

THICKNESS = double([80.0, 210.0, 460.0])
POLICY = BeamPolicy(g_max=1.2, sg_max=0.02, segment_length=4)


class Bench:
    """Simulations of a synthetic data set, one call each."""

    def __init__(self, synthetic):
        self.dataset, self.atoms = synthetic.dataset, synthetic.atoms
        self.crystal = Crystal(self.atoms, *free_parameters(self.atoms, ("x", "occ")))
        steps = self.dataset.steps
        self.orientation = Orientation(steps, n_nodes=2, mosaic_spread=0.03, restraint=0.1)
        self.basis = self.orientation.basis(steps).detach()
        m = len(self.dataset.observations)
        self.p = torch.rand(m, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def simulation(self, policy=POLICY, **options):
        return Simulation(self.dataset, self.atoms, self.basis, policy, mean_inner_potential=0.05, **options)

    def potential(self, simulation):
        return self.crystal.potential(simulation.table.hkl, self.dataset.wavelength, False)

    def run(self, simulation, thickness=THICKNESS):
        return simulation.run(self.potential(simulation), self.basis, thickness).intensity

    def differentiate(self, simulation):
        return simulation.differentiate(
            lambda hkl: self.crystal.potential(hkl, self.dataset.wavelength, True),
            self.basis,
            self.orientation.axes,
            self.orientation.design_matrix(),
            THICKNESS,
            self.p,
        )


@pytest.fixture
def bench(synthetic):
    return Bench(synthetic)


@pytest.mark.parametrize("nproc", [2, 3, 8])
def test_processes_change_nothing_but_rounding(bench, nproc):
    """Also when there are more of them than segments."""
    one, several = bench.simulation(), bench.simulation(nproc=nproc)
    assert 1 < len(one.tasks) < 8
    torch.testing.assert_close(bench.run(several), bench.run(one), rtol=1e-13, atol=0)
    expected, found = bench.differentiate(one), bench.differentiate(several)
    for name in ("intensity", "by_structure", "by_orientation"):
        values = getattr(expected, name)[:]
        torch.testing.assert_close(
            getattr(found, name)[:], values, rtol=0, atol=1e-13 * float(values.abs().max())
        )


def test_run_and_differentiate_give_the_same_intensities(bench):
    simulation = bench.simulation()
    found = bench.differentiate(simulation)
    torch.testing.assert_close(found.intensity, bench.run(simulation), rtol=1e-12, atol=0)
    assert found.by_structure.shape == (len(bench.p), len(bench.crystal.shifts))


def test_single_precision(bench):
    double, single = (bench.differentiate(bench.simulation(dtype=t)) for t in (torch.float64, torch.float32))
    for name in ("intensity", "by_structure", "by_orientation"):
        expected, found = getattr(double, name)[:], getattr(single, name)[:]
        assert found.dtype == torch.float64
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_windows_add_up_across_segments(bench, length):
    """With all beams in every segment only M_g, taken at its middle, depends on the cut."""
    policy = BeamPolicy(g_max=0.8, sg_max=1.0, segment_length=3)
    expected = bench.run(bench.simulation(policy))
    found = bench.run(bench.simulation(replace(policy, segment_length=length)))
    assert (found - expected).abs().max() < 2e-4 * expected.max()


def test_intensities_are_linear_in_the_weights_of_the_steps(bench):
    expected = 2.5 * bench.run(bench.simulation())
    steps = replace(bench.dataset.steps, weight=2.5 * bench.dataset.steps.weight)
    bench.dataset = replace(bench.dataset, steps=steps)
    torch.testing.assert_close(bench.run(bench.simulation()), expected)


def test_segments_that_no_observation_needs_are_not_computed(bench):
    whole = bench.run(bench.simulation())
    own = bench.dataset.observations.last <= bench.dataset.observations.last.min()
    n_tasks = len(bench.simulation().tasks)
    bench.dataset = replace(bench.dataset, observations=selected(bench.dataset.observations, own))
    simulation = bench.simulation()
    assert len(simulation.tasks) < n_tasks
    torch.testing.assert_close(bench.run(simulation), whole[own])


def test_only_beams_are_covered(bench):
    h = bench.dataset.observations.hkl.to(torch.float64)
    g = (bench.dataset.steps.basis[0] @ h.T).norm(dim=0)
    g_max = float(g.min() + g.max()) / 2
    short = bench.simulation(BeamPolicy(g_max, sg_max=0.02))
    assert bench.simulation().covered().all()
    assert torch.equal(short.covered(), g < g_max)
    assert torch.equal((bench.run(short) > 0).any(1), g < g_max)


def test_progress_sees_every_segment(bench):
    seen = []

    def progress(iterable, total):
        for item in iterable:
            seen.append(total)
            yield item

    simulation = bench.simulation(progress=progress)
    bench.run(simulation)
    assert seen == [len(simulation.tasks)] * len(simulation.tasks)


def test_thin_crystals_diffract_kinematically(bench):
    """Intensity (pi t |U_g| / K)^2 at every step, however far from the Ewald sphere."""
    simulation = bench.simulation()
    observations, weight, t = bench.dataset.observations, bench.dataset.steps.weight, 0.5
    u = bench.crystal.potential(observations.hkl, bench.dataset.wavelength, derivatives=False).u
    windows = zip(observations.first, observations.last, strict=True)
    width = double([weight[first:last].sum() for first, last in windows])
    expected = width * (u.abs() * torch.pi * t / simulation.wave_number) ** 2
    found = bench.run(simulation, double([t]))[:, 0]
    strong = expected > 1e-2 * expected.max()
    assert strong.sum() > 3
    torch.testing.assert_close(found[strong], expected[strong], rtol=0.02, atol=0)


def test_waves_of_the_zone_axis_are_degenerate(bench):
    """What makes this data set a test of the derivatives at equal eigenvalues."""
    simulation = bench.simulation()
    gaps = []
    for task in simulation.tasks:
        part = slice(task.segment.first, task.segment.last)
        u = bench.potential(simulation).u
        a, diagonal, _ = structure_matrix(task, bench.basis[part], BEAM, Potential(u), simulation.wave_number)
        gaps.append(
            eigen.solve(a + torch.diag_embed(diagonal), simulation.wave_number).eigenvalues.diff().amin(1)
        )
    smallest = torch.cat(gaps) * THICKNESS.max()
    exact = (smallest < 1e-9).nonzero().flatten().tolist()
    assert exact == ([2] if bench.dataset.steps.n_crystals == 1 else [])


def test_a_potential_that_is_not_finite_gives_no_intensities(bench):
    """A trial step to absurd displacement parameters must be seen to fail, not crash."""
    simulation = bench.simulation()
    u = torch.full((len(simulation.table.hkl),), complex("inf"), dtype=torch.complex128)
    sums = simulation.run(Potential(u), bench.basis, THICKNESS)
    assert sums.intensity.isnan().all()


@pytest.mark.parametrize("weak_sg_max", [0.0, 0.04])
@pytest.mark.parametrize("nproc", [1, 2])
def test_a_small_memory_changes_nothing_but_rounding(bench, nproc, weak_sg_max):
    """The Jacobian in files, the derivatives of U_g and of observations in small groups."""
    policy, widths = replace(POLICY, weak_sg_max=weak_sg_max), len(bench.crystal.shifts)
    ample = bench.simulation(policy)
    scarce = bench.simulation(policy, nproc=nproc, n_structure=widths)
    n_entries, n_beams = len(scarce.table.hkl), max(scarce.n_beams)
    scarce.plan = Plan(nproc, workspace=2 * n_beams**2, table=0, in_file=True)
    for scarce.entries in (1, n_entries - 1):
        expected, found = bench.differentiate(ample), bench.differentiate(scarce)
        torch.testing.assert_close(found.intensity, expected.intensity, rtol=1e-12, atol=0)
        for name in ("by_structure", "by_orientation"):
            values = getattr(expected, name)[:]
            atol = 1e-12 * float(values.abs().max())
            torch.testing.assert_close(getattr(found, name)[:], values, rtol=0, atol=atol)
