"""Simulated measurements: their statistics, and that a refinement gets the truth back from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from simulated import SETTINGS, quartz_crystal, simulate, triclinic_crystal, true_model

from dials_hybrid.model.thickness import Flat, Normal, ThicknessGrid, Wedge
from dials_hybrid.refine.protocol import Protocol
from dials_hybrid.refine.simulate import simulate_observations

GRID = ThicknessGrid(600.0, 24)


@pytest.fixture(scope="module")
def hybrid():
    return true_model(quartz_crystal().scan, Flat(GRID, 200.0), step=0.3, brightest=1e4)


@pytest.mark.parametrize("gain", [1.0, 8.0])
def test_counting_statistics(hybrid, gain):
    """100 measurements of each reflection: mean, variance, and sigma an honest estimate of it."""
    background = 60.0
    expected = hybrid.evaluate().intensity
    runs = [simulate_observations(hybrid, background=background, gain=gain, seed=s) for s in range(100)]
    i, sigma = (torch.stack([getattr(run, name) for run in runs]) for name in ("intensity", "sigma"))
    variance = gain * (expected + background)
    assert ((i - expected).mean(0).abs() < 5.0 * (variance / 100).sqrt()).all()
    assert float((i.var(0) / variance).mean()) == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close((sigma**2).mean(0), variance, rtol=0.2, atol=0)
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

    Robust weights make s.u.s 8 % too small (Cauchy's weights lower chi^2 more than the information).
    """
    crystal, model, settings = CASES[case]
    results = [recover(crystal(), model, seed, **settings) for seed in range(3)]
    sites, others = (torch.cat([result[i] for result in results]).abs() for i in (0, 1))
    thickness, goodness_of_fit = ([result[i] for result in results] for i in (2, 3))
    print(
        f"\n{case}: coordinates {sites.mean():.2f} s.u., at most {sites.max():.2f}; "
        f"U {others.mean():.2f}, {others.max():.2f}; thickness {thickness}; GoF {goodness_of_fit}"
    )
    assert (sites < 3.0).all()
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
