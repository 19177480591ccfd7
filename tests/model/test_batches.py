"""Segments that are propagated together give what they give one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import double, free_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from dials_hybrid.bloch import chebyshev, waves
from dials_hybrid.bloch.propagate import Potential
from dials_hybrid.model.batches import batched
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.simulation import BeamPolicy, Simulation

THICKNESS = double([80.0, 210.0, 460.0])
POLICY = BeamPolicy(g_max=1.0, sg_max=0.015, segment_length=3, weak_sg_max=0.04)
SUMS = ("intensity", "by_structure", "by_orientation")


class Bench:
    """Sums and their derivatives of a synthetic data set."""

    def __init__(self, synthetic, *, real=False, absorption=0.0, inclined=False):
        self.dataset, self.atoms, self.real = synthetic.dataset, synthetic.atoms, real
        self.crystal = Crystal(self.atoms, *free_parameters(self.atoms, ("x", "uiso", "occ")), absorption)
        steps = self.dataset.steps
        self.orientation = Orientation(steps, n_nodes=2, mosaic_spread=0.03, restraint=0.1)
        self.basis = self.orientation.basis(steps).detach()
        generator = torch.Generator().manual_seed(0)
        self.p = torch.rand(len(self.dataset.observations), 3, generator=generator, dtype=torch.float64)
        self.normals = None
        if inclined:  # by another angle in each step
            n = steps.beam[steps.crystal] + 0.5 * torch.rand(len(steps), 3, generator=generator).double()
            self.normals = n / n.norm(dim=1, keepdim=True)

    def simulation(self, policy=POLICY, **options):
        options = dict(mean_inner_potential=0.05, normals=self.normals, n_thickness=3) | options
        return Simulation(self.dataset, self.atoms, self.basis, policy, **options)

    def potential(self, hkl, derivatives=True):
        made = self.crystal.potential(hkl, self.dataset.wavelength, derivatives)
        if not self.real:
            return made
        du = made.derivatives
        return Potential(made.u.real.contiguous(), None if du is None else du.real)

    def run(self, simulation):
        return simulation.run(self.potential(simulation.table.hkl, False), self.basis, THICKNESS).intensity

    def differentiate(self, simulation, structure=True):
        return simulation.differentiate(
            lambda hkl: self.potential(hkl, structure),
            self.basis,
            self.orientation.axes,
            self.orientation.design_matrix(),
            THICKNESS,
            self.p,
        )


CASES = {
    "complex": {},
    "real": {"real": True},
    "absorption": {"absorption": 1.0},
    "inclined": {"inclined": True},
    "inclined and absorption": {"inclined": True, "absorption": 1.0},
}


@pytest.fixture(params=CASES)
def bench(request, synthetic):
    return Bench(synthetic, **CASES[request.param])


@pytest.fixture(params=["chebyshev adjoint", "chebyshev forward"])
def algorithm(request, monkeypatch):
    """What all derivatives are made by, of single segments too."""
    monkeypatch.setattr(waves._Cost, "least", lambda *_: request.param)
    monkeypatch.setattr(waves, "fastest", lambda *_: "chebyshev")
    return request.param


def assert_same(found, expected, tolerance):
    for name in SUMS:
        one, other = getattr(found, name)[:], getattr(expected, name)[:]
        assert (one - other).abs().max() < tolerance * other.abs().max(), name


@pytest.mark.parametrize("policy", [POLICY, replace(POLICY, weak_sg_max=0.0)], ids=["weak", "strong"])
def test_intensities_are_those_of_single_segments(bench, policy):
    """Of which some are diagonalised."""
    one = bench.simulation(policy)
    expected = bench.run(one)
    for most in (2, 3, 100):
        several = bench.simulation(policy, batch=most)
        sizes = [task.n_segments for task in several.shares[0]]
        assert 1 < max(sizes) <= most and sum(sizes) == len(one.tasks)
        assert (bench.run(several) - expected).abs().max() < 1e-12 * expected.max()


def test_segments_of_a_batch_are_of_unequal_size(bench):
    """Or the tests above would show little."""
    tasks = bench.simulation().tasks
    seen = {(len(task.segment.hkl), len(task.segment), len(task.rows)) for task in tasks}
    beams, steps, observations = (len(set(sizes)) for sizes in zip(*seen, strict=True))
    assert steps > 1
    assert min(beams, observations) > 1 or bench.dataset.steps.n_crystals == 1
    paths = {round(task.path, 6) for task in tasks}
    assert len(paths) == (1 if bench.normals is None else len(tasks))


def test_derivatives_are_those_of_single_segments(bench, algorithm):
    expected = bench.differentiate(bench.simulation())
    assert expected.by_structure[:].abs().max() > 0
    for most in (2, 100):
        assert_same(bench.differentiate(bench.simulation(batch=most)), expected, 1e-12)


def test_tilts_without_structure(synthetic):
    bench = Bench(synthetic)
    one, several = (bench.differentiate(bench.simulation(batch=n), structure=False) for n in (1, 100))
    assert several.by_structure is None
    values = one.by_orientation[:]
    assert (several.by_orientation[:] - values).abs().max() < 1e-12 * values.abs().max()


def test_single_precision(bench, algorithm):
    one, several = (bench.differentiate(bench.simulation(dtype=torch.float32, batch=n)) for n in (1, 100))
    assert_same(several, one, 1e-5)


@pytest.mark.parametrize("workspace", [1, 2000, 2**15])
def test_a_small_workspace_changes_nothing_but_rounding(monkeypatch, bench, algorithm, workspace):
    """Observations in small groups, vectors made again, derivatives of U_g in parts, sums of equal ones."""
    simulation = bench.simulation(batch=100)
    expected = bench.differentiate(simulation)
    monkeypatch.setattr(chebyshev, "_KEPT", 0)
    simulation.plan = replace(simulation.plan, workspace=workspace)
    simulation.entries = len(simulation.table.hkl) - 1
    assert_same(bench.differentiate(simulation), expected, 1e-12)


class Syncs(TorchDispatchMode):
    """Counts what a GPU would have to be waited for, and what else is done."""

    def __init__(self):
        super().__init__()
        self.waited = self.done = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "unique", "masked_select")
        self.waited += any(name in str(function) for name in waits)
        self.done += not function.is_view
        return function(*args, **kwargs or {})


def test_a_gpu_is_waited_for_once_in_a_while(monkeypatch, synthetic, algorithm):
    """For each batch, but neither for each segment nor for each degree."""
    bench, usual = Bench(synthetic), THICKNESS

    def count(most, thickness, work):
        monkeypatch.setitem(globals(), "THICKNESS", thickness)
        simulation = bench.simulation(batch=most)
        work(simulation)  # what is made once
        with Syncs() as counts:
            work(simulation)
        return len(simulation.shares[0]), counts

    for work in (bench.run, bench.differentiate):
        n_batches, few = count(100, usual, work)
        assert n_batches == synthetic.dataset.steps.n_crystals
        _, longer = count(100, 8.0 * usual, work)
        assert longer.done > few.done + 100
        assert longer.waited == few.waited <= 4 + 12 * n_batches
        n_segments, many = count(1, usual, work)
        assert few.done < 1.5 * many.done * n_batches / n_segments


@pytest.mark.parametrize("workspace", [1, 10**5, 10**9])
def test_a_batch_has_segments_of_one_crystal_and_room(synthetic, workspace):
    bench = Bench(synthetic)
    tasks = bench.simulation().tasks
    batches = batched(tasks, 3, len(THICKNESS), workspace)
    assert sum(batch.n_segments for batch in batches) == len(tasks)
    largest = max(batch.n_segments for batch in batches)
    assert largest == (1 if workspace == 1 else min(3, len(tasks)))
    for batch in batches:
        (s, n, _), k, m = batch.segment.hkl.shape, len(batch.segment), batch.rows.shape[1]
        assert s == 1 or s * m * n * max(n, chebyshev.RING * k) <= workspace
        assert set(bench.dataset.observations.crystal[batch.rows].flatten().tolist()) == {
            batch.segment.crystal
        }
    n_beams = [batch.segment.hkl.shape[1] for batch in batches if batch.segment.crystal == 0]
    assert n_beams == sorted(n_beams, reverse=True)
