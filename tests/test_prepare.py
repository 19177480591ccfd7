"""Defaults that follow from the data, and data that cannot do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("dials.array_family.flex")

import torch
from pets_files import PetsFile
from problems import small_problem

import libtbx.phil

from dials_hybrid.io.pets import read_pets
from dials_hybrid.phil import phil_scope
from dials_hybrid.prepare import (
    _chosen_frames,
    _d_min,
    check_amount,
    check_experiments,
    measured_frames,
    resolve_settings,
)

FRAMES = SimpleNamespace(filename="some.cif_pets", names=("1", "2", "3", "7", "10"))


def parameters(*changes):
    return phil_scope.fetch(libtbx.phil.parse("\n".join(changes))).extract()


@pytest.fixture(scope="module")
def sample():
    """30 degrees of a scan, with reflections up to |g| = 1/A."""
    return small_problem().inputs.measurement.dataset(0.1, 1)


def test_auto_follows_from_the_data(sample):
    settings = resolve_settings(parameters("nproc=1"), sample)
    assert settings.g_max == 1.8  # the least
    assert (settings.tilt_nodes, settings.scale_nodes) == (3, 2)  # 1 + 30 / 20 and 30 / 12.5, rounded
    assert settings.thickness_model == "auto"
    nothing = ("rocking_step", "thickness_maximum", "gain", "floor")
    assert [getattr(settings, name) for name in nothing] == [None] * 4  # left to later, when more is known


def test_g_max_reaches_beyond_the_data(sample):
    finer = replace(sample, steps=replace(sample.steps, basis=3.0 * sample.steps.basis))
    middle = (sample.observations.first + sample.observations.last) // 2
    g = np.einsum("mij,mj->mi", finer.steps.basis[middle].numpy(), sample.observations.hkl.numpy())
    expected = 1.1 * np.linalg.norm(g, axis=1).max()
    assert expected > 1.8
    assert resolve_settings(parameters("nproc=1"), finer).g_max == pytest.approx(expected)


def test_what_is_given_is_taken(sample):
    given = parameters(
        "nproc=1", "beams.g_max=1.3", "scale.nodes=5", "orientation.tilt_nodes=4", "refinement.gain=2"
    )
    settings = resolve_settings(given, sample)
    assert (settings.g_max, settings.scale_nodes, settings.tilt_nodes, settings.gain) == (1.3, 5, 4, 2.0)


@pytest.mark.parametrize(
    ("changes", "d_min"),
    [
        ([], None),
        (["data.d_min=0.8"], 0.8),
        (["beams.g_max=1"], 1.0),
        (["data.d_min=0.8", "beams.g_max=1"], 1.0),
    ],
)
def test_no_observation_is_beyond_the_beams(changes, d_min):
    assert _d_min(parameters(*changes)) == d_min


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (["1-3"], {"1", "2", "3"}),
        (["1,", "7"], {"1", "7"}),
        (["2,5-7"], {"2", "7"}),
        (["9-10"], {"10"}),
        (["3-1000000000000"], {"3", "7", "10"}),
    ],
)
def test_numbers_and_ranges_of_frames(chosen, found):
    assert _chosen_frames(chosen, FRAMES) & set(FRAMES.names) == found


def test_all_frames():
    assert _chosen_frames(None, FRAMES) is None


def test_frames_that_are_not_there():
    with pytest.raises(
        ValueError, match="some.cif_pets has no frame of data.frames=20-30, but those from 1 to 10"
    ):
        _chosen_frames(["20-30"], FRAMES)


def test_enough_to_refine_against(sample):
    n = len(sample.observations)
    check_amount(sample, n - 1)
    with pytest.raises(ValueError, match=f"{n} observations cannot determine the {n} parameters"):
        check_amount(sample, n)


def test_rows_of_one_measurement_count_once(sample):
    shared = replace(sample.observations, share=torch.full_like(sample.observations.share, 0.25))
    with pytest.raises(ValueError, match="observations cannot determine"):
        check_amount(replace(sample, observations=shared), len(shared) // 2)


def test_wavelengths_must_agree():
    from simulated_experiments import experiments, quartz_structure

    two = experiments()
    other = experiments(identifier="other")
    other[0].beam.set_wavelength(0.0197)
    two.extend(other)
    with pytest.raises(ValueError, match="different wavelengths"):
        check_experiments(two, quartz_structure())


@pytest.mark.parametrize(
    ("frames", "rows", "left"),
    [
        ("1,3", None, [0, 2]),
        ("1-3", None, [0, 1, 2]),
        (
            None,
            [row for row in PetsFile().reflections() if row[-1] != "2"],
            [0, 2],
        ),  # lists nothing of frame 2
    ],
)
def test_frames_without_reflections_have_no_steps_and_no_tilts(tmp_path, frames, rows, left):
    (tmp_path / "made.cif_pets").write_text(PetsFile(rows=rows).text())
    params = parameters(f"data.frames={frames}", "data.rsg=0.9")
    dataset = measured_frames(read_pets(tmp_path / "made.cif_pets"), params).dataset(0.1, 1)
    assert dataset.steps.frames()[:, 1].tolist() == left
    assert set(dataset.observations.frame.tolist()) == set(left)


def test_a_measurement_has_one_window_whichever_frame_lists_it(tmp_path):
    """Whole rocking curves, as far to both sides; in frames alone the window is that of the frame."""
    (tmp_path / "made.cif_pets").write_text(PetsFile().text())
    data = read_pets(tmp_path / "made.cif_pets")
    for window, together in (("curve", True), ("frame", False)):
        text = f"data.frame_window={window}", "data.rsg=0.9", "orientation.mosaic_directions=across"
        measurement = measured_frames(data, parameters(*text))
        made, dataset = measurement.reflections, measurement.dataset(0.01, 1)
        keys = [tuple(h) for h in made.hkl.tolist()]
        pairs = [
            (i, j)
            for i in range(len(made))
            for j in range(i)
            if keys[i] == keys[j] and {made.frame[i], made.frame[j]} == {0, 1}
        ]
        assert len(pairs) > 3
        # the frames are turned by 0.15 degree against each other, which moves what lies near the axis
        lever = measurement.runs[0].lever(made)
        first, last = dataset.observations.first, dataset.observations.last
        apart = [abs(int(first[i] - first[j])) for i, j in pairs if lever[i] > 0.2]
        assert (max(apart) < 60) == together
        half = 0.5 * (dataset.steps.angle[last - 1] - dataset.steps.angle[first]).numpy()
        expected = made.half_width
        assert (abs(half - expected) < 0.05).mean() > 0.5 and (half < expected + 0.05).all()
