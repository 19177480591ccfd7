from __future__ import annotations

import logging
import math

import pytest
import torch

from cctbx import adptbx, sgtbx, xray
from cctbx.array_family import flex

from dials_hybrid.io.structure import prepare_structure, read_model, read_structure
from dials_hybrid.io.tensors import atomic_model

QUARTZ_CIF = """\
data_quartz
_symmetry_space_group_name_H-M 'P 32 2 1'
_space_group_name_Hall 'P 32 2"'
_symmetry_Int_Tables_number 154
_cell_length_a 4.913
_cell_length_b 4.913
_cell_length_c 5.405
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
_atom_site_occupancy
Si1 Si 0.4697 0.0 0.66667 0.008 1
O1 O 0.4135 0.2669 0.78577 0.014 1
"""

QUARTZ_RES = """\
TITL quartz
CELL 0.0251 4.913 4.913 5.405 90 90 120
ZERR 3 0.001 0.001 0.001 0 0 0
LATT -1
SYMM -Y,X-Y,2/3+Z
SYMM -X+Y,-X,1/3+Z
SYMM Y,X,-Z
SYMM X-Y,-Y,1/3-Z
SYMM -X,-X+Y,2/3-Z
SFAC Si O
UNIT 3 6
FVAR 1.0
Si1 1 0.4697 10.0 10.66667 10.5 0.008
O1 2 0.4135 0.2669 0.78577 11.0 0.014
HKLF 4
END
Q1 1 0.1 0.2 0.3 11.0 0.05 1.2
"""

LONG_SFAC = """\
SFAC Si 0.2519 0.3075 0.6372 2.0174 1.3795 9.6746 2.5082 29.3744 =
 1.05 0 0 0 1.1 28.085
SFAC O 0.0974 0.2067 0.2921 1.3815 0.6910 4.6943 0.6990 12.7105 =
 0.2 0 0 0 0.7 15.999 ! from a table
"""

PEPTIDE_PDB = """\
CRYST1   10.000   12.000   14.000  90.00  90.00  90.00 P 21 21 21    4
ATOM      1  N   GLY A   1       1.000   2.000   3.000  1.00 10.00           N
ATOM      2  CA  GLY A   1       2.000   2.500   3.500  1.00 10.00           C
END
"""


@pytest.fixture
def read(tmp_path):
    def read(text: str, name: str = "model.cif", **options):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_structure(tmp_path / name, **options)

    return read


@pytest.fixture
def warnings(caplog):
    """Messages of the reader; DIALS's log configuration may stop them on their way to the root."""
    logger = logging.getLogger("dials.hybrid_refine.io.structure")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def structure(symbol: str, *scatterers: xray.scatterer, volume: float = 400.0) -> xray.structure:
    symmetry = sgtbx.space_group_info(symbol).any_compatible_crystal_symmetry(volume=volume)
    return xray.structure(crystal_symmetry=symmetry, scatterers=flex.xray_scatterer(scatterers))


def without(text: str, *words: str) -> str:
    return "\n".join(line for line in text.splitlines() if not any(w in line for w in words)) + "\n"


# reading


