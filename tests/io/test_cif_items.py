"""Formula, reflections and figures as data items: by hand, and against the core dictionary."""

from __future__ import annotations

import gzip
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cif_dictionary import ELECTRON_DIFFRACTION, faults
from synthetic import quartz, sweep, turned
from test_cif import correlated, example
from test_cif_refinement import SUMMARY, WAVELENGTH
from test_geometry_tables import water

import iotbx.cif
from cctbx import crystal, xray
from iotbx.cif import model, validation

from dials_hybrid.io.cif import refinement_items, structure_cif_block, write_cif
from dials_hybrid.io.cif_items import ReflectionList, crystal_items, reflection_blocks, reflection_items
from dials_hybrid.io.cif_refinement import (
    figure_items,
    hydrogen_treatment,
    measurement_items,
    weighting_items,
)
from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.structure import read_structure


def hkl_list(frame: int = -1) -> ReflectionList:
    """Six observations of two crystals, not in the order of the scan."""
    return ReflectionList(
        hkl=np.array([(1, 0, 0), (1, 0, 0), (0, 1, 2), (-3, 1, 2), (2, 2, 0), (0, 0, 3)]),
        measured=np.array([100.0, -3.5, 1e6, 20.0, 33.3333333, 0.0]),
        sigma=np.array([1.0, 4.0, 100.0, 8.0, 2.0, 1.5]),
        calculated=np.array([99.0, 1e-7, 1.1e6, 18.0, 35.0, 2.0]),
        observed=np.array([True, False, True, False, True, False]),
        free=np.array([False, False, True, False, False, False]),
        crystal=np.array([0, 1, 0, 1, 0, 0]),
        frame=np.array([4, 4, 3, 3, 4, 3]) if frame >= 0 else np.full(6, -1),
        angle=np.array([3.0, 2.0, 1.0, 4.0, 2.5, -10.25]),
    )


def everything(structure: xray.structure) -> dict:
    """A block with all items that there are, and the reflections."""
    found = constraints(structure)
    block = structure_cif_block(
        structure, correlated(found.names, su=1e-5), found, (0.001, 0.001, 0.001, 0, 0, 0)
    )
    atoms = quartz()
    items = {
        **crystal_items(structure),
        **measurement_items(
            sweep(turned(atoms, 0.3, 0.1, 0.2), n=9, width=0.5), WAVELENGTH, [0.05], ["continuous rotation"]
        ),
        **reflection_items(structure, hkl_list(), 100, WAVELENGTH),
        **figure_items(SUMMARY),
        **weighting_items([{"gain": 4.0, "instability": 0.03, "floor": 0.5}], 3.0),
        "_refine_ls_hydrogen_treatment": hydrogen_treatment(structure, found),
        "_computing_data_reduction": "DIALS 3.12",
        "_cell_special_details": "a cell\nof its own",
    }
    refinement_items(block, items)
    intensities, positions = reflection_blocks(structure, hkl_list(frame=1))
    return {"refined": block, "reflections": intensities, "positions": positions}


def awkward(label: str) -> xray.structure:
    """Water with a label that CIF must quote."""
    structure = water()
    structure.scatterers()[3].label = label
    return structure


@pytest.mark.parametrize(
    "structure", [water(), example("R-3c:R"), example("Pbnm")], ids=["water", "R", "Pbnm"]
)
def test_all_items_are_in_the_dictionary(structure):
    for block in everything(structure).values():
        assert faults(block) == []


def test_what_is_not_in_the_dictionary_is_found():
    block = iotbx.cif.model.block()
    refinement_items(
        block,
        {
            "_refine_ls_hydrogen_treatment": "riding",
            "_cell_length_a": "-3.0(2)",
            "_cell_length_b": "long",
            "_refine_ls_thickness": 1,
            "_refln_index_h": 1,
            "_cell_length_c": "?",
            "_cell_angle_alpha": "90.1(3)",
        },
    )
    assert [fault.split(":")[0].split()[0] for fault in faults(block)] == [
        "_refine_ls_hydrogen_treatment",
        "_cell_length_a",
        "_cell_length_b",
        "_refine_ls_thickness",
        "_refln_index_h",
    ]


def test_items_of_electron_diffraction_are_there():
    names = set(everything(water())["refined"].keys())
    assert ELECTRON_DIFFRACTION - {"_diffrn_measurement.method_precession"} <= names


def dictionary() -> Path:
    """The dictionary itself: in iotbx, or where DIALS_HYBRID_CIF_CORE says."""
    folder = Path(iotbx.cif.__file__).parent / "dictionaries"
    places = [
        os.environ.get("DIALS_HYBRID_CIF_CORE", ""),
        folder / "cif_core.dic",
        folder / "cif_core.dic.gz",
    ]
    for place in map(Path, filter(None, places)):
        if place.is_file():
            return place
    pytest.skip("no cif_core.dic; set DIALS_HYBRID_CIF_CORE to the file")


