from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import steps_of

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.io.experiments import read_sweep
from dials_hybrid.io.reflections import (
    combine_tables,
    intensities,
    output_table,
    read_reflections,
)
from dials_hybrid.rocking.measurement import Measurement

STEP = 0.1
SPOILT = 30  # a row that is used
CHOICES = {
    "column": "profile",
    "half_width": [0.6],
    "min_partiality": 0.99,
    "min_zeta": 0.05,
    "d_min": None,
    "d_max": None,
}


@pytest.fixture(scope="module")
def experiment(quartz_dials):
    return ExperimentListFactory.from_json_file(str(quartz_dials / "integrated.expt"), check_format=False)[0]


@pytest.fixture(scope="module")
def sweep(experiment):
    return read_sweep(experiment)


@pytest.fixture(scope="module")
def original(quartz_dials):
    return flex.reflection_table.from_file(str(quartz_dials / "integrated.refl"))


@pytest.fixture
def table(original):
    return original.copy()


@pytest.fixture
def read(sweep):
    def read(table, sweeps=None, **choices):
        sweeps = [sweep] if sweeps is None else sweeps
        reflections, rows = read_reflections(table, sweeps, **CHOICES | choices)
        measurement = Measurement(tuple(sweeps), reflections, 0.025, len(table))
        return measurement.dataset(STEP, 1).observations, rows

    return read


def numpy(table, name):
    return table[name].as_numpy_array()


def flagged(table, name):
    return table.get_flags(getattr(table.flags, name)).as_numpy_array()


# --------------------------------------------------------------------------- every row counts


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"column": "sum"},
        {"min_partiality": 0.5, "min_zeta": 0.3},
        {"d_min": 0.8, "d_max": 3.0},
    ],
)
def test_every_row_is_an_observation_or_counted(table, read, choices):
    observations, rows = read(table, **choices)
    assert len(observations) + sum(rows.counts.values()) == len(table)
    assert observations.row.tolist() == np.flatnonzero(rows.kept).tolist()
    assert all(count > 0 for count in rows.counts.values())


def test_fully_recorded_reflections_of_quartz(table, read):
    observations, rows = read(table, min_zeta=0.0)
    full = (numpy(table, "partiality") >= 0.99) & (numpy(table, "intensity.sum.variance") > 0)
    assert len(observations) == (full & flagged(table, "integrated_sum")).sum() > 1400


def test_observations_are_what_the_table_says(table, read):
    observations, _ = read(table, column="sum")
    row = observations.row.numpy()
    hkl = table["miller_index"].as_vec3_double().as_numpy_array()
    np.testing.assert_array_equal(observations.hkl, hkl[row])
    np.testing.assert_array_equal(observations.intensity, numpy(table, "intensity.sum.value")[row])
    np.testing.assert_allclose(observations.sigma**2, numpy(table, "intensity.sum.variance")[row])
    assert (observations.intensity < 0).any()
    assert not observations.free.any()


def put(name, value):
    """Function that spoils a table in place."""

    def spoil(table):
        column = table[name]
        column[SPOILT] = value
        table[name] = column

    return spoil


def move(z):
    return put("xyzcal.px", (0.0, 0.0, z))


def flag(name):
    return lambda table: table.set_flags(flex.size_t([SPOILT]), getattr(table.flags, name))


unindex = put("miller_index", (0, 0, 0))


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (unindex, "not indexed"),
        (put("id", -1), "of no experiment"),
        (put("id", 1), "of no experiment"),
        (put("intensity.sum.value", float("nan")), "not a number"),
        (move(float("nan")), "not a number"),
        (put("intensity.sum.variance", 0.0), "not integrated"),
        (put("intensity.sum.variance", -1.0), "not integrated"),
        (flag("dont_integrate"), "dont_integrate"),
        (flag("overloaded"), "overloaded"),
        (flag("user_excluded_in_scaling"), "user_excluded_in_scaling"),
        (put("partiality", 0.3), "partially recorded"),
        (put("zeta", -0.01), "too close to the rotation axis"),
        (move(150.0), "outside the scan"),
        (move(-20.0), "outside the scan"),
    ],
)
def test_a_spoilt_row_is_left_out_with_its_reason(table, read, spoil, reason):
    before, rows_before = read(table, column="sum")
    assert SPOILT in before.row
    spoil(table)
    after, rows = read(table, column="sum")
    assert set(before.row.tolist()) - set(after.row.tolist()) == {SPOILT}
    gained = [key for key in rows.counts if rows.counts[key] == rows_before.counts.get(key, 0) + 1]
    assert len(gained) == 1 and reason in gained[0]


def test_outliers_of_scaling_are_observations(table, read):
    """Equivalents disagree where diffraction is dynamical."""
    before, _ = read(table)
    flag("outlier_in_scaling")(table)
    after, _ = read(table)
    assert SPOILT in after.row and torch.equal(after.row, before.row)


