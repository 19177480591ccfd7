"""A refinement against single images, and one against mirrored ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import SETTINGS, _measured, _run, small_problem
from synthetic import quartz

from dials_hybrid.refine.absolute_structure import other_hand
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.protocol import Protocol
from dials_hybrid.refine.simulate import Counting, Numerics, counted, ideal_intensities
from dials_hybrid.refine.specimen import Specimen, StatedThickness
from dials_hybrid.refine.state import State
from dials_hybrid.rocking.measurement import Measurement, unmirrored

IMAGES = 3  # of each reflection


def by_image(measurement: Measurement) -> Measurement:
    """Each reflection on the images about its centre."""
    run, whole = replace(_run(), by_image=True), measurement.reflections
    middle = np.floor((whole.angle - run.phi_0) / run.width)
    image = np.repeat(middle, IMAGES) + np.tile(np.arange(IMAGES) - IMAGES // 2, len(whole))
    reflections = whole.select(np.repeat(np.arange(len(whole)), IMAGES))
    inside = (image >= 0) & (image < len(run.z) - 1)
    reflections = replace(
        reflections,
        angle=run.angle(image + 0.5),
        half_width=np.full(len(image), 0.5 * abs(run.width)),
    ).select(inside)
    return replace(measurement, runs=(run,), reflections=reflections)


@pytest.mark.parametrize("mosaic_points", [1, 5])
def test_windows_are_images(mosaic_points):
    measurement = by_image(small_problem().inputs.measurement)
    dataset = measurement.dataset(0.07, mosaic_points)
    steps, seen = dataset.steps, dataset.observations
    length = (seen.last - seen.first).tolist()
    assert set(length) == {length[0]} and length[0] % mosaic_points == 0
    assert float(steps.weight[0]) * length[0] == pytest.approx(1.0)
    edges = steps.angle[seen.first] - steps.weight[0] / 2.0
    torch.testing.assert_close(edges, seen.angle - 0.5, rtol=0, atol=1e-9)


def test_whole_reflections_are_compared_with_the_kinematical_model():
    measurement = by_image(small_problem().inputs.measurement)
    hkl, intensity, _ = measurement.comparable(0)
    whole = small_problem().inputs.measurement.reflections
    assert len(hkl) == len(whole)
    own = measurement.reflections
    expected = own.intensity[own.row == own.row[0]].sum()
    place = int(np.flatnonzero(whole.row == own.row[0])[0])
    lever = measurement.runs[0].lever(own.select(own.row == own.row[0]))[0]
    assert intensity[np.argsort(np.argsort(whole.row))[place]] == pytest.approx(expected * lever)


def test_rocking_curves_refine():
    """A coordinate that starts 0.004 off comes back, within its uncertainty."""
    inputs = small_problem().inputs
    images = replace(inputs, measurement=_measured(by_image(inputs.measurement)))
    outcome = Protocol(images, replace(SETTINGS, max_cycles=4)).run()
    found, true = outcome.hybrid.crystal.atoms().parameters, quartz().parameters
    uncertainty = dict(zip(inputs.names, outcome.fit.covariance.diagonal().sqrt().tolist(), strict=False))
    for name, su in uncertainty.items():
        if name[-1] in "xyz":
            place = int(name[name.index(".") - 1]), "xyz".index(name[-1])
            assert abs(found[place] - true[place]) < 4.0 * su < 0.008, name
    assert len(outcome.hybrid.dataset.observations) > 2 * len(inputs.measurement.reflections)
    assert outcome.fit.goodness_of_fit == pytest.approx(1.0, abs=0.2)


def mosaic_images() -> Measurement:
    """Images of half a degree of a crystal with a mosaic spread of 0.1 degree in both directions, counted."""
    run = replace(_run(), by_image=True, blurred=True)
    run = replace(run, z=2.0 * run.z, width=0.5 * run.width)
    whole = small_problem().inputs.measurement.reflections
    middle = np.floor((whole.angle - run.phi_0) / run.width)
    image = (middle[:, None] + np.arange(-2, 3)).ravel()
    reflections = replace(
        whole.select(np.repeat(np.arange(len(whole)), 5)),
        angle=run.angle(image + 0.5),
        half_width=np.full(len(image), 0.25),
    )
    images = replace(small_problem().inputs.measurement, runs=(run,), reflections=reflections)
    specimen = Specimen(StatedThickness("flat", 250.0), mosaic_spread=0.1)
    numerics = Numerics(SETTINGS.g_max, SETTINGS.sg_max, 0.02, 15, 40)
    expected, _ = ideal_intensities(images, quartz(), specimen, numerics)
    counts = 3e4 * expected / expected.max()
    measured = counted(counts, np.full(len(counts), 20.0), Counting(), np.random.default_rng(0))
    return replace(images, reflections=replace(reflections, intensity=measured[0], sigma=measured[1]))


def test_the_mosaic_spread_in_both_directions_comes_back():
    """With that across the rotation axis alone, the fit is worse and says less about it."""
    images = mosaic_images()
    settings = replace(SETTINGS, mosaic_points=5, mosaic_spread=0.04, max_cycles=5, rocking_step=0.05)
    spread, su, fit = {}, {}, {}
    for name, measured in {"both": images, "across": images.without_blur()}.items():
        outcome = Protocol(replace(small_problem().inputs, measurement=measured), settings).run()
        place = outcome.hybrid.slices()["orientation"].stop - 1
        spread[name] = abs(outcome.hybrid.orientation.mosaic.item())
        su[name] = float(outcome.fit.covariance[place, place].sqrt())
        fit[name] = outcome.fit.goodness_of_fit
    print(f"\nspread {spread}, s.u. {su}, GoF {fit}")
    assert abs(spread["both"] - 0.1) < 4.0 * su["both"] < 0.02
    assert fit["both"] == pytest.approx(1.0, abs=0.15)
    assert fit["across"] > 1.5 * fit["both"] and su["across"] > 2.0 * su["both"]


def intensities(inputs):
    builder = Builder(inputs, SETTINGS, lambda steps, total: steps)
    start = State("scan", None, (600.0, 24), "flat", [[250.0]])
    return builder.hybrid(builder.dataset(600.0, 1), start).evaluate().intensity


def test_in_mirrored_images_the_other_hand_looks_as_this_one():
    inputs = small_problem().inputs
    mirrored = replace(inputs, measurement=unmirrored(inputs.measurement))
    assert np.array_equal(mirrored.measurement.reflections.hkl, -inputs.measurement.reflections.hkl)
    found, expected = intensities(other_hand(mirrored)), intensities(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    assert (intensities(mirrored) / expected - 1.0).abs().max() > 0.05