@pytest.mark.parametrize(
    "name, text",
    [
        ("model.cif", QUARTZ_CIF),
        ("MODEL.CIF", QUARTZ_CIF),
        ("model.res", QUARTZ_RES),
        ("model.ins", QUARTZ_RES.replace("SFAC Si O\n", LONG_SFAC)),
    ],
)
def test_quartz_is_the_same_in_every_format(read, name, text):
    quartz = read(text, name)
    assert quartz.space_group_info().symbol_and_number() == "P 32 2 1 (No. 154)"
    assert quartz.unit_cell().parameters() == pytest.approx((4.913, 4.913, 5.405, 90, 90, 120))
    silicon, oxygen = quartz.scatterers()
    assert (silicon.scattering_type, oxygen.scattering_type) == ("Si", "O")
    assert silicon.site == pytest.approx((0.4697, 0, 2 / 3), abs=1e-12)  # on the twofold axis
    assert oxygen.site == pytest.approx((0.4135, 0.2669, 0.78577))
    assert (silicon.occupancy, oxygen.occupancy) == (1, 1)
    assert (silicon.multiplicity(), oxygen.multiplicity()) == (3, 6)
    assert (silicon.u_iso, oxygen.u_iso) == (0.008, 0.014)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("model.cif", QUARTZ_CIF, None),
        ("model.cif", QUARTZ_CIF.replace("loop_", "_cell_formula_units_Z 3\nloop_", 1), 3),
        ("model.cif", QUARTZ_CIF.replace("loop_", "_cell_formula_units_Z ?\nloop_", 1), None),
        ("model.res", QUARTZ_RES, 3),
    ],
)
def test_formula_units(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_model(tmp_path / name).formula_units == expected


def test_pdb(read):
    peptide = read(PEPTIDE_PDB, "model.pdb")
    assert list(peptide.scatterers().extract_labels()) == ["N_GLY_A_1", "CA_GLY_A_1"]
    assert peptide.scatterers()[0].site == pytest.approx((0.1, 2 / 12, 3 / 14))
    assert peptide.scatterers()[0].u_iso == pytest.approx(10 / (8 * math.pi**2))


def test_block_with_atoms_is_taken(read, warnings):
    assert read("data_global\n_journal_name_full ?\n" + QUARTZ_CIF).scatterers().size() == 2
    assert not warnings.messages
    read(QUARTZ_CIF + QUARTZ_CIF.replace("data_quartz", "data_again"))
    assert "2 structures: taking the first, data_quartz" in warnings.text


def test_space_group_number_does_not_change_the_setting(read):
    text = without(QUARTZ_CIF, "Hall", "O1").replace("154", "62").replace("P 32 2 1", "P b n m")
    pbnm = read(text.replace("120", "90"))
    assert str(pbnm.space_group_info()) == "P b n m"


def test_an_unknown_value_does_not_spoil_its_column(read):
    text = QUARTZ_CIF.replace("0.008 1", "? 0.9").replace("0.014 1", "0.014 .")
    silicon, oxygen = read(text).scatterers()
    assert (silicon.u_iso, silicon.occupancy) == (0, 0.9)
    assert (oxygen.u_iso, oxygen.occupancy) == (0.014, 1)


def test_text_fields_and_comments_may_speak_of_loops(read):
    text = "_refine_special_details\n; loop_ over\n; # loop_ again\n"
    assert read("# a loop_ 1\n" + QUARTZ_CIF.replace("loop_", text + "loop_ # 2\n ")).scatterers().size() == 2


def test_text_that_is_not_ascii(read):
    assert read(("# 25 \xb0C\n" + QUARTZ_CIF).encode("latin-1")).scatterers().size() == 2
    assert read(QUARTZ_CIF + "_publ_author_name 'Ångström'\n").scatterers().size() == 2


def test_site_near_a_special_position_is_moved_and_reported(read, warnings):
    off_axis = QUARTZ_CIF.replace("0.4697 0.0 ", "0.4697 0.03 ")
    assert read(off_axis).scatterers()[0].multiplicity() == 3
    assert "Atom Si1 was moved by 0.128 A onto a special position" in warnings.text
    assert read(off_axis, min_distance_sym_equiv=0.1).scatterers()[0].multiplicity() == 6


HOSTILE = {
    "empty.cif": "",
    "binary.cif": b"\x00\x01\xff\xfe" * 100,
    "no_cell.cif": without(QUARTZ_CIF, "_cell_"),
    "half_a_cell.cif": without(QUARTZ_CIF, "_cell_length_c"),
    "zero_cell.cif": QUARTZ_CIF.replace("5.405", "0"),
    "nan_cell.cif": QUARTZ_CIF.replace("5.405", "nan"),
    "tiny_cell.cif": QUARTZ_CIF.replace("5.405", "0.2"),
    "wrong_cell.cif": QUARTZ_CIF.replace("120", "119"),
    "no_space_group.cif": without(QUARTZ_CIF, "H-M", "Hall", "Tables"),
    "number_only.cif": without(QUARTZ_CIF, "H-M", "Hall"),
    "wrong_operator.cif": QUARTZ_CIF.replace(
        "_cell_length_a", "_symmetry_equiv_pos_as_xyz 2x,y,z\n_cell_length_a"
    ),
    "no_atoms.cif": QUARTZ_CIF[: QUARTZ_CIF.index("loop_")],
    "no_rows.cif": without(QUARTZ_CIF, "Si1", "O1"),
    "no_names.cif": without(QUARTZ_CIF, "_atom_site"),
    "loop_in_loop.cif": QUARTZ_CIF.replace("0.4697", "loop_"),
    "no_end_of_text.cif": without(QUARTZ_CIF, "Si1", "O1") + ";text\n",
    "cut.cif": QUARTZ_CIF[:-10],
    "nan.cif": QUARTZ_CIF.replace("0.4697", "nan"),
    "far_away.cif": QUARTZ_CIF.replace("0.4697", "1e300"),
    "unknown_site.cif": QUARTZ_CIF.replace("0.4697", "?"),
    "words.cif": QUARTZ_CIF.replace("0.4697", "word"),
    "bad_label.cif": without(QUARTZ_CIF, "type_symbol").replace("Si1 Si", "Zz").replace("O1 O", "O1"),
    "twice.cif": QUARTZ_CIF.replace("_length_b", "_length_a"),
    "empty.res": "",
    "junk.res": "junk\n",
    "no_cell.res": without(QUARTZ_RES, "CELL"),
    "short_cell.res": QUARTZ_RES.replace("4.913 4.913", "4.913"),
    "no_space_group.res": without(QUARTZ_RES, "LATT"),
    "no_elements.res": without(QUARTZ_RES, "SFAC"),
    "wrong_element.res": QUARTZ_RES.replace("O1 2", "O1 7"),
    "no_atoms.res": without(QUARTZ_RES, "Si1", "O1 "),
    "nan.res": QUARTZ_RES.replace("0.4697", "nan"),
    "wrong_operator.res": QUARTZ_RES.replace("Y,X,-Z", "foo"),
    "empty.pdb": "",
    "binary.pdb": b"\x00\xff" * 100,
    "no_cell.pdb": without(PEPTIDE_PDB, "CRYST1"),
    "dummy_cell.pdb": PEPTIDE_PDB.replace("10.000   12.000   14.000", " 1.000    1.000    1.000"),
    "no_space_group.pdb": PEPTIDE_PDB.replace("P 21 21 21", " " * 10),
    "no_atoms.pdb": without(PEPTIDE_PDB, "ATOM"),
    "unknown_element.pdb": PEPTIDE_PDB.replace("           N", "          XX"),
    "quartz.txt": QUARTZ_CIF,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_file_is_one_sentence_with_its_name(read, name):
    with pytest.raises(ValueError) as error:
        read(HOSTILE[name], name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("no_atoms.cif", "no data block with atoms"),
        ("no_atoms.res", "no atoms"),
        ("no_cell.res", "no cell"),
        ("no_space_group.pdb", "no space group"),
        ("dummy_cell.pdb", "a cell of 1 A.3 is too small for its 8 atoms"),
        ("nan.cif", "atom Si1 has parameters that are not usable numbers"),
        ("quartz.txt", "ends in .cif, .ins, .pdb, .res"),
    ],
)
def test_bad_file_says_what_is_wrong(read, name, reason):
    with pytest.raises(ValueError, match=reason):
        read(HOSTILE[name], name)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="nothing.cif: no such file"):
        read_structure(tmp_path / "nothing.cif")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "model.cif").mkdir()
    with pytest.raises(ValueError, match="model.cif: it is a folder"):
        read_structure(tmp_path / "model.cif")


