from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import iotbx.cif
from cctbx import adptbx, sgtbx, xray

from dials_hybrid.io.cif import SCATTERING_SOURCES, refinement_items, structure_cif_block, write_cif
from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.structure import prepare_structure, read_structure
from dials_hybrid.io.tensors import atomic_model, updated_structure

SITES = [(0, 0, 0), (0.3, 0, 2 / 3), (0.2, 0.4, 0.25), (0.11, 0.22, 0.33), (0.41, 0.23, 0.17)]
U_CIF = [f"_atom_site_aniso_U_{ij}" for ij in (11, 22, 33, 12, 13, 23)]


def example(symbol: str, **options) -> xray.structure:
    """Atoms on general and special positions with displacement parameters that are no spheres."""
    symmetry = sgtbx.space_group_info(symbol).any_compatible_crystal_symmetry(volume=1000)
    structure = xray.structure(crystal_symmetry=symmetry)
    for i, site in enumerate(SITES):
        structure.add_scatterer(xray.scatterer(f"C{i}", site, u=0.02 + 0.01 * i, occupancy=0.9))
    structure.add_scatterer(xray.scatterer("H1", (0.6, 0.3, 0.1), u=0.05))
    prepared = prepare_structure(structure, **options)
    jacobian = constraints(prepared).jacobian
    shifts = torch.linspace(-2e-5, 2e-5, len(jacobian), dtype=torch.float64)
    table = atomic_model(prepared).parameters
    return updated_structure(prepared, table + (jacobian.T @ shifts).reshape(table.shape))


def correlated(names: tuple[str, ...], su: float = 1e-4) -> np.ndarray:
    """A covariance with correlations between all parameters; the u_ij get smaller s.u.s."""
    n = len(names)
    noise = np.random.default_rng(0).normal(size=(n, 3 * n))
    scale = np.array([su / 100 if ".u" in name else su for name in names])
    return noise @ noise.T / (3 * n) * np.outer(scale, scale)


def parse(text: str) -> tuple[float, float | None]:
    """Value and s.u. of a CIF number."""
    value, su = re.fullmatch(r"(-?[\d.]+)(?:\((\d+)\))?", text).groups()
    if su is None:
        return float(value), None
    return float(value), int(su) * 10.0 ** -len(value.partition(".")[2])


def column(block, name: str, label: str) -> tuple[float, float | None]:
    label_name = "_atom_site_aniso_label" if "aniso" in name else "_atom_site_label"
    return parse(block[name][list(block[label_name]).index(label)])


def numerical_su(structure, found, covariance, i, value) -> float:
    """The s.u. of value(scatterer i) by finite differences in the independent parameters."""
    table, step = atomic_model(structure).parameters, 1e-7
    gradient = []
    for row in found.jacobian:
        shift = (step * row).reshape(table.shape)
        moved = (updated_structure(structure, table + s) for s in (shift, -shift))
        plus, minus = (value(s.scatterers()[i]) for s in moved)
        gradient.append((plus - minus) / (2 * step))
    return float(np.sqrt(gradient @ covariance @ np.array(gradient)))


@pytest.mark.parametrize("symbol", ["P1", "P3221", "R-3c:H", "R-3c:R", "Pbnm", "I4/mmm"])
def test_standard_uncertainties_are_propagated(symbol):
    structure = example(symbol, refine_occupancies=True)
    found = constraints(structure)
    covariance = correlated(found.names)
    block = structure_cif_block(structure, covariance, found)
    cell = structure.unit_cell()
    checks = {
        "_atom_site_fract_x": lambda s: s.site[0],
        "_atom_site_fract_y": lambda s: s.site[1],
        "_atom_site_fract_z": lambda s: s.site[2],
        "_atom_site_occupancy": lambda s: s.occupancy,
        "_atom_site_U_iso_or_equiv": lambda s: s.u_iso_or_equiv(cell),
        **{name: lambda s, i=i: adptbx.u_star_as_u_cif(cell, s.u_star)[i] for i, name in enumerate(U_CIF)},
    }
    for i in range(len(SITES)):
        for name, value in checks.items():
            printed, su = column(block, name, f"C{i}")
            expected = numerical_su(structure, found, covariance, i, value)
            exact = value(structure.scatterers()[i])
            if expected < 1e-9:
                assert su is None, (name, i)
                assert printed == pytest.approx(exact, abs=5e-7)
            else:
                assert su == pytest.approx(expected, rel=0.26), (name, i)  # two digits, from 2 to 19
                assert abs(printed - exact) <= 0.26 * expected