def test_resolution_limits_do_not_need_a_column(table, read):
    """Crystals of a DIALS table have one d each; here it follows the cell along the scan."""
    limits = {"d_min": 0.8, "d_max": 3.0}
    expected, _ = read(table, **limits)
    del table["d"]
    found, rows = read(table, **limits)
    assert rows.counts["beyond d_min"] > 0 and rows.counts["beyond d_max"] > 0
    assert len(set(found.row.tolist()) ^ set(expected.row.tolist())) <= 0.005 * len(expected)


def test_a_d_that_is_no_number_is_beyond_the_limits(table, read):
    put("d", float("nan"))(table)
    assert SPOILT not in read(table, d_min=0.5)[0].row and SPOILT in read(table)[0].row


def test_a_row_that_is_listed_twice_counts_once(table, read):
    twice = table.copy()
    before, rows = read(table)
    assert "listed before" not in rows.counts
    twice.extend(table.select(flex.size_t(before.row[:2].tolist())))
    after, rows = read(twice)
    assert rows.counts["listed before"] == 2
    np.testing.assert_array_equal(after.row, before.row)


def test_a_row_with_several_faults_counts_once(table, read):
    for spoil in (unindex, put("partiality", 0.0), flag("overloaded")):
        spoil(table)
    _, rows = read(table)
    assert rows.counts["not indexed"] == 1
    assert rows.kept.sum() + sum(rows.counts.values()) == len(table)


def test_resolution_limits(table, read):
    observations, rows = read(table, d_min=0.8, d_max=3.0)
    d = numpy(table, "d")
    kept = d[observations.row]
    assert 0.8 <= kept.min() and kept.max() <= 3.0
    assert rows.counts["beyond d_min"] > 0 and rows.counts["beyond d_max"] > 0


# ----------------------------------------------------------------------------------- windows


def test_windows_are_centred_on_the_predicted_angle(table, read, experiment, sweep):
    observations, _ = read(table, half_width=[0.5])
    steps = steps_of([sweep], STEP)
    z = table["xyzcal.px"].parts()[2].as_numpy_array()[observations.row]
    angle = [experiment.scan.get_angle_from_array_index(float(value)) for value in z]
    np.testing.assert_allclose(observations.angle, angle, atol=1e-9)
    half = 0.5 / np.abs(numpy(table, "zeta")[observations.row])
    edges = steps.angle.numpy() - STEP / 2
    low, high = edges[observations.first], edges[observations.last - 1] + STEP
    whole = (observations.angle.numpy() - half > -50.0) & (observations.angle.numpy() + half < 50.0)
    assert whole.sum() > 1300
    assert np.abs((low - (angle - half))[whole]).max() < 0.51 * STEP
    assert np.abs((high - (angle + half))[whole]).max() < 0.51 * STEP
    assert (observations.first >= 0).all() and (observations.last <= len(steps)).all()


def test_reflections_cross_the_ewald_sphere_in_the_middle_of_their_window(table, read, experiment, sweep):
    observations, _ = read(table)
    steps = steps_of([sweep], STEP)
    beam, k = steps.beam[0], 1 / experiment.beam.get_wavelength()
    middle = np.argmin(np.abs(observations.angle.numpy()[:, None] - steps.angle.numpy()), axis=1)
    r = torch.einsum("mij,mj->mi", steps.basis[middle], observations.hkl.double())
    s_g = excitation_errors(r, beam, k).abs()
    half_a_step = r.norm(dim=1) * np.radians(0.5 * STEP)
    assert (s_g < 1.01 * half_a_step).all()


def test_a_scan_that_turns_backwards_has_the_same_windows(table, read, sweep):
    z = table["xyzcal.px"].parts()[2].as_numpy_array()
    backwards = replace(sweep, width=-sweep.width, phi_0=50.0)
    forward, _ = read(table)
    found, _ = read(table, [backwards])
    np.testing.assert_allclose(found.angle, 50.0 - z[found.row])
    assert torch.equal(found.first, forward.first) and torch.equal(found.last, forward.last)


