"""Refinement against virtual frames, alone and together with a sweep, from files to outputs."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

pytest.importorskip("dials.array_family.flex")

import libtbx.phil

from dials_hybrid import HybridRefinement
from dials_hybrid.command_line.hybrid_refine import run
from dials_hybrid.io.structure import read_structure
from dials_hybrid.phil import phil_scope

CHEAP = [
    "thickness.model=flat",
    "thickness.maximum=800",
    "refinement.max_cycles=1",
    "beams.g_max=1.1",
    "data.d_min=1.0",
    "data.rsg=0.9",
    "orientation.mosaic_points=1",
    "nproc=1",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_pets_file_to_all_outputs(quartz_pets, quartz_dials, here):
    files = [str(quartz_pets / "quartz.cif_pets"), str(quartz_dials / "quartz_P3221.cif")]
    run([*files, *CHEAP, "data.frames=1-9,11,12", "structure.adp=isotropic"])
    summary = json.loads((here / "dials.hybrid_refine.json").read_text())
    assert summary["n_rows"] == 6666
    assert summary["n_used"] + sum(summary["rejected"].values()) == 6666
    assert summary["r1_obs"] < 0.12
    with open(here / "hybrid_refined.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["n_used"]
    assert {row["file"] for row in rows} == {"quartz.cif_pets"}
    assert {int(row["frame"]) for row in rows} <= {*range(1, 10), 11, 12}
    observed = [row for row in rows if float(row["intensity"]) > 3.0 * float(row["sigma"])]
    f_o, f_c = (np.sqrt([float(row[name]) for row in observed]) for name in ("intensity", "calculated"))
    assert np.abs(f_o - f_c).sum() / f_o.sum() == pytest.approx(summary["r1_obs"], abs=1e-4)
    assert read_structure(here / "hybrid_refined.cif").scatterers().size() == 2
    assert not (here / "hybrid_refined.expt").exists() and not (here / "hybrid_refined.refl").exists()


@pytest.mark.slow
def test_janas_conventions(quartz_pets, quartz_dials, here):
    """A frame alone, in 120 midpoints for each of five medians, beams chosen in every step, a wedge."""
    lines = (quartz_pets / "quartz.cif_pets").read_text(encoding="latin-1").splitlines()
    zones = lines.index("_diffrn_zone_axis_scale") + 1
    lists = lines.index("_refln_index_h") - 1
    (here / "few.cif_pets").write_text("\n".join(lines[: zones + 3] + lines[lists:]), encoding="latin-1")
    cheap = ["beams.g_max=1.3", "data.d_min=0.8", "refinement.max_cycles=1", "nproc=1", "output.html=None"]
    model = [str(quartz_dials / "quartz_P3221.cif"), "structure.adp=isotropic", "absolute_structure=ignore"]
    run(["few.cif_pets", *model, "preset=jana", *cheap])
    summary = json.loads((here / "dials.hybrid_refine.json").read_text())
    assert summary["settings"]["rocking_step"] == pytest.approx(2.0 / 120 / 5)
    assert summary["settings"]["segment_length"] == 1
    assert summary["settings"]["mosaic_tilts"] == "medians"
    assert f"{3 * 120 * 5} rocking steps" in (here / "dials.hybrid_refine.log").read_text()
    assert summary["thickness_model"] == "wedge"
    assert summary["error_model"] == {"gain": 1.0, "instability": 0.01, "floor": 0.0}
    assert summary["n_free"] == 0
    assert summary["r1_obs"] < 0.10


@pytest.mark.slow
def test_r_values_and_coordinates_of_quartz(quartz_pets, quartz_dials, here):
    """Every other frame: the others list nearly the same intensities again. One cycle of each stage.

    The referee is the X-ray structure of Levien, Prewitt & Weidner (1980), Am. Mineral. 65, 920.
    """
    files = [str(quartz_pets / "quartz.cif_pets"), str(quartz_dials / "quartz_P3221.cif")]
    half = ",".join(str(number) for number in range(1, 100, 2))
    cheap = ["thickness.model=wedge", "refinement.max_cycles=1", "absolute_structure=ignore", "nproc=1"]
    run([*files, *cheap, "data.rsg=0.9", "beams.g_max=2", f"data.frames={half}", "output.html=None"])
    summary = json.loads((here / "dials.hybrid_refine.json").read_text())
    assert summary["n_observed"] > 500
    assert summary["r1_obs"] < 0.065
    assert summary["mean_of_ranges_r1_obs_own_scales"] < 0.055
    structure = read_structure(here / "hybrid_refined.cif")
    silicon, oxygen = structure.scatterers()
    distance = structure.unit_cell().distance
    assert distance(silicon.site, (0.4697, 0.0, 2 / 3)) < 0.012
    assert distance(oxygen.site, (0.4135, 0.2669, 0.1191 + 2 / 3)) < 0.012


@pytest.mark.slow
def test_a_sweep_and_virtual_frames_together(quartz_pets, quartz_dials, here):
    params = phil_scope.fetch(
        libtbx.phil.parse("\n".join([*CHEAP, "data.frames=1-15", "output.checkpoint=None"]))
    ).extract()
    result = HybridRefinement.from_files(
        [quartz_dials / "integrated.expt"],
        [quartz_dials / "integrated.refl"],
        quartz_dials / "quartz_P3221.cif",
        params,
        cif_pets=[quartz_pets / "quartz.cif_pets"],
    ).run()
    used = result.reflections["intensity.dyn.scale"].as_numpy_array() > 0.0
    assert len(result.observations) + used.sum() == result.summary["n_used"]
    assert len(result.observations) > 50 and used.sum() > 100
    assert len(result.experiments) == 1
    assert len(result.summary["tilts"]) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frames=500-600"], "has no frame of data.frames=500-600, but those from 1 to 99"),
        (["data.dsg=1"], "no reflection is left of 6666"),
    ],
)
def test_nothing_to_refine_against(quartz_pets, quartz_dials, here, arguments, sentence):
    with pytest.raises(SystemExit, match=sentence):
        run([str(quartz_pets / "quartz.cif_pets"), str(quartz_dials / "quartz_P3221.cif"), *arguments])


def test_a_model_of_another_crystal(quartz_pets, cspbbr3_pets, here):
    with pytest.raises(SystemExit, match=r"is not that of .*quartz.cif_pets"):
        run([str(quartz_pets / "quartz.cif_pets"), str(cspbbr3_pets / "cspbbr3.cif")])


def test_a_damaged_file(quartz_pets, quartz_dials, here):
    text = (quartz_pets / "quartz.cif_pets").read_text(encoding="latin-1")
    (here / "cut.cif_pets").write_text(text[:100000], encoding="latin-1")
    with pytest.raises(SystemExit, match=r"cut.cif_pets: the loop of _refln_index_h ends inside row"):
        run(["cut.cif_pets", str(quartz_dials / "quartz_P3221.cif")])
