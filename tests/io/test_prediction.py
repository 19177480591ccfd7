"""Predicted tables against the geometry of this program, which does not use DIALS's predictor."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dials.array_family.flex")

from simulated_experiments import experiments

from dials_hybrid.io.experiments import read_sweep
from dials_hybrid.io.prediction import blank, predicted, with_intensities, with_rocking_width


@pytest.fixture(scope="module")
def made_up():
    return experiments()


@pytest.fixture(scope="module")
def table(made_up):
    return predicted(made_up, 0.9)


def test_predictions_lie_on_the_ewald_sphere(made_up, table):
    sweep = read_sweep(made_up[0])
    hkl = table["miller_index"].as_vec3_double().as_numpy_array()
    z = table["xyzcal.px"].as_numpy_array()[:, 2]
    r = np.einsum("mij,mj->mi", sweep.basis(z), hkl)
    wave_number = 1.0 / made_up[0].beam.get_wavelength()
    s_g = -(r @ sweep.beam + (r**2).sum(1) / (2.0 * wave_number))
    assert len(table) > 50
    assert np.abs(s_g).max() < 1e-4
    np.testing.assert_allclose(1.0 / np.linalg.norm(r, axis=1), table["d"].as_numpy_array(), rtol=1e-4)
    assert min(table["d"]) >= 0.9


def test_zeta_is_the_lever_of_the_rotation(made_up, table):
    """|dS_g / d phi| = |zeta| |g|, nearly, for short waves."""
    sweep = read_sweep(made_up[0])
    hkl = table["miller_index"].as_vec3_double().as_numpy_array()
    z = table["xyzcal.px"].as_numpy_array()[:, 2]
    r = np.einsum("mij,mj->mi", sweep.basis(z), hkl)
    lever = np.abs(np.cross(sweep.rotation_axis, r) @ sweep.beam) / np.linalg.norm(r, axis=1)
    np.testing.assert_allclose(np.abs(table["zeta"].as_numpy_array()), lever, atol=0.03)


def test_boxes_hold_the_rocking_curve(table):
    first, last = (edge.as_numpy_array() for edge in table["bbox"].parts()[4:])
    z = table["xyzcal.px"].as_numpy_array()[:, 2]
    half = 1.0 / np.abs(table["zeta"].as_numpy_array())
    inside = (z - half > 0) & (z + half < 20) & (half < 4.0)
    assert inside.sum() > 30
    assert (first[inside] <= z[inside] - half[inside] + 0.05).all()
    assert (last[inside] >= z[inside] + half[inside] - 0.05).all()


def test_rocking_width_is_that_of_the_profile_model(made_up):
    assert with_rocking_width(made_up, None)[0].profile.delta_m(deg=True) == pytest.approx(1.0)
    other = with_rocking_width(made_up, 0.4)
    assert other[0].profile.delta_m(deg=True) == pytest.approx(0.4)
    assert made_up[0].profile.delta_m(deg=True) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="experiment 0 has no profile model .* set rocking_width"):
        with_rocking_width(experiments(half_width=None), None)


def test_nothing_to_predict(made_up):
    with pytest.raises(ValueError, match="predicts no reflection to 50.00 A"):
        predicted(made_up, 50.0)


def test_intensities_are_those_put_in(table):
    values = np.arange(len(table)) - 3.0
    sigma = 1.0 + np.arange(len(table))
    full = with_intensities(blank(table), values, sigma)
    for kind in ("sum", "prf"):
        assert np.array_equal(full[f"intensity.{kind}.value"].as_numpy_array(), values)
        np.testing.assert_allclose(full[f"intensity.{kind}.variance"].as_numpy_array() ** 0.5, sigma)
    assert full.get_flags(full.flags.integrated, all=True).all_eq(True)
    assert not full.get_flags(full.flags.dont_integrate).count(True)