def test_validation_by_iotbx(tmp_path):
    path = dictionary()
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    core = validation.dictionary(iotbx.cif.reader(input_string=text.decode("latin-1")).model())
    write_cif(tmp_path / "all.cif", everything(water()))
    messages = io.StringIO()
    iotbx.cif.reader(file_path=str(tmp_path / "all.cif")).model().validate(core, True, out=messages)
    unknown = {f"Unknown data item: '{name}' not present in dictionary" for name in ELECTRON_DIFFRACTION}
    assert set(messages.getvalue().splitlines()) <= unknown


@pytest.mark.parametrize(
    "label", ["O1'", 'O1"', "O'a b\"", "data_1", ";O1", "#1", "_O1", "$1", "loop_", "[1]", "O1' \"x y"]
)
def test_awkward_labels_are_read_back(tmp_path, label):
    structure = awkward(label)
    blocks = everything(structure)
    write_cif(tmp_path / "awkward.cif", blocks)
    again = iotbx.cif.reader(file_path=str(tmp_path / "awkward.cif")).model()
    assert list(again) == ["refined", "reflections", "positions"]
    refined = again["refined"]
    assert [x.strip() for x in refined["_atom_site_label"]] == list(structure.scatterers().extract_labels())
    assert [x.strip() for x in refined["_geom_hbond_atom_site_label_A"]] == [label]
    details = refined["_refine_special_details"]
    assert 'it\'s "one"' in details and "of 'many'" in details and "_cell_length_a = None" in details
    sites = read_structure(tmp_path / "awkward.cif").sites_frac()
    assert np.abs(np.array(sites) - np.array(structure.sites_frac())).max() < 1e-4
    assert len(again["reflections"]["_refln_index_h"]) == 6


def test_quartz(quartz_dials):
    found = crystal_items(read_structure(quartz_dials / "quartz_P3221.cif"))
    assert found["_chemical_formula_sum"] == "O2 Si"
    assert found["_cell_formula_units_Z"] == 3
    assert float(found["_chemical_formula_weight"]) == pytest.approx(60.08, abs=0.01)
    assert float(found["_exptl_crystal_density_diffrn"]) == pytest.approx(2.65, abs=0.01)


@pytest.mark.parametrize(
    ("symbol", "contents", "formula", "z"),
    [
        ("P212121", {"C": 6, "H": 6}, "C6 H6", 4),
        ("P1", {"N": 2, "C": 3, "H": 7, "O": 4, "Cl": 1}, "C3 H7 Cl N2 O4", 1),
        ("P-1", {"Zn": 2, "O": 2, "Cl": 4}, "Cl4 O2 Zn2", 2),
    ],
)
def test_formula(symbol, contents, formula, z):
    symmetry = crystal.symmetry((12, 13, 14, 90, 90, 90), symbol)
    structure = xray.structure(crystal_symmetry=symmetry)
    rng = np.random.default_rng(0)
    for element, n in contents.items():
        for i in range(n):
            site = tuple(0.1 + 0.3 * rng.random(3))
            structure.add_scatterer(xray.scatterer(f"{element}{i}", site, scattering_type=element))
    found = crystal_items(structure)
    assert (found["_chemical_formula_sum"], found["_cell_formula_units_Z"]) == (formula, z)


def test_formula_with_an_atom_that_is_partly_there():
    """0.83 of an oxygen atom beside a carbon atom, four times in the cell."""
    structure = xray.structure(crystal_symmetry=crystal.symmetry((12, 13, 14, 90, 95, 90), "P21/c"))
    structure.add_scatterer(xray.scatterer("C1", (0.1, 0.2, 0.3)))
    structure.add_scatterer(xray.scatterer("O1", (0.2, 0.2, 0.3), occupancy=0.83))
    found = crystal_items(structure)
    assert (found["_chemical_formula_sum"], found["_cell_formula_units_Z"]) == ("C O0.83", 4)


def test_formula_of_molecules_on_centres():
    """Benzene in Pbca: half a molecule is independent, which only the start model tells."""
    structure = xray.structure(crystal_symmetry=crystal.symmetry((7, 9, 7, 90, 90, 90), "Pbca"))
    for i in range(3):
        structure.add_scatterer(xray.scatterer(f"C{i}", (0.1 + 0.1 * i, 0.2, 0.3)))
        structure.add_scatterer(xray.scatterer(f"H{i}", (0.1 + 0.1 * i, 0.3, 0.4)))
    found = crystal_items(structure, 4)
    assert (found["_chemical_formula_sum"], found["_cell_formula_units_Z"]) == ("C6 H6", 4)
    assert crystal_items(structure)["_exptl_crystal_density_diffrn"] == found["_exptl_crystal_density_diffrn"]