def test_hydrogen_that_is_not_refined_has_no_su():
    structure = example("P212121")
    found = constraints(structure)
    block = structure_cif_block(structure, correlated(found.names), found)
    for name in ("_atom_site_fract_x", "_atom_site_U_iso_or_equiv", "_atom_site_occupancy"):
        assert column(block, name, "H1")[1] is None


def test_quartz_by_hand(quartz_dials):
    quartz = prepare_structure(read_structure(quartz_dials / "quartz_P3221.cif"))
    found = constraints(quartz)
    a, c = 4.913, 5.405
    a_star, c_star = 2 / (np.sqrt(3) * a), 1 / c
    # Standard uncertainties in U [A^2] of Si: 0.0003 for U11, 0.0002 for U33, 0.0001 for U12.
    su = np.full(len(found.names), 1e-5)
    su[list(found.names).index("Si1.x")] = 0.0002
    su[list(found.names).index("Si1.u11")] = 0.0003 * a_star**2
    su[list(found.names).index("Si1.u33")] = 0.0002 * c_star**2
    su[list(found.names).index("Si1.u12")] = 0.0001 * a_star**2
    block = structure_cif_block(quartz, np.diag(su**2), found)
    assert block["_atom_site_fract_x"][0] == "0.4697(2)"
    assert block["_atom_site_fract_y"][0] == "0.000000"
    assert block["_atom_site_fract_z"][0] == "0.666667"
    assert [block[name][0] for name in U_CIF[:4]] == ["0.0080(3)", "0.0080(2)", "0.0080(2)", "0.00400(10)"]
    # U_eq = (4/3 (U11 + U22 - U12) + U33) / 3 with U22 = 2 U12
    su_equivalent = np.hypot(4 / 9 * np.hypot(0.0003, 0.0001), 0.0002 / 3)
    assert su_equivalent == pytest.approx(0.000155, abs=1e-6)
    assert block["_atom_site_U_iso_or_equiv"][0] == "0.00800(16)"


def test_equivalent_isotropic_is_a_third_of_the_trace():
    structure = example("R-3c:H")
    found = constraints(structure)
    block = structure_cif_block(structure, correlated(found.names, su=1e-7), found)
    for i in range(len(SITES)):
        u11, u22, u33, u12 = (column(block, name, f"C{i}")[0] for name in U_CIF[:4])
        equivalent = (4 / 3 * (u11 + u22 - u12) + u33) / 3
        assert column(block, "_atom_site_U_iso_or_equiv", f"C{i}")[0] == pytest.approx(equivalent, abs=1e-6)


def test_origin_projected_out_leaves_a_variance_of_zero():
    structure = example("P1")
    found = constraints(structure)
    shifts = found.origin_shifts.numpy()
    keep = np.eye(len(found.names)) - shifts.T @ shifts
    covariance = keep @ correlated(found.names) @ keep
    covariance[:3] = covariance[:, :3] = 0
    covariance[0, 0] = -1e-25  # what rounding makes of an atom that holds the origin
    block = structure_cif_block(structure, covariance, found)
    assert column(block, "_atom_site_fract_x", "C0")[1] is None
    assert column(block, "_atom_site_fract_x", "C3")[1] > 0