# preparing


@pytest.fixture
def water():
    """A molecule with a heavy atom, hydrogen, deuterium."""
    return structure(
        "P212121",
        xray.scatterer("O1", (0.1, 0.2, 0.3), u=0.02),
        xray.scatterer("H1", (0.2, 0.2, 0.3), u=0.03),
        xray.scatterer("D2", (0.1, 0.3, 0.3), u=0.03, scattering_type="D"),
    )


def test_prepare_leaves_its_input_alone(water):
    before = water.deep_copy_scatterers()
    prepare_structure(water, refine_occupancies=True)
    for old, new in zip(before.scatterers(), water.scatterers(), strict=True):
        assert (old.scattering_type, old.u_iso, old.flags.bits) == (
            new.scattering_type,
            new.u_iso,
            new.flags.bits,
        )


@pytest.mark.parametrize("adp, oxygen_is_anisotropic", [("anisotropic", True), ("isotropic", False)])
def test_displacement_parameters(water, adp, oxygen_is_anisotropic):
    water.convert_to_anisotropic()
    prepared = prepare_structure(water, adp=adp)
    assert list(prepared.use_u_aniso()) == [oxygen_is_anisotropic, False, False]
    assert list(prepared.extract_u_iso_or_u_equiv()) == pytest.approx([0.02, 0.03, 0.03])
    assert list(prepared.scatterers().extract_scattering_types()) == ["O", "H", "H"]


def test_displacement_parameters_as_they_are(water):
    water.convert_to_anisotropic(selection=flex.bool([False, True, False]))
    assert list(prepare_structure(water, adp="as_is").use_u_aniso()) == [False, True, False]


def test_refinement_flags(water):
    oxygen, hydrogen, _ = prepare_structure(water).scatterers()
    assert oxygen.flags.grad_site() and oxygen.flags.grad_u_aniso()
    assert not oxygen.flags.grad_occupancy() and not oxygen.flags.grad_u_iso()
    assert not hydrogen.flags.grad_site() and not hydrogen.flags.grad_u_iso()
    oxygen, hydrogen, _ = prepare_structure(water, hydrogens="refined", refine_occupancies=True).scatterers()
    assert oxygen.flags.grad_occupancy() and hydrogen.flags.grad_occupancy()
    assert hydrogen.flags.grad_site() and hydrogen.flags.grad_u_iso()