def test_formula_of_a_disordered_structure():
    structure = example("P1")  # 0.9 of five C, one H
    found = crystal_items(structure)
    assert found["_chemical_formula_sum"] == "C4.5 H"
    assert found["_cell_formula_units_Z"] == 1


def test_reflection_numbers():
    structure = read_cubic()
    found = reflection_items(structure, hkl_list(), 100, WAVELENGTH)
    d = 10.0 / np.array([1.0, 5**0.5, 14**0.5, 8**0.5, 3.0])
    assert float(found["_reflns_d_resolution_high"]) == pytest.approx(d.min(), abs=1e-3)
    assert float(found["_reflns_d_resolution_low"]) == pytest.approx(10.0, abs=1e-3)
    theta = np.degrees(np.arcsin(WAVELENGTH / 2.0 / d.min()))
    assert float(found["_diffrn_reflns_theta_max"]) == pytest.approx(theta, abs=1e-3)
    assert (found["_diffrn_reflns_number"], found["_reflns_number_total"], found["_reflns_number_gt"]) == (
        100,
        6,
        3,
    )
    of_intensity = replace(hkl_list(), sigma=0.05 * np.abs(hkl_list().measured))
    found |= reflection_items(structure, of_intensity, 100, WAVELENGTH)
    assert found["_diffrn_reflns_av_unetI/netI"] == "0.0500"
    limits = [found[f"_diffrn_reflns_limit_{h}_{end}"] for h in "hkl" for end in ("min", "max")]
    assert limits == [-3, 2, 0, 2, 0, 3]
    # 100 012 312 220 003 of all h >= k >= l with h^2 + k^2 + l^2 <= 14, m-3m
    unique = {tuple(sorted(map(abs, h))) for h in np.ndindex(4, 4, 4) if 0 < sum(np.square(h)) <= 14}
    assert float(found["_diffrn_measured_fraction_theta_max"]) == pytest.approx(5 / len(unique), abs=1e-3)


def read_cubic() -> xray.structure:
    structure = xray.structure(crystal_symmetry=crystal.symmetry((10, 10, 10, 90, 90, 90), "Pm-3m"))
    structure.add_scatterer(xray.scatterer("Po1", (0, 0, 0)))
    return structure


def test_reflection_list():
    reflections = hkl_list()
    block, positions = reflection_blocks(read_cubic(), reflections)
    order = [5, 2, 4, 0, 1, 3]  # crystal, then angle
    hkl = np.array([[int(x) for x in block[f"_refln_index_{h}"]] for h in "hkl"]).T
    assert hkl.tolist() == reflections.hkl[order].tolist()
    for name, values in {
        "_refln_F_squared_meas": reflections.measured,
        "_refln_F_squared_calc": reflections.calculated,
        "_refln_F_squared_sigma": reflections.sigma,
    }.items():
        assert [float(x) for x in block[name]] == pytest.approx(values[order].tolist(), rel=1e-5)
    assert list(block["_refln_include_status"]) == ["<", "o", "o", "o", "<", "<"]
    assert list(block["_refln_refinement_status"]) == ["incl", "excl", "incl", "incl", "incl", "incl"]
    assert list(block["_refln_crystal_id"]) == ["1", "1", "1", "1", "2", "2"]
    assert list(block["_exptl_crystal_id"]) == ["1", "2"]
    assert [float(x) for x in positions["_diffrn_refln_angle_omega"]] == reflections.angle[order].tolist()
    for h in "hkl":
        assert list(positions[f"_diffrn_refln_index_{h}"]) == list(block[f"_refln_index_{h}"])
    assert "_reflns_special_details" not in block


def test_virtual_frames_have_codes():
    block, _ = reflection_blocks(read_cubic(), hkl_list(frame=1))
    assert list(block["_refln_scale_group_code"]) == ["1", "1", "2", "2", "4", "3"]
    assert list(block["_reflns_scale_group_code"]) == ["1", "2", "3", "4"]
    lines = block["_reflns_special_details"].split("\n")
    assert lines[0] == "scale group 1: crystal 1, virtual frame 4"
    assert lines[3] == "scale group 4: crystal 2, virtual frame 5"


@pytest.mark.parametrize("frames", [{}, {"frame": 1}])
def test_cctbx_reads_the_reflections(frames):
    reflections = hkl_list(**frames)
    intensities, positions = reflection_blocks(read_cubic(), reflections)
    text = io.StringIO()
    print(model.cif({"reflections": intensities, "positions": positions}), file=text)
    arrays = iotbx.cif.reader(input_string=text.getvalue()).as_miller_arrays()
    found = [list(array.data()) for array in arrays if "F_squared_meas" in str(array.info())]
    assert len(found) == (4 if frames else 2)  # one a scale group
    assert sorted(sum(found, [])) == pytest.approx(sorted(reflections.measured), rel=1e-5)
