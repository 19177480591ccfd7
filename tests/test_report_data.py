"""What the report shows of a refinement, recomputed from the refinement's output."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dials.array_family.flex")

import iotbx.cif.model
import libtbx.phil
from cctbx import adptbx, crystal, xray
from cctbx.array_family import flex

from dials_hybrid import HybridRefinement
from dials_hybrid.phil import phil_scope
from dials_hybrid.report.page import render
from dials_hybrid.report.structure import drawing
from dials_hybrid.report_data import _loop, _plain, _structure, report_data

CHEAP = """
thickness.model=normal
refinement.max_cycles=1
beams.g_max=1.0
data.d_min=1.3
orientation.mosaic_points=1
output.checkpoint=None
nproc=1
"""


@pytest.fixture(scope="module")
def result(quartz_dials):
    files = [quartz_dials / "integrated.expt"], [quartz_dials / "integrated.refl"]
    params = phil_scope.fetch(libtbx.phil.parse(CHEAP)).extract()
    return HybridRefinement.from_files(*files, quartz_dials / "quartz_P3221.cif", params).run()


@pytest.fixture(scope="module")
def data(result):
    return report_data(result)


def test_reflections_are_those_of_the_output(result, data):
    table = result.reflections
    rows = table.select(table.get_flags(table.flags.used_in_refinement))
    assert (data.reflections.hkl == rows["miller_index"].as_vec3_double().as_numpy_array()).all()
    assert data.reflections.calculated == pytest.approx(rows["intensity.dyn.value"].as_numpy_array())
    d = result.xray_structure.unit_cell().d(rows["miller_index"])
    assert data.reflections.d == pytest.approx(d.as_numpy_array())


def test_shells_of_the_summary_hold_all_reflections(result):
    summary = result.summary
    for key in ("resolution_shells", "angular_ranges", "intensity_groups"):
        assert sum(part["n_all"] for part in summary[key]) == summary["n_used"]
    assert summary["resolution_shells"][0]["d_max"] > summary["resolution_shells"][-1]["d_min"] >= 1.3


def test_distribution_has_the_mean_of_the_summary(result, data):
    (distribution,) = data.distributions
    assert distribution.density.shape == (len(distribution.angle), len(distribution.thickness))
    spacing = distribution.thickness[0]
    mean = distribution.density @ distribution.thickness * spacing
    assert mean.mean() == pytest.approx(result.summary["thickness_mean"], rel=0.02)


def test_tilts_are_those_of_the_refined_experiments(result, data):
    """The refined setting matrix at the middle of the scan differs from the start by this tilt."""
    (tilt,) = data.tilts
    hybrid = result.outcome.hybrid
    steps = hybrid.dataset.steps
    middle = len(steps) // 2
    basis = hybrid.orientation.basis(steps)[middle].detach().numpy()
    turn = basis @ np.linalg.inv(steps.basis[middle].numpy())
    angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1.0) / 2.0, -1.0, 1.0)))
    shown = np.interp(float(steps.angle[middle]), tilt.angle, tilt.value)
    assert abs(shown) == pytest.approx(angle, abs=1e-4)
    assert (tilt.uncertainty > 0.0).all()


def test_scale_is_that_of_the_output(result, data):
    (scale,) = data.scales
    table = result.reflections
    rows = table.select(table.get_flags(table.flags.used_in_refinement))
    written = np.sort(rows["intensity.dyn.scale"].as_numpy_array())
    assert scale.value.min() == pytest.approx(written[0])
    assert scale.value.max() == pytest.approx(written[-1])
    assert (scale.uncertainty > 0.0).all()


def test_atoms_stand_as_in_the_cif(data):
    header, rows = data.atoms
    assert header[:4] == ["atom", "x", "y", "z"]
    assert [row[0] for row in rows] == ["Si1", "O1"]
    assert "(" in rows[1][1], "a refined coordinate has its s.u."
    header, rows = data.displacements
    assert header == ["atom", *(f"U_{ij} [Å²]" for ij in ("11", "22", "33", "12", "13", "23"))]
    assert [row[0] for row in rows] == ["Si1", "O1"]
    header, rows = data.bonds
    assert [row[:2] for row in rows] == [["Si1", "O1"]] * 4
    assert all(1.5 < float(row[2].partition("(")[0]) < 1.7 for row in rows)


def test_zeros_that_say_nothing_are_left_out():
    texts = {
        "1.000000": "1",
        "-0.000000": "0",
        "0.666667": "0.666667",
        "0.4710(40)": "0.4710(40)",
        "2_654": "2_654",
    }
    assert {text: _plain(text) for text in texts} == texts


def test_a_loop_that_is_not_there_gives_no_rows():
    block = iotbx.cif.model.block()
    assert _loop(block, "_geom_bond", {"distance": "distance [Å]"}) == (["distance [Å]"], [])


def test_the_page_can_be_made(data):
    page = render(data)
    assert "O<sub>2</sub> Si, P 3<sub>2</sub> 2 1" in page
    assert "a = 4.913, b = 4.913, c = 5.405 Å; α = 90°, β = 90°, γ = 120°" in page
    assert page.count('class="plot"') == 13


@pytest.mark.parametrize(
    ("space_group", "cell"),
    [("P 1 21/c 1", (6.0, 8.0, 11.0, 90.0, 107.0, 90.0)), ("R -3 :H", (9.0, 9.0, 14.0, 90.0, 90.0, 120.0))],
)
def test_symmetry_equivalents_by_cctbx(space_group, cell):
    """Every drawn atom is one of `expand_to_p1`, with its ellipsoid."""
    symmetry = crystal.symmetry(unit_cell=cell, space_group_symbol=space_group)
    scatterer = xray.scatterer("Si1", site=(0.13, 0.21, 0.34), scattering_type="Si")
    scatterer.flags.set_use_u_aniso(True)
    scatterer.flags.set_use_u_iso(False)
    scatterer.u_star = (3e-4, 2e-4, 1e-4, 5e-5, 2e-5, -1e-5)
    structure = xray.structure(crystal_symmetry=symmetry, scatterers=flex.xray_scatterer([scatterer]))
    atoms = drawing(_structure(structure))["atoms"]
    assert len(atoms) >= structure.space_group().order_z()
    unit_cell = structure.unit_cell()
    centre = np.array(unit_cell.orthogonalize((0.5, 0.5, 0.5)))
    expanded = structure.expand_to_p1().scatterers()
    seen = set()
    for atom in atoms:
        site = np.array(unit_cell.fractionalize(tuple(np.array(atom["position"]) + centre)))
        distances = []
        for other in expanded:
            shift = site - np.array(other.site)
            distances.append(np.abs(shift - np.round(shift)).max())
        k = int(np.argmin(distances))
        assert distances[k] < 1e-4
        seen.add(k)
        axes = np.array(atom["axes"])
        u_cart = axes.T @ axes / 1.5382**2
        u = u_cart[0, 0], u_cart[1, 1], u_cart[2, 2], u_cart[0, 1], u_cart[0, 2], u_cart[1, 2]
        assert u == pytest.approx(adptbx.u_star_as_u_cart(unit_cell, expanded[k].u_star), abs=3e-5)
    assert len(seen) == len(expanded)
