"""Items about measurement and refinement: by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from synthetic import quartz, sweep, turned
from test_geometry_tables import water

from cctbx import crystal, xray

from dials_hybrid.io.cif_refinement import (
    figure_items,
    hydrogen_treatment,
    measurement_items,
    weighting_items,
)
from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.structure import prepare_structure

WAVELENGTH = 0.02508

SUMMARY = {
    "n_rows": 100,
    "n_used": 60,
    "n_free": 4,
    "n_parameters": 20,
    "r1_obs": 0.08123,
    "r1_all": 0.1,
    "wr_all": 0.09,
    "r1_free": math.nan,
    "merged_r1_obs": 0.05,
    "merged_r1_all": 0.06,
    "goodness_of_fit": 1.2,
    "thickness_mean": 648.3,
    "thickness_model": "wedge",
    "absolute_structure": {
        "hand": "as given",
        "determined": True,
        "z_score": 7.123,
        "z_score_observed": 9.5,
        "z_score_observed_noise_adjusted": 9.81,
        "probability": 0.9999,
        "r1_obs": 0.08123,
        "r1_obs_other": 0.0966,
        "n_reflections": 60.0,
        "n_observed": 41.5,
    },
    "shift_left": 0.04,
    "restraints": [{}, {}],
    "crystals": [
        {"overall_u": None, "thickness_mean": 600.0},
        {"overall_u": {"value": 0.0123, "su": 0.0004}, "thickness_mean": 700.0},
    ],
    "thickness": {
        "curve": [
            {"crystal": 0, "angle": angle, "mean": 610.0, "mean_su": 20.0, "spread": 350.0, "spread_su": 9.0}
            for angle in (-10.0, 5.0, 20.0)
        ]
    },
    "settings": {"g_max": 2.0, "label": "it's \"one\"\n;of 'many'", "_cell_length_a": None},
    "versions": {"dials": "DIALS 3.12"},
    "difference_map": {
        "max": 0.2,
        "min": -0.1,
        "rms": 0.05,
        "peaks": [{"height": 0.2, "site": (0.1, 0.2, 0.3), "atom": "O1'", "distance": 1.0}],
        "holes": [{"height": -0.1, "site": (0.4, -0.2, 0.3), "atom": "O1'", "distance": 0.5}],
    },
}


def test_measurement():
    atoms = quartz()
    steps = sweep(turned(atoms, 0.3, 0.1, 0.2), n=9, width=0.5)
    found = measurement_items(steps, WAVELENGTH, None, ["continuous rotation"])
    assert found["_diffrn_measurement_method"] == "continuous rotation"
    assert float(found["_diffrn_source_voltage"]) == pytest.approx(200.0, abs=0.1)
    assert "-2.00 to 2.00 degrees" in found["_diffrn_measurement_details"]
    assert found["_diffrn_measurement.rotation_mode"] == "rotation"
    assert "_exptl_crystal.mosaicity" not in found
    methods = ["continuous rotation", "precession", "precession"]
    found = measurement_items(steps, WAVELENGTH, [0.1, 0.2], methods)
    assert found["_diffrn_measurement_method"] == "continuous rotation, precession"
    assert "_diffrn_measurement.rotation_mode" not in found
    found = measurement_items(steps, WAVELENGTH, None, ["precession"])
    assert found["_diffrn_measurement.rotation_mode"] == "stepwise"
    assert found["_diffrn_measurement.method_precession"] == "yes"


def test_figures():
    found = figure_items(SUMMARY)
    assert found["_refine_ls.sample_thickness"] == "129.66"  # the largest of a wedge, in nanometres
    of_network = figure_items({**SUMMARY, "thickness_model": "neural"})
    assert of_network["_refine_ls.sample_thickness"] == "64.83"
    assert of_network["_refine_ls.sample_shape_details"].startswith("sample_thickness is the mean thickness")
    assert found["_refine_ls_number_reflns"] == 56  # without the free set
    assert found["_refine_ls_R_factor_gt"] == "0.0812"
    assert found["_refine_ls.abs_structure_z-score"] == "7.12"
    assert found["_chemical.absolute_configuration"] == "dyn"
    assert "\ncrystal 2: 0.01230 0.00040\n" in found["_refine_special_details"]
    assert found["_refine_diff.potential_min"] == "-0.1000"
    assert (found["_refine_ls_shift/su_max"], found["_refine_ls_number_restraints"]) == ("0.040", 2)
    details = found["_refine_ls.sample_shape_details"].split("\n")
    assert details[1] == (
        "crystal 1: mean over the scan 60.0 nm; at a scan angle of 5.0 degrees mean 61.0, s.u. 2.0 nm, "
        "standard deviation 35.0, s.u. 0.9 nm"
    )
    without = figure_items({**SUMMARY, "absolute_structure": None})
    assert "_chemical.absolute_configuration" not in without


@pytest.mark.parametrize(
    ("changes", "z", "text"),
    [
        # what is written down is the hand given, whichever the data prefer
        ({"hand": "other than given"}, "-7.12", "R_factor_gt 0.0966, of the other hand 0.0812"),
        ({"hand": "other than given"}, "-7.12", "z' = -9.81"),
        ({"hand": "other than given"}, "-7.12", "/2: 0.0001;"),
        ({"determined": False}, "7.12", "R_factor_gt 0.0812, of the other hand 0.0966"),
    ],
)
def test_a_hand_that_is_wrong_or_not_determined(changes, z, text):
    summary = {**SUMMARY, "absolute_structure": {**SUMMARY["absolute_structure"], **changes}}
    found = figure_items(summary)
    assert found["_refine_ls.abs_structure_z-score"] == z
    assert found["_chemical.absolute_configuration"] == "unk"
    assert text in found["_refine_ls_abs_structure_details"]


def test_weights_without_robust_factor():
    errors = {"gain": 1.0, "instability": 0.01, "floor": 0.0}
    text = weighting_items([errors], None)["_refine_ls_weighting_details"]
    assert text.endswith(";\nk = 1, a = 0.01, b = 0\nc = inf")


def test_weights_of_two_crystals():
    errors = {"gain": 1.0, "instability": 0.01, "floor": 0.0}
    text = weighting_items([errors, {**errors, "gain": 3.3}], 3.0)["_refine_ls_weighting_details"]
    assert "\ncrystal 1: k = 1, a = 0.01, b = 0\ncrystal 2: k = 3.3, a = 0.01, b = 0\nc = 3" in text


def test_hydrogen_treatment():
    structure = water()
    assert hydrogen_treatment(structure, constraints(structure)) == "refall"
    fixed = prepare_structure(structure, adp="isotropic")
    assert hydrogen_treatment(fixed, constraints(fixed)) == "noref"
    found = constraints(fixed)
    riding = found.jacobian.reshape(len(found.names), -1, 11).clone()
    riding[:, 1, :3] = riding[:, 0, :3]
    tied = replace(found, jacobian=riding.reshape(found.jacobian.shape))
    assert hydrogen_treatment(fixed, tied) == "mixed"  # the other one stays where it is
    none = xray.structure(crystal_symmetry=crystal.symmetry((3, 3, 3, 90, 90, 90), "Pm-3m"))
    none.add_scatterer(xray.scatterer("Po1", (0, 0, 0)))
    assert hydrogen_treatment(none, constraints(prepare_structure(none))) == "undef"
