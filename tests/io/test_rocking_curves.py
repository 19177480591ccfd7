"""Rocking curves in the form that DIALS 3.30 gives them: items of a column with lists of numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("dials.array_family.flex")

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid.io.experiments import read_sweep
from dials_hybrid.io.reflections import output_table
from dials_hybrid.io.rocking_curves import read_rocking_curves, rocking_curves

LIMITS = {"min_zeta": 0.05, "d_min": None, "d_max": None}


def item(frames, intensity, variance, valid, width=1.0):
    """What DIALS calls a FrameSlicedShoebox; `phi` is the scan angle in the middle of the image [radian]."""
    return SimpleNamespace(
        frames=flex.int(list(frames)),
        phi=flex.double([math.radians(width * (frame - 0.5)) for frame in frames]),
        summation_intensity=flex.double(list(intensity)),
        summation_intensity_variance=flex.double(list(variance)),
        summation_intensity_valid=flex.bool(list(valid)),
    )


@pytest.fixture(scope="module")
def sweep(quartz_dials):
    path = str(quartz_dials / "integrated.expt")
    return read_sweep(ExperimentListFactory.from_json_file(path, check_format=False)[0])


@pytest.fixture
def table(quartz_dials):
    return flex.reflection_table.from_file(str(quartz_dials / "integrated.refl"))


def test_curves_are_put_one_after_the_other():
    column = [
        item([11, 12, 13], [1.0, 4.5, 0.0], [2.0, 6.0, 0.0], [True, True, False]),
        item([], [], [], []),
        item([1, 2], [6.0, -0.5], [12.0, 0.0], [True, True]),
    ]
    curves = rocking_curves(column)
    assert curves.row.tolist() == [0, 0, 0, 2, 2]
    assert curves.image.tolist() == [11, 12, 13, 1, 2]
    assert curves.intensity.tolist() == [1.0, 4.5, 0.0, 6.0, -0.5]
    assert curves.variance.tolist() == [2.0, 6.0, 0.0, 12.0, 2.0]  # the last had none
    assert curves.valid.tolist() == [True, True, False, True, True]


def shared_out(table, rng):
    """Curves of a table: the images of the box of each reflection, every seventh image not valid."""
    column = []
    for row, box in enumerate(table["bbox"]):
        n = box[5] - box[4]
        part = rng.random(n)
        total, variance = table["intensity.sum.value"][row], table["intensity.sum.variance"][row]
        valid = [(row + i) % 7 != 0 for i in range(n)]
        column.append(item(range(box[4] + 1, box[5] + 1), part * total, part * (abs(variance) + 1.0), valid))
    return column


def test_every_valid_image_is_an_observation(table, sweep):
    column = shared_out(table, np.random.default_rng(0))
    found, rows = read_rocking_curves(table, [sweep], rocking_curves(column), **LIMITS)
    n = sum(len(each.frames) for each in column)
    assert len(found) + sum(rows.counts.values()) == n
    assert rows.counts["not integrated"] > n // 10
    np.testing.assert_allclose(found.half_width, abs(sweep.width) / 2.0)
    image = (found.angle - sweep.phi_0) / sweep.width + 0.5
    for k in range(0, len(found), 97):
        row = int(found.row[k])
        place = list(column[row].frames).index(round(image[k]))
        assert image[k] == pytest.approx(round(image[k]))
        assert found.angle[k] == pytest.approx(math.degrees(column[row].phi[place]) + sweep.phi_0, abs=1e-6)
        assert tuple(found.hkl[k]) == table["miller_index"][row]
        assert found.intensity[k] == column[row].summation_intensity[place]
        assert found.sigma[k] ** 2 == pytest.approx(column[row].summation_intensity_variance[place])
        assert column[row].summation_intensity_valid[place]


def test_reflections_without_a_curve_are_counted(table, sweep):
    column = shared_out(table, np.random.default_rng(0))
    for row in range(5):
        column[row] = item([], [], [], [])
    _, rows = read_rocking_curves(table, [sweep], rocking_curves(column), **LIMITS)
    assert rows.counts["without a rocking curve"] == 5


def test_a_table_without_curves_says_how_to_get_them(table, sweep):
    with pytest.raises(ValueError, match="no rocking curves.*frame_slice_shoeboxes=True"):
        read_rocking_curves(table, [sweep], **LIMITS)


def test_the_images_of_a_row_are_written_as_their_sum(table):
    found = output_table(table, np.array([4, 4, 9]), np.array([1.5, 2.0, 3.0]), np.array([0.2, 0.2, 0.3]))
    assert (found["intensity.dyn.value"][4], found["intensity.dyn.value"][9]) == (3.5, 3.0)
    assert (found["intensity.dyn.scale"][4], found["intensity.dyn.scale"][9]) == (0.2, 0.3)
    assert found.get_flags(found.flags.used_in_refinement).count(True) == 2
