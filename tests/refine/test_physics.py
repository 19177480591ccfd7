from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import SETTINGS, small_problem

from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.physics import effects
from dials_hybrid.refine.protocol import Protocol

OPTIONS = replace(
    SETTINGS, max_cycles=1, absorption=1.0, absorption_restraint=0.5, form_factors="lobato", mosaic_points=3
)


@pytest.fixture(scope="module")
def outcome():
    return Protocol(small_problem().inputs, OPTIONS).run()


def test_each_option_in_use_is_left_out_in_turn(outcome):
    as_refined, *without = effects(small_problem().inputs, OPTIONS, outcome)
    assert as_refined.without == ""
    names = ["mosaicity", "absorption", "form factors by Lobato & Van Dyck"]
    assert [each.without for each in without] == names
    assert all(each.r1_obs != as_refined.r1_obs and each.seconds > 0.0 for each in without)


def test_mosaicity_about_the_rotation_axis_is_left_out_alone():
    inputs, settings = small_problem().inputs, replace(SETTINGS, max_cycles=1, mosaic_points=3)
    runs = tuple(replace(run, blurred=True) for run in inputs.measurement.runs)
    narrow = replace(
        inputs.measurement.reflections, half_width=np.full(len(inputs.measurement.reflections), 0.3)
    )
    inputs = replace(inputs, measurement=replace(inputs.measurement, runs=runs, reflections=narrow))
    outcome = Protocol(inputs, settings).run()
    as_refined, across, about = effects(inputs, settings, outcome)
    assert (across.without, about.without) == ("mosaicity", "mosaicity about the rotation axis")
    assert len({each.r1_obs for each in (as_refined, across, about)}) == 3
    assert "mosaicity about the rotation axis" not in {
        each.without for each in effects(inputs, replace(settings, mosaic_points=1, absorption=1.0), outcome)
    }


def test_as_refined_is_the_outcome_but_for_precision_and_scale(outcome):
    as_refined = effects(small_problem().inputs, OPTIONS, outcome)[0]
    assert as_refined.r1_obs == pytest.approx(outcome.state.history[-1].r1_obs, abs=2e-3)


def test_nothing_to_say_without_options():
    problem = small_problem()
    assert effects(problem.inputs, problem.settings, None) == []


def test_the_refined_absorption_factor_has_an_uncertainty(outcome):
    place = outcome.hybrid.structure.stop
    su = float(outcome.fit.covariance[place, place].sqrt())
    assert 0.0 < su < 0.7  # the prior's is 0.5 times the goodness of fit
    assert outcome.hybrid.crystal.absorption != 1.0


def test_the_structure_of_an_inclined_plate_comes_back_with_its_surface():
    """Made with a surface 40 degree off the beam, it is fitted worse by one across the beam."""
    problem = small_problem()
    inputs, slanted = problem.inputs, replace(SETTINGS, surface=((1.0, -0.4, 0.3),), max_cycles=3)
    builder = Builder(inputs, slanted, lambda tasks, total: tasks)
    assert builder._longest_way > 1.05
    start = Protocol(inputs, slanted).run()
    made = start.fit.evaluation.intensity.numpy()
    reflections = replace(inputs.measurement.reflections, intensity=made)
    measured = replace(inputs, measurement=replace(inputs.measurement, reflections=reflections))
    upright = replace(slanted, surface=None)
    right, wrong = (Protocol(measured, settings).run() for settings in (slanted, upright))
    assert right.state.history[-1].r1_obs < 0.2 * wrong.state.history[-1].r1_obs
    parameters = [outcome.hybrid.crystal.atoms().parameters for outcome in (start, right)]
    torch.testing.assert_close(*parameters, rtol=0, atol=2e-4)
