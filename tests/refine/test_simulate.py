"""Simulated measurements: their statistics, and that a refinement gets the truth back from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import ndtri
from simulated import SETTINGS, quartz_crystal, simulate, triclinic_crystal, true_model
from synthetic import BEAM, ROTATION_AXIS, WAVELENGTH, quartz, turned, upright

from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Flat, Normal, Wedge
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.protocol import Protocol
from dials_hybrid.refine.simulate import (
    Counting,
    Numerics,
    convergence,
    counted,
    ideal_intensities,
    simulate_observations,
)
from dials_hybrid.refine.specimen import Misorientation, Specimen, StatedThickness
from dials_hybrid.rocking.measurement import Measurement, Reflections
from dials_hybrid.rocking.sweep import Sweep

GRID = ThicknessGrid(600.0, 24)


@pytest.fixture(scope="module")
def hybrid():
    return true_model(quartz_crystal().scan, Flat(GRID, 200.0), step=0.3, brightest=1e4)


@pytest.mark.parametrize("gain", [1.0, 8.0])
def test_counting_statistics(hybrid, gain):
    """100 measurements of each reflection: mean, variance, and sigma an honest estimate of it."""
    background = 60.0
    expected = hybrid.evaluate().intensity.numpy()
    under = np.full_like(expected, background)
    runs = [counted(expected, under, Counting(gain=gain), np.random.default_rng(seed)) for seed in range(100)]
    i, sigma = (np.stack(values) for values in zip(*runs, strict=True))
    variance = gain * (expected + background)
    assert (np.abs((i - expected).mean(0)) < 5.0 * np.sqrt(variance / 100)).all()
    assert float((i.var(0) / variance).mean()) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose((sigma**2).mean(0), variance, rtol=0.2)
    assert (i < 0.0).any()


def test_nothing_but_intensity_and_sigma_changes(hybrid):
    found, before = simulate_observations(hybrid, seed=0), hybrid.dataset.observations
    assert replace(found, intensity=before.intensity, sigma=before.sigma) == before
    assert (found.sigma >= 1.0).all()


def test_seed_decides(hybrid):
    first, again, other = (simulate_observations(hybrid, seed=s).intensity for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


TRUTH = {"wedge": Wedge(GRID, 400.0), "flat": Flat(GRID, 200.0)}  # mean thickness 200 A


def recover(crystal, model: str, seed: int, **settings):
    """Errors in s.u.s of the coordinates and of the displacement parameters, and the mean thickness.

    The refinement starts 0.1 A away, with equal and isotropic displacement parameters.
    """
    measured = simulate(crystal.scan, TRUTH[model], seed=seed)
    inputs = crystal.inputs(measured, crystal.displaced(0.1, seed))
    outcome = Protocol(inputs, replace(SETTINGS, thickness_model=model, **settings)).run()
    part = outcome.hybrid.slices()["crystal"]
    uncertainty = torch.diagonal(outcome.fit.covariance)[part].sqrt()
    ratio = crystal.errors(outcome.hybrid.crystal.atoms()) / uncertainty
    thickness = outcome.hybrid.mean_thickness(outcome.fit.evaluation)
    return ratio[crystal.sites], ratio[~crystal.sites], thickness, outcome.fit.goodness_of_fit


CASES = {
    "quartz, wedge": (quartz_crystal, "wedge", {}),
    "quartz, flat": (quartz_crystal, "flat", {}),
    "quartz, wedge, default weights": (quartz_crystal, "wedge", {"instability": 0.01, "outlier_cutoff": 3.0}),
    "P1, wedge": (triclinic_crystal, "wedge", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_truth_is_recovered(case):
    """Gaussian errors of the right size have a mean of 0.8 s.u.

    In P1 the errors of all coordinates go together: one measurement in three may be 3 s.u. off.
    """
    crystal, model, settings = CASES[case]
    results = [recover(crystal(), model, seed, **settings) for seed in range(3)]
    sites, others = (torch.cat([result[i] for result in results]).abs() for i in (0, 1))
    thickness, goodness_of_fit = ([result[i] for result in results] for i in (2, 3))
    print(
        f"\n{case}: coordinates {sites.mean():.2f} s.u., at most {sites.max():.2f}; "
        f"U {others.mean():.2f}, {others.max():.2f}; thickness {thickness}; GoF {goodness_of_fit}"
    )
    assert (sites < 4.0).all()
    assert 0.5 < sites.mean() < 1.5
    assert (others < 3.5).all()
    assert 0.5 < others.mean() < 1.5
    assert thickness == pytest.approx([200.0] * 3, rel=0.05)
    assert goodness_of_fit == pytest.approx([1.0 if "default" not in case else 0.8] * 3, abs=0.2)


def test_a_narrow_normal_distribution_is_recovered():
    """Its width, 80 A, is hardly more than two nodes of the grid; at first it wants to be zero."""
    crystal = quartz_crystal()
    measured = simulate(crystal.scan, Normal(GRID, 220.0, 80.0), background=50.0, seed=100)
    inputs = crystal.inputs(measured, crystal.displaced(0.1, seed=1100))
    outcome = Protocol(inputs, replace(SETTINGS, thickness_model="normal")).run()
    assert outcome.fit.goodness_of_fit < 1.2
    assert outcome.hybrid.thickness[0].mean.item() == pytest.approx(220.0, rel=0.1)
    assert outcome.hybrid.thickness[0].width.item() == pytest.approx(80.0, rel=0.25)


# ------------------------------------------------------------------- the simulator's own calculation


@pytest.fixture(scope="module")
def measurement():
    """Reflections of quartz in a rotation by 12 degrees about ROTATION_AXIS."""
    scan = replace(quartz_crystal().scan, half_range=6.0, d_min=1.0)
    z = np.arange(13.0)
    turns = Rotation.from_rotvec(np.radians(z - 6.0)[:, None] * ROTATION_AXIS.numpy()).as_matrix()
    b = upright(scan.atoms).numpy()
    u = turned(scan.atoms, *scan.orientation).numpy() @ np.linalg.inv(b)
    sweep = Sweep(turns @ u, np.tile(b, (13, 1, 1)), z, BEAM.numpy(), ROTATION_AXIS.numpy(), -6.0, 1.0)
    observations = scan.dataset(0.05, 1).observations
    m = len(observations)
    half = observations.last - observations.first
    reflections = Reflections(
        hkl=observations.hkl.numpy(),
        intensity=np.ones(m),
        sigma=np.ones(m),
        run=np.zeros(m, dtype=np.int64),
        angle=observations.angle.numpy(),
        half_width=0.5 * 0.05 * half.numpy(),
        row=np.arange(m),
        frame=np.full(m, -1),
        share=np.ones(m),
    )
    return Measurement((sweep,), reflections, WAVELENGTH, m)


FINE = Numerics(g_max=1.4, sg_max=0.02, rocking_step=0.01, mosaic_points=1, nodes=60)


def r_of_f(found, expected) -> float:
    return float(np.abs(np.sqrt(found) - np.sqrt(expected)).sum() / np.sqrt(expected).sum())


@pytest.mark.parametrize(
    ("stated", "model"),
    [
        (StatedThickness("flat", 310.0), Flat(GRID, 310.0)),
        (StatedThickness("wedge", 250.0), Wedge(GRID, 500.0)),
        (StatedThickness("normal", 250.0, 80.0), Normal(GRID, 250.0, 80.0)),
    ],
    ids=lambda model: getattr(model, "model", None),
)
def test_agrees_with_the_model_that_is_refined(measurement, stated, model):
    """Two ways from nodes to averages: one polynomial here, splines on a grid there."""
    found, tail = ideal_intensities(measurement, quartz(), Specimen(stated), FINE, dtype=torch.float64)
    dataset = measurement.dataset(FINE.rocking_step, 1)
    refined = Hybrid(
        dataset,
        Crystal(quartz(), torch.zeros(0, 22, dtype=torch.float64), ()),
        Orientation(dataset.steps, n_nodes=1, mosaic_spread=None, restraint=0.1),
        [model],
        Scale(dataset.observations, 1, 1),
        BeamPolicy(FINE.g_max, FINE.sg_max, 16),
    )
    assert len(found) > 20
    assert r_of_f(found, refined.evaluate().intensity.numpy()) < 2e-3
    assert tail < 1e-4


def test_thickness_follows_the_scan_angle(measurement):
    """Each reflection of a changing plate is that of the constant plate with its thickness there."""
    law = StatedThickness("flat", 250.0, change="linear", amplitude=0.3)
    changing, _ = ideal_intensities(measurement, quartz(), Specimen(law), FINE)
    for i in np.argsort(measurement.reflections.angle)[[0, 10, -1]]:
        t = 250.0 * (1.0 + 0.3 * measurement.reflections.angle[i] / 6.0)
        one = replace(measurement, reflections=measurement.reflections.select(np.array([i])))
        constant, _ = ideal_intensities(one, quartz(), Specimen(StatedThickness("flat", t)), FINE)
        assert changing[i] == pytest.approx(constant[0], rel=1e-3)


def test_a_constant_misorientation_is_another_crystal(measurement):
    """A tilt stated for the specimen against the same tilt built into the sweep."""
    law = StatedThickness("wedge", 250.0)
    tilted, _ = ideal_intensities(measurement, quartz(), Specimen(law, Misorientation(0.3)), FINE)
    sweep = measurement.runs[0]
    across = np.cross(sweep.beam, sweep.rotation_axis)
    turn = Rotation.from_rotvec(np.radians(0.3) * across / np.linalg.norm(across)).as_matrix()
    other = replace(measurement, runs=(replace(sweep, rotations=turn @ sweep.rotations),))
    expected, _ = ideal_intensities(other, quartz(), Specimen(law), FINE)
    straight, _ = ideal_intensities(measurement, quartz(), Specimen(law), FINE)
    assert r_of_f(tilted, expected) < 1e-5 < 0.01 < r_of_f(straight, expected)


def test_mosaicity_is_the_average_over_misorientations(measurement):
    law, spread = StatedThickness("flat", 400.0), 0.2
    coarse = replace(FINE, sg_max=0.01)

    def calculated(specimen, numerics):
        return ideal_intensities(measurement, quartz(), specimen, numerics)[0]

    mosaic = calculated(
        Specimen(law, mosaic_spread=spread), replace(coarse, mosaic_points=15, rocking_step=0.003)
    )
    quantiles = ndtri((np.arange(15) + 0.5) / 15)
    average = np.mean(
        [calculated(Specimen(law, Misorientation(spread * q)), coarse) for q in quantiles], axis=0
    )
    perfect = calculated(Specimen(law), coarse)
    assert r_of_f(mosaic, average) < 0.3 * r_of_f(perfect, average)


def test_mosaicity_about_the_axis_is_the_average_over_turned_crystals(measurement):
    """Windows on the flank of a curve, blurred, against sharp ones of crystals turned about the axis."""
    law, spread = StatedThickness("flat", 400.0), 0.15
    (sweep,), own = measurement.runs, measurement.reflections
    flank = np.round(own.angle + 0.6, 2)  # sharp windows end with a step
    own = replace(own, angle=flank, half_width=np.full(len(own), 0.4)).select(np.abs(own.angle) < 4.0)
    single = replace(measurement, reflections=own)
    numerics = replace(FINE, sg_max=0.03)

    def calculated(sweep, spread=0.0):
        specimen = Specimen(law, mosaic_spread=spread)
        return ideal_intensities(replace(single, runs=(sweep,)), quartz(), specimen, numerics)[0]

    turn, weight = np.polynomial.hermite_e.hermegauss(12)
    turns = Rotation.from_rotvec(np.radians(spread * turn)[:, None] * sweep.rotation_axis).as_matrix()
    average = np.average(
        [calculated(replace(sweep, rotations=turn @ sweep.rotations)) for turn in turns],
        axis=0,
        weights=weight,
    )
    blurred, sharp = calculated(replace(sweep, blurred=True), spread), calculated(sweep)
    assert r_of_f(blurred, average) < 0.002 < 0.02 < r_of_f(sharp, average)


def test_convergence_says_what_coarser_numerics_change(measurement):
    specimen = Specimen(StatedThickness("normal", 250.0, 80.0))
    found = convergence(measurement, quartz(), specimen, FINE, part=1.0)
    reference, _ = ideal_intensities(measurement, quartz(), specimen, FINE)
    half, _ = ideal_intensities(measurement, quartz(), specimen, replace(FINE, sg_max=0.01))
    assert set(found) == {"g_max", "sg_max", "rocking_step", "nodes"}
    assert found["sg_max"] == pytest.approx(r_of_f(half, reference))
    assert found["nodes"] < 1e-4


def test_without_noise_the_expected_counts_come_back():
    expected, background = np.array([0.0, 3.0, 1e4]), np.array([50.0, 50.0, 50.0])
    intensity, sigma = counted(
        expected, background, Counting(gain=2.0, noise=False), np.random.default_rng(0)
    )
    np.testing.assert_allclose(intensity, expected)
    np.testing.assert_allclose(sigma**2, 2.0 * (expected + background))
