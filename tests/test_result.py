"""What a refinement reports about itself, recomputed from its own output by other means."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from cif_dictionary import faults

pytest.importorskip("dials.array_family.flex")

import iotbx.cif
import libtbx.phil
from cctbx import adptbx, crystal, miller

from dials.array_family import flex

from dials_hybrid import HybridRefinement
from dials_hybrid.io.cif import write_cif
from dials_hybrid.io.structure import read_structure
from dials_hybrid.phil import phil_scope
from dials_hybrid.result import cif_block, cif_blocks

CHEAP = """
thickness.model=normal
refinement.max_cycles=1
beams.g_max=1.2
data.d_min=1.0
orientation.mosaic_points=3
output.checkpoint=None
nproc=1
"""


@pytest.fixture(scope="module")
def result(quartz_dials):
    files = [quartz_dials / "integrated.expt"], [quartz_dials / "integrated.refl"]
    params = phil_scope.fetch(libtbx.phil.parse(CHEAP)).extract()
    return HybridRefinement.from_files(*files, quartz_dials / "quartz_P3221.cif", params).run()


@pytest.fixture(scope="module")
def used(result):
    """Observed, sigma, calculated and scale of the reflections used, and the rows themselves."""
    table = result.reflections
    rows = table.select(table.get_flags(table.flags.used_in_refinement))
    names = ("intensity.prf.value", "intensity.prf.variance", "intensity.dyn.value", "intensity.dyn.scale")
    i, variance, calculated, scale = (rows[name].as_numpy_array() for name in names)
    return i, variance**0.5, calculated, scale, rows


def amplitude(intensity):
    return np.sqrt(np.clip(intensity, 0.0, None))


def test_pooled_r_values(result, used):
    i, sigma, calculated, _, _ = used
    strong = i > 3.0 * sigma
    f_o, f_c = amplitude(i), amplitude(calculated)
    difference = abs(f_o - f_c)
    summary = result.summary
    assert summary["r1_obs"] == pytest.approx(difference[strong].sum() / f_o[strong].sum(), rel=1e-9)
    assert summary["r1_all"] == pytest.approx(difference.sum() / f_o.sum(), rel=1e-9)
    assert (summary["n_used"], summary["n_observed"]) == (len(i), strong.sum())
    assert result.r1_obs == summary["r1_obs"]


def test_merged_r_by_cctbx(result, used):
    """Equivalents by miller.array.merge_equivalents, on the common scale, Friedel mates together."""
    i, sigma, calculated, scale, rows = used
    symmetry = crystal.symmetry(
        unit_cell=result.xray_structure.unit_cell(), space_group=result.xray_structure.space_group()
    )
    indices = miller.set(symmetry, rows["miller_index"], anomalous_flag=False)

    def mean(values):
        array = miller.array(indices, flex.double(values)).merge_equivalents(algorithm="gaussian")
        return array.array().data().as_numpy_array(), array.redundancies().data().as_numpy_array()

    observed, n = mean(i / scale)
    computed, _ = mean(calculated / scale)
    variance, _ = mean((sigma / scale) ** 2)
    strong = observed > 3.0 * np.sqrt(variance / n)
    difference = abs(amplitude(observed) - amplitude(computed))
    expected = difference[strong].sum() / amplitude(observed)[strong].sum()
    assert result.summary["merged_r1_obs"] == pytest.approx(expected, rel=1e-6)
    assert result.summary["merged_r1_all"] == pytest.approx(
        difference.sum() / amplitude(observed).sum(), rel=1e-6
    )


def test_thickness_is_a_distribution(result):
    thickness = result.thickness
    p, t = np.array(thickness.average), np.array(thickness.nodes)
    assert 0.9 < p.sum() < 1.0 + 1e-9  # the rest is thinner than any node
    assert (np.diff(t) > 0.0).all() and t[0] > 0.0
    assert (p @ t) == pytest.approx(thickness.mean)
    assert thickness.mean == result.summary["thickness_mean"]
    assert thickness.model == "normal"


def test_thickness_curve_runs_along_the_scan(result):
    curve = result.thickness.curve
    angles = [point["angle"] for point in curve]
    assert len(curve) == 41
    assert angles == sorted(angles)
    assert -50.0 <= angles[0] < -40.0 and 40.0 < angles[-1] <= 50.0
    # a normal distribution is the same at every angle
    assert np.ptp([point["mean"] for point in curve]) < 1e-6
    assert curve[0]["mean"] == pytest.approx(result.thickness.mean)
    assert all(0.0 < point["spread"] < result.thickness.nodes[-1] for point in curve)


def test_covariance_is_one(result):
    c = result.covariance
    assert np.allclose(c, c.T)
    assert np.linalg.eigvalsh(c / np.sqrt(np.outer(np.diag(c), np.diag(c)))).min() > 0.0


def test_summary_is_json(result):
    text = json.dumps(result.summary)
    back = json.loads(text)
    assert back["history"][0]["stage"] == "orientation"
    assert math.isfinite(back["history"][-1]["r1_obs"])
    assert len(back["tilts"]) == 1 and len(back["tilts"][0]) == back["settings"]["tilt_nodes"]
    assert len(back["mosaic_spread"]) == 1


def test_effective_parameters_are_at_most_all(result):
    assert 14 < result.summary["n_parameters_effective"] <= result.summary["n_parameters"]


def in_brackets(text: str) -> tuple[float, float]:
    """Value and s.u. of "0.4706(12)"."""
    value, _, digits = text.rstrip(")").partition("(")
    decimals = len(value.partition(".")[2])
    return float(value), int(digits) * 10.0**-decimals


def test_cif_quotes_the_covariance(result):
    block = cif_block(result)
    names = list(result.constraints.names)
    x = names.index("O1.x")
    value, uncertainty = in_brackets(block["_atom_site_fract_x"][1])
    assert value == pytest.approx(result.xray_structure.scatterers()[1].site[0], abs=uncertainty)
    assert uncertainty == pytest.approx(result.covariance[x, x] ** 0.5, rel=0.3)  # one or two digits


def test_cif_u_equivalent_is_that_of_the_tensor(result):
    block = cif_block(result)
    for row, scatterer in enumerate(result.xray_structure.scatterers()):
        u_cart = adptbx.u_star_as_u_cart(result.xray_structure.unit_cell(), scatterer.u_star)
        value, uncertainty = in_brackets(block["_atom_site_U_iso_or_equiv"][row])
        assert value == pytest.approx(adptbx.u_cart_as_u_iso(u_cart), abs=uncertainty)


def test_cif_states_the_figures(result):
    block = cif_block(result)
    assert float(block["_refine_ls_R_factor_gt"]) == round(result.r1_obs, 4)
    assert block["_diffrn_radiation_probe"] == "electron"
    assert float(block["_diffrn_radiation_wavelength"]) == pytest.approx(0.02508)
    assert int(block["_refine_ls_number_reflns"]) == result.summary["n_used"] - result.summary["n_free"]
    of_mean = 2.0 if result.thickness.model == "wedge" else 1.0
    thickness = float(block["_refine_ls.sample_thickness"])
    assert thickness == pytest.approx(of_mean * result.thickness.mean / 10, abs=0.01)
    assert float(block["_refine_ls_shift/su_max"]) == pytest.approx(result.outcome.fit.shift_left, abs=1e-3)


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    """The CIF of a refinement, read back by iotbx, and its name."""
    path = tmp_path_factory.mktemp("cif") / "refined.cif"
    write_cif(path, cif_blocks(result))
    return iotbx.cif.reader(file_path=str(path)).model(), path


def test_cif_has_only_items_of_the_dictionary(written):
    for block in written[0].values():
        assert faults(block) == []


def test_cif_is_read_back(result, written):
    again = read_structure(written[1])
    before = result.xray_structure
    assert again.space_group() == before.space_group()
    assert again.unit_cell().is_similar_to(before.unit_cell(), 1e-5, 1e-4)
    for old, new in zip(before.scatterers(), again.scatterers(), strict=True):
        assert (old.label, old.scattering_type) == (new.label, new.scattering_type)
        assert np.abs(np.subtract(old.site, new.site)).max() < 1e-3
        u_old, u_new = (s.u_iso_or_equiv(before.unit_cell()) for s in (old, new))
        assert u_new == pytest.approx(u_old, abs=1e-3)


def test_r_from_the_reflections_of_the_cif(result, written):
    block = written[0]["hybrid_refined_reflections"]
    meas, calc = (
        amplitude(np.array([float(x) for x in block[f"_refln_F_squared_{name}"]]))
        for name in ("meas", "calc")
    )
    strong = np.array(list(block["_refln_include_status"])) == "o"
    assert abs(meas - calc)[strong].sum() / meas[strong].sum() == pytest.approx(result.r1_obs, rel=1e-4)
    free = list(block["_refln_refinement_status"]).count("excl")
    assert (len(meas), free) == (result.summary["n_used"], result.summary["n_free"])


def test_bonds_of_the_cif(result):
    block = cif_block(result)
    cell, (silicon, oxygen) = result.xray_structure.unit_cell(), result.xray_structure.sites_frac()
    bonds = sorted(in_brackets(text)[0] for text in block["_geom_bond_distance"])
    assert len(bonds) == 4 and len(block["_geom_angle"]) == 7
    assert bonds[0] == pytest.approx(min(cell.distance(silicon, oxygen), *bonds), abs=5e-3)
    assert all(in_brackets(text)[1] > 0.0 for text in block["_geom_bond_distance"])


def test_cell_uncertainty_belongs_to_the_measured_cell(result):
    """The model's cell is another one than that of the data: no s.u., but a word."""
    block = cif_block(result)
    assert "(" not in block["_cell_length_a"]
    assert "a = 4.92489 (s.u. 0.00010)" in block["_cell_special_details"]
    measured = result.experiments[0].crystal.get_unit_cell()
    symmetry = crystal.symmetry(unit_cell=measured, space_group=result.xray_structure.space_group())
    own = replace(result, xray_structure=result.xray_structure.customized_copy(crystal_symmetry=symmetry))
    block = cif_block(own)
    assert block["_cell_length_a"] == "4.92489(10)"
    assert "(" not in block["_cell_angle_gamma"]
    assert "_cell_special_details" not in block


def test_difference_map_of_the_summary(result):
    found, stated = result.maps, result.summary["difference_map"]
    values = found.potential(found.difference).real_map_unpadded().as_numpy_array()
    assert stated["rms"] == pytest.approx(values.std(), rel=1e-6)
    assert stated["max"] >= values.max() and stated["min"] <= values.min()
    assert len(stated["peaks"]) == len(stated["holes"]) == 10
    assert {peak["atom"] for peak in stated["peaks"]} <= {"Si1", "O1"}
    observed = found._extrema(found.observed, 2, 1.0)
    assert {peak.atom for peak in observed} == {"Si1", "O1"}
    assert max(peak.distance for peak in observed) < 0.2


def test_no_experiments(result):
    """As after a refinement against virtual frames alone."""
    block = cif_block(replace(result, experiments=None, reflections=None))
    assert "_cell_special_details" not in block
    assert faults(block) == []
