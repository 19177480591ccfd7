from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from synthetic import steps_of

from scitbx.array_family import flex

from dials.command_line.frame_orientations import extract_experiment_data
from dxtbx.model import BeamFactory, Crystal, Experiment, ExperimentList, Goniometer, ScanFactory
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid.bloch.geometry import tilt_axes
from dials_hybrid.io.experiments import (
    check_experiment,
    read_sweep,
    refined_experiments,
)

N_IMAGES = 8


def turn(x, y, z):
    """Rotation matrix of a rotation vector [degree]."""
    return Rotation.from_rotvec([x, y, z], degrees=True).as_matrix()


def flat(matrix):
    return tuple(np.ravel(matrix))


def make_experiment(*, axis=(1, 0, 0), width=0.7, varying=(), wavelength=0.0251) -> Experiment:
    """A triclinic crystal on a goniometer with both fixed and setting rotation.

    Args:
        varying: which of "crystal", "beam" and "goniometer" vary during the scan.
    """
    points = np.linspace(0.0, 1.0, N_IMAGES + 1)
    crystal = Crystal((4.3, 0, 0), (-1.3, 4.7, 0), (-0.6, 0.9, 5.1), "P1")
    crystal.set_U(flat(turn(20, -35, 50)))
    a = np.reshape(crystal.get_A(), (3, 3))
    if "crystal" in varying:  # turns and swells
        crystal.set_A_at_scan_points(
            [flat(turn(0.3 * s, 0.2 * s**2, -0.4 * s) @ a * (1 + 0.004 * s)) for s in points]
        )
    beam = BeamFactory.make_beam(sample_to_source=(0.002, -0.001, 1.0), wavelength=wavelength)
    if "beam" in varying:
        s0 = np.array(beam.get_s0())
        beam.set_s0_at_scan_points(flex.vec3_double([turn(0.004 * s, 0.01 * s, 0.0) @ s0 for s in points]))
    goniometer = Goniometer(axis, flat(turn(3, 10, -7)), flat(turn(-2, 0.5, 12)))
    if "goniometer" in varying:
        settings = [flat(turn(0.1 * s, 0, 0.05) @ turn(-2, 0.5, 12)) for s in points]
        goniometer.set_setting_rotation_at_scan_points(flex.mat3_double(settings))
    scan = ScanFactory.make_scan((11, 10 + N_IMAGES), 0.1, (-5.0, width), list(range(N_IMAGES)))
    return Experiment(beam=beam, goniometer=goniometer, scan=scan, crystal=crystal)


def frames(experiment):
    """Reciprocal bases (n, 3, 3) and zone axes (n, 3) at the centres of the images, by DIALS."""
    data = extract_experiment_data(experiment)
    direct = np.array([[tuple(axis) for axis in axes] for axes in data["real_space_axes"]])
    zone_axes = np.array([tuple(axis) for axis in data["zone_axes"]])
    return np.linalg.inv(direct), zone_axes


def centres(sweep):
    return 0.5 * (sweep.z[1:] + sweep.z[:-1])


def transposed(matrices):
    return matrices.transpose(0, 2, 1)


@pytest.fixture(scope="module")
def quartz(quartz_dials):
    return ExperimentListFactory.from_json_file(str(quartz_dials / "integrated.expt"), check_format=False)[0]


# ------------------------------------------------------------------------------- orientations


def check_against_dials(experiment):
    bases, _ = frames(experiment)
    sweep = read_sweep(experiment)
    np.testing.assert_allclose(sweep.basis(centres(sweep)), bases, rtol=0, atol=1e-9)


def test_frame_orientations_of_quartz(quartz):
    assert quartz.crystal.num_scan_points == 101
    check_against_dials(quartz)


@pytest.mark.parametrize("varying", [(), ("crystal",), ("goniometer",), ("crystal", "goniometer")])
@pytest.mark.parametrize("axis", [(1, 0, 0), (-1, 0, 0), (0.6, -0.8, 0)])
def test_frame_orientations(varying, axis):
    check_against_dials(make_experiment(varying=varying, axis=axis))