def test_second_experiment_takes_its_own_steps(table, read, sweep):
    alone, _ = read(table)
    ids = flex.int(len(table), 0)
    ids.set_selected(flex.size_t_range(len(table) // 2, len(table)), 1)
    table["id"] = ids
    found, _ = read(table, [sweep, sweep], half_width=[0.6, 0.6])
    second = found.crystal == 1
    n_steps = len(steps_of([sweep], STEP))
    assert torch.equal(found.row, alone.row)
    assert torch.equal(second, found.row >= len(table) // 2)
    assert torch.equal(found.first - n_steps * second, alone.first)
    assert torch.equal(found.last - n_steps * second, alone.last)


# ------------------------------------------------------------------------ profile and sum


def test_profile_fitted_intensities_where_there_are_any(table):
    value, variance = intensities(table, "profile")
    fitted = flagged(table, "integrated_prf") & (numpy(table, "intensity.prf.variance") > 0)
    summed = flagged(table, "integrated_sum") & ~fitted
    assert fitted.sum() > 1500 and summed.sum() > 50
    for name, found in (("value", value), ("variance", variance)):
        np.testing.assert_array_equal(found[fitted], numpy(table, f"intensity.prf.{name}")[fitted])
        np.testing.assert_array_equal(found[summed], numpy(table, f"intensity.sum.{name}")[summed])
    assert (variance[~fitted & ~summed] <= 0).all()


def test_summed_intensities_on_request_and_where_nothing_was_fitted(table):
    summed = intensities(table, "sum")
    del table["intensity.prf.value"]
    for found, expected in zip(intensities(table, "profile"), summed, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "name",
    ["intensity.sum.value", "intensity.sum.variance", "miller_index", "id", "xyzcal.px", "zeta", "flags"],
)
def test_tables_that_were_not_integrated_are_refused(table, read, name):
    del table[name]
    with pytest.raises(ValueError, match="no column intensity.sum|no column " + name + ".*dials.integrate"):
        read(table)


def test_a_table_without_any_integrated_intensity_is_refused(table, read):
    table.unset_flags(flex.bool(len(table), True), table.flags.integrated_sum)
    table.unset_flags(flex.bool(len(table), True), table.flags.integrated_prf)
    with pytest.raises(ValueError, match="no integrated intensities.*dials.integrate"):
        read(table)


def test_when_nothing_is_left_the_reasons_are_told(table, read):
    with pytest.raises(ValueError, match=r"no reflection is left of 1653: .*\d+ partially recorded"):
        read(table, min_partiality=2.0)


# --------------------------------------------------------------------- from and to tables


@pytest.mark.parametrize("identifiers", [("a", "b"), ("a", "a"), (None, None)])
def test_tables_of_several_experiments_become_one(table, identifiers):
    tables = [table, table.copy()]
    for part, identifier in zip(tables, identifiers, strict=True):
        for key in part.experiment_identifiers().keys():
            del part.experiment_identifiers()[key]
        if identifier:
            part.experiment_identifiers()[0] = identifier
    found = combine_tables(tables)
    assert list(found["id"]) == [0] * len(table) + [1] * len(table)
    assert list(found["miller_index"]) == 2 * list(table["miller_index"])
    assert set(tables[1]["id"]) == {0}


def test_one_table_stays_as_it_is(table):
    for found in (combine_tables(table), combine_tables([table])):
        assert list(found["id"]) == list(table["id"])


@pytest.mark.parametrize("tables", [[], [flex.reflection_table()]])
def test_no_reflections_are_refused(tables):
    with pytest.raises(ValueError, match="no reflections"):
        combine_tables(tables)


def test_output_has_the_input_rows_and_the_calculated_intensities(table):
    row = np.array([3, 10, 11])
    table["shoebox"] = flex.shoebox(len(table))
    before = set(table.keys())
    found = output_table(table, row, np.array([1.5, -2.0, 3.0]), np.array([0.1, 0.2, 0.3]))
    assert set(found.keys()) == before - {"shoebox"} | {"intensity.dyn.value", "intensity.dyn.scale"}
    expected = np.zeros((2, len(table)))
    expected[:, row] = [[1.5, -2.0, 3.0], [0.1, 0.2, 0.3]]
    np.testing.assert_array_equal(numpy(found, "intensity.dyn.value"), expected[0])
    np.testing.assert_array_equal(numpy(found, "intensity.dyn.scale"), expected[1])
    assert list(found["miller_index"]) == list(table["miller_index"])


def test_output_flags_say_which_rows_were_used(table):
    row = np.array([3, 10, 11])
    found = output_table(table, row, np.ones(3), np.ones(3))
    assert np.flatnonzero(flagged(found, "used_in_refinement")).tolist() == row.tolist()
    assert (flagged(found, "excluded_for_refinement") != flagged(found, "used_in_refinement")).all()
    for other in ("integrated_sum", "integrated_prf", "indexed"):
        np.testing.assert_array_equal(flagged(found, other), flagged(table, other))


def test_output_leaves_the_input_alone(table, original):
    used = flagged(table, "used_in_refinement").copy()
    table["shoebox"] = flex.shoebox(len(table))
    output_table(table, np.array([0]), np.ones(1), np.ones(1))
    assert "shoebox" in table and "intensity.dyn.value" not in table
    np.testing.assert_array_equal(flagged(table, "used_in_refinement"), used)