def test_x_ray_dispersion_is_dropped():
    lead = structure("P1", xray.scatterer("Pb1", u=0.01, fp=-4.0, fdp=8.0))
    lead.scatterers()[0].flags.set_use_fp_fdp(True)
    scatterer = prepare_structure(lead).scatterers()[0]
    assert (scatterer.fp, scatterer.fdp, scatterer.flags.use_fp_fdp()) == (0, 0, False)


@pytest.mark.parametrize("ion, element", [("O2-", "O"), ("Si4+", "Si"), ("O1-", "O"), ("Br-", "Br")])
def test_ions(ion, element, warnings):
    ionic = structure("P1", xray.scatterer("A1", u=0.01, scattering_type=ion))
    with pytest.raises(ValueError, match=r"atom A1 is the ion .*structure\.ions=neutral"):
        prepare_structure(ionic)
    neutral = prepare_structure(ionic, ions="neutral")
    assert neutral.scatterers()[0].scattering_type == element
    assert f"neutral atoms stand in for {ion}" in warnings.text
    kept = prepare_structure(ionic, ions="ionic")
    assert kept.scatterers()[0].scattering_type == ion
    atoms, expected = atomic_model(kept), atomic_model(neutral)
    assert atoms.elements == (ion,)
    assert torch.equal(atoms.form_factor_a, expected.form_factor_a)  # until bloch.form_factors


@pytest.mark.parametrize(
    "kind, element", [("SI", "Si"), ("Cval", "C"), ("O0+", "O"), ("Si1", "Si"), ("D", "H")]
)
def test_spellings_of_elements(kind, element):
    spelled = structure("P1", xray.scatterer("A1", u=0.01, scattering_type=kind))
    assert prepare_structure(spelled).scatterers()[0].scattering_type == element


@pytest.mark.parametrize("kind", ["Xx", "Q", "?", "", "Wat", "Es"])
def test_unknown_elements(kind):
    unknown = structure("P1", xray.scatterer("Q1", u=0.01, scattering_type=kind))
    with pytest.raises(ValueError, match="atom Q1 has the type .* no electron scattering factors"):
        prepare_structure(unknown, ions="neutral")


def test_repeated_labels_are_numbered(warnings):
    labels = ["O1", "O1", "O1_2", "O1"]
    sites = [(0.1 * i, 0.2, 0.3) for i in range(4)]
    scatterers = [xray.scatterer(label, site, u=0.01) for label, site in zip(labels, sites, strict=True)]
    prepared = prepare_structure(structure("P1", *scatterers))
    assert list(prepared.scatterers().extract_labels()) == ["O1", "O1_2", "O1_2_2", "O1_3"]
    assert "O1_2, O1_2_2, O1_3" in warnings.text


@pytest.mark.parametrize(
    "u, expected", [(0.0, 0.01), (-0.02, 0.01), ((0.03, 0.03, -0.01, 0, 0, 0), 0.05 / 3)]
)
@pytest.mark.parametrize("adp", ["anisotropic", "as_is"])
def test_bad_displacement_parameters_are_reset(u, expected, adp, warnings):
    bad = structure("P1", xray.scatterer("O1", u=0.01), xray.scatterer("O2", (0.5, 0, 0), u=0.02))
    if isinstance(u, tuple):
        bad.convert_to_anisotropic(selection=flex.bool([True, False]))
        bad.scatterers()[0].u_star = adptbx.u_cart_as_u_star(bad.unit_cell(), u)
    else:
        bad.scatterers()[0].u_iso = u
    prepared = prepare_structure(bad, adp=adp)
    assert list(prepared.extract_u_iso_or_u_equiv()) == pytest.approx([expected, 0.02])
    assert prepared.min_u_cart_eigenvalue() > 0
    assert "O1" in warnings.text and "O2" not in warnings.text


@pytest.mark.parametrize("option", ["adp", "ions", "hydrogens"])
def test_unknown_choice(water, option):
    with pytest.raises(ValueError, match=f"{option} is one of .*, not 'other'"):
        prepare_structure(water, **{option: "other"})


def test_structures_from_python_are_checked(water):
    with pytest.raises(ValueError, match="no atoms"):
        prepare_structure(water.select(flex.bool(3, False)))
    water.scatterers()[0].occupancy = math.nan
    with pytest.raises(ValueError, match="atom O1"):
        prepare_structure(water)