# Where everything turns at once, interpolations differ in the second order of an image's turn.
@pytest.mark.parametrize("varying", [("beam",), ("beam", "crystal", "goniometer")])
def test_wandering_beam_is_turned_back_together_with_the_crystal(varying):
    """What diffraction depends on, the beam in the crystal, stays what it is."""
    experiment = make_experiment(varying=varying)
    bases, zone_axes = frames(experiment)
    sweep = read_sweep(experiment)
    found = transposed(sweep.basis(centres(sweep)))
    np.testing.assert_allclose(found @ sweep.beam, zone_axes, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found @ transposed(found), transposed(bases) @ bases, rtol=0, atol=1e-12)
    assert np.abs(found - transposed(bases)).max() > 1e-6


@pytest.mark.parametrize("varying", [(), ("beam", "crystal", "goniometer")])
def test_orientations_at_scan_points_by_the_formula(varying):
    experiment = make_experiment(varying=varying)
    sweep = read_sweep(experiment)
    goniometer, crystal, beam = experiment.goniometer, experiment.crystal, experiment.beam
    for i, basis in enumerate(sweep.basis(sweep.z)):
        setting, a, s0 = goniometer.get_setting_rotation(), crystal.get_A(), beam.get_s0()
        if varying:
            setting = goniometer.get_setting_rotation_at_scan_point(i)
            a, s0 = crystal.get_A_at_scan_point(i), beam.get_s0_at_scan_point(i)
        setting, fixed, a = (np.reshape(m, (3, 3)) for m in (setting, goniometer.get_fixed_rotation(), a))
        phi = -5.0 + 0.7 * i
        expected = (setting @ turn(phi, 0, 0) @ fixed @ a).T @ s0 / np.linalg.norm(s0)
        np.testing.assert_allclose(basis.T @ sweep.beam, expected, rtol=0, atol=1e-12)


def test_angles_are_those_of_the_scan(quartz):
    sweep = read_sweep(quartz)
    for z in (0.0, 12.5, 100.0):
        assert sweep.angle(z) == pytest.approx(quartz.scan.get_angle_from_array_index(z), abs=1e-9)
    shifted = read_sweep(make_experiment())
    assert shifted.angle(shifted.z[[0, -1]]).tolist() == pytest.approx([-5.0, -5.0 + 0.7 * N_IMAGES])


def test_rotation_axis_and_beam_are_unit_vectors_of_the_laboratory():
    sweep = read_sweep(make_experiment())
    np.testing.assert_allclose(sweep.rotation_axis, turn(-2, 0.5, 12) @ [1, 0, 0], atol=1e-12)
    expected = np.array([-0.002, 0.001, -1.0])
    np.testing.assert_allclose(sweep.beam, expected / np.linalg.norm(expected), atol=1e-12)


# ------------------------------------------------------------------------- refined experiments


# The tilt is one about the mean beam: it and the beam's way there do not quite commute.
@pytest.mark.parametrize(
    "varying, tolerance", [((), 1e-9), (("crystal", "goniometer"), 1e-9), (("crystal", "beam"), 1e-7)]
)
def test_refined_orientations_are_read_back(varying, tolerance):
    """A constant tilt of 0.2 degrees and one that varies."""
    experiments = ExperimentList([make_experiment(varying=varying)])
    sweep = read_sweep(experiments[0])
    steps = steps_of([sweep], 0.05)
    axis = tilt_axes(steps.beam, steps.rotation_axis)[0, 0]
    constant = torch.full((len(steps),), math.radians(0.2), dtype=torch.float64)
    for tilts in (constant, torch.deg2rad(0.05 * (steps.angle + 1.0))):
        refined = refined_experiments(experiments, steps, axis.expand(len(steps), 3), tilts)
        found = read_sweep(refined[0])
        inner = slice(1, -1)  # no step lies at the first or the last scan point
        z = sweep.z[inner]
        tilt = np.interp(sweep.angle(z), steps.angle, tilts)
        turns = Rotation.from_rotvec(tilt[:, None] * axis.numpy()).as_matrix()
        np.testing.assert_allclose(found.basis(z), turns @ sweep.basis(z), rtol=0, atol=tolerance)