@pytest.mark.parametrize("symbol", ["P1", "P21/c", "Pbnm", "P3221", "R-3c:H", "R-3c:R", "Fd-3m:1", "I4/mmm"])
@pytest.mark.parametrize("adp", ["anisotropic", "isotropic"])
def test_round_trip(tmp_path, symbol, adp):
    structure = example(symbol, adp=adp, refine_occupancies=True)
    found = constraints(structure)
    block = structure_cif_block(structure, correlated(found.names, su=1e-5), found)
    write_cif(tmp_path / "refined.cif", {"refined": block})
    again = prepare_structure(read_structure(tmp_path / "refined.cif"), adp="as_is")
    assert again.space_group() == structure.space_group()
    assert again.unit_cell().is_similar_to(structure.unit_cell(), 2e-6, 1e-5)
    assert list(again.scatterers().extract_labels()) == list(structure.scatterers().extract_labels())
    assert list(again.use_u_aniso()) == list(structure.use_u_aniso())
    difference = atomic_model(again).parameters - atomic_model(structure).parameters
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("adp", ["anisotropic", "isotropic"])
def test_source_of_the_scattering_factors(adp):
    structure = example("P1", adp=adp)
    found = constraints(structure)
    block = structure_cif_block(structure, correlated(found.names), found)
    assert list(block["_atom_type_symbol"]) == ["C", "H"]
    assert list(block["_atom_type_scat_source"]) == [SCATTERING_SOURCES["peng"]] * 2
    assert "Cromer_Mann" not in str(block)


def test_wrong_covariance():
    structure = example("P1")
    found = constraints(structure)
    n = len(found.names)
    for bad in (np.zeros((n - 1, n - 1)), np.full((n, n), np.nan)):
        with pytest.raises(ValueError, match=f"the covariance must be a finite matrix of {n} x {n}"):
            structure_cif_block(structure, bad, found)


ITEMS = {
    "_refine_ls_R_factor_gt": (0.083123456, "0.0831235"),
    "_refine_ls_number_reflns": (1070, "1070"),
    "_refine_ls_shift/su_max": (None, "?"),
    "_diffrn_ambient_temperature": ("293(2)", "293(2)"),
    "_refine_ls_extinction_method": ("none", "none"),
    "_computing_structure_refinement": ("DIALS, it's said", "DIALS, it's said"),
    "_refine_special_details": ("first line\n;second line", "first line\n ;second line"),
    "_publ_author_name": ("Ångström", "?ngstr?m"),
    "_audit_creation_method": ("data_like", "data_like"),
    "_exptl_crystal_colour": ("", ""),
    "_chemical_name_common": ("#1 'quoted' text", "#1 'quoted' text"),
}


def test_items_are_read_back(tmp_path):
    block = iotbx.cif.model.block()
    refinement_items(block, {name: given for name, (given, _) in ITEMS.items()})
    write_cif(tmp_path / "items.cif", {"a name with spaces": block})
    blocks = iotbx.cif.reader(file_path=str(tmp_path / "items.cif")).model()
    assert list(blocks) == ["a_name_with_spaces"]
    found = {name: value.strip() for name, value in blocks["a_name_with_spaces"].items()}
    assert found == {name: expected for name, (_, expected) in ITEMS.items()}


@pytest.mark.parametrize("name", ["R_factor", "_two words", "_", "_naïve"])
def test_wrong_data_name(name):
    with pytest.raises(ValueError, match="is not a CIF data name"):
        refinement_items(iotbx.cif.model.block(), {name: 1})


def test_several_blocks(tmp_path):
    blocks = {name: iotbx.cif.model.block() for name in ("refined", "other_hand")}
    refinement_items(blocks["other_hand"], {"_refine_ls_R_factor_gt": 0.1})
    write_cif(tmp_path / "two.cif", blocks)
    assert list(iotbx.cif.reader(file_path=str(tmp_path / "two.cif")).model()) == ["refined", "other_hand"]


def test_missing_folder(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_cif(tmp_path / "nowhere" / "refined.cif", {})