def test_refined_experiments_are_copies_with_the_same_cell(quartz):
    experiments = ExperimentList([quartz])
    before = quartz.crystal.get_A_at_scan_point(3)
    steps = steps_of([read_sweep(quartz)], 0.5)
    axes = tilt_axes(steps.beam, steps.rotation_axis)[:, 0].expand(len(steps), 3)
    (refined,) = refined_experiments(experiments, steps, axes, torch.full((len(steps),), 0.01))
    assert quartz.crystal.get_A_at_scan_point(3) == before
    assert refined.identifier == quartz.identifier
    assert refined.crystal.num_scan_points == 101
    cells = [e.crystal.get_unit_cell_at_scan_point(50).parameters() for e in (refined, quartz)]
    np.testing.assert_allclose(*cells, rtol=1e-9)


def test_each_crystal_takes_its_own_tilts():
    experiments = ExperimentList([make_experiment(), make_experiment(axis=(0, 1, 0))])
    sweeps = [read_sweep(experiment) for experiment in experiments]
    steps = steps_of(sweeps, 0.1)
    axes = tilt_axes(steps.beam, steps.rotation_axis)[:, 0][steps.crystal]
    tilts = torch.where(steps.crystal == 1, 0.01, 0.0)
    refined = refined_experiments(experiments, steps, axes, tilts)
    for i, angle in enumerate((0.0, 0.01)):
        turned = Rotation.from_rotvec(angle * axes[-1 if i else 0].numpy()).as_matrix()
        z = sweeps[i].z
        np.testing.assert_allclose(read_sweep(refined[i]).basis(z), turned @ sweeps[i].basis(z), atol=1e-9)


def test_refined_experiments_share_what_they_shared():
    """And those given are left as they were."""
    one = make_experiment()
    other = copy.copy(one)
    other.crystal = copy.deepcopy(one.crystal)
    experiments = ExperimentList([one, other])
    steps = steps_of([read_sweep(experiment) for experiment in experiments], 0.1)
    axes = tilt_axes(steps.beam, steps.rotation_axis)[:, 0][steps.crystal]
    before = one.crystal.get_A()
    refined = refined_experiments(experiments, steps, axes, torch.full((len(steps),), 0.01))
    for name in ("beams", "detectors", "goniometers", "scans"):
        assert len(getattr(refined, name)()) == len(getattr(experiments, name)()) == 1
    assert one.crystal.get_A() == before and one.crystal.num_scan_points == 0
    assert refined[0].crystal is not refined[1].crystal


# --------------------------------------------------------------------------------- bad input


def without(part):
    experiment = make_experiment()
    setattr(experiment, part, None)
    return experiment


def still():
    experiment = make_experiment()
    experiment.scan.set_oscillation((0.0, 0.0))
    return experiment


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: make_experiment(wavelength=0.9795), "wavelength of 0.9795 A.*electron"),
        (lambda: without("crystal"), "no crystal"),
        (lambda: without("beam"), "no beam"),
        (lambda: without("scan"), "still"),
        (lambda: without("goniometer"), "still"),
        (still, "zero rotation"),
    ],
)
def test_unusable_experiments_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=f"experiment 3.*{message}") as error:
        check_experiment(build(), "experiment 3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wavelength", [0.0197, 0.0251, 0.0370])
def test_electron_sweeps_pass(wavelength):
    check_experiment(make_experiment(wavelength=wavelength, varying=("crystal", "beam")), "experiment 0")
