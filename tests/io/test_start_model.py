"""Start models of files without instructions."""

from __future__ import annotations

import pytest
from organic import alcohol

from dials_hybrid.io.start_model import prepare_model
from dials_hybrid.io.structure import read_model, read_structure

JANA = """\
data_global
_journal_date_recd_electronic ?
_audit_creation_method 'Jana2020'
data_I
_space_group_name_H-M_alt 'P 1 21 1'
_cell_length_a 5.1
_cell_length_b 6.2
_cell_length_c 7.3
_cell_angle_alpha 90
_cell_angle_beta 98(1)
_cell_angle_gamma 90
loop_
_space_group_symop_id
_space_group_symop_operation_xyz
1 x,y,z
2 -x,y+1/2,-z
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_adp_type
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
_atom_site_occupancy
_atom_site_calc_flag
_atom_site_refinement_flags_posn
O1 O Uani 0.1012(3) 0.2 0.3001(2) 0.0212(8) 1 d .
C1 C Uani 0.3012(3) 0.3042(4) 0.2401(2) 0.0212(8) 1 d .
H1o1 H Uiso 0.0402 0.2971 0.3899 0.0254 1 calc R
loop_
_atom_site_aniso_label
_atom_site_aniso_U_11
_atom_site_aniso_U_22
_atom_site_aniso_U_33
_atom_site_aniso_U_12
_atom_site_aniso_U_13
_atom_site_aniso_U_23
O1 0.021(1) 0.022(1) 0.020(1) 0.001(1) 0.002(1) 0.003(1)
C1 0.020(1) 0.023(1) 0.021(1) 0.001(1) 0.002(1) 0.003(1)
"""


def test_blocks_of_jana(tmp_path):
    (tmp_path / "jana.cif").write_text(JANA)
    found = prepare_model(read_model(tmp_path / "jana.cif"))
    assert found.constraints.riding == ("H1o1",)
    assert found.restraints is None
    assert len(found.constraints.names) == 18 and len(found.constraints.origin_shifts) == 1
    o1, _, h1 = found.structure.scatterers()
    assert found.structure.unit_cell().distance(o1.site, h1.site) == pytest.approx(0.98)
    assert h1.u_iso == pytest.approx(1.5 * o1.u_iso_or_equiv(found.structure.unit_cell()))


@pytest.mark.parametrize(
    ("groups", "parts", "riding"),
    [
        (". . .", (), True),
        ("? . A", (), True),
        ("1 . 1", (1, 0, 1), True),
        ("1 . 2", (1, 0, 2), False),
        (". . -1", (0, 0, -1), True),
    ],
)
def test_groups_of_disorder(tmp_path, groups, parts, riding):
    """The hydrogen atom rides on one of its own alternative, or of none."""
    text = JANA.replace("flags_posn\n", "flags_posn\n_atom_site_disorder_group\n")
    o1, c1, h1 = groups.split()
    text = text.replace("d .\nC1", f"d . {o1}\nC1").replace("d .\nH1", f"d . {c1}\nH1")
    text = text.replace("calc R", f"calc R {h1}")
    (tmp_path / "jana.cif").write_text(text)
    found = prepare_model(read_model(tmp_path / "jana.cif")).constraints
    assert found.parts == parts
    assert found.riding == (("H1o1",) if riding else ())


def test_a_structure_from_python_is_left_as_it_is(tmp_path):
    (tmp_path / "model.res").write_text(alcohol())
    structure = read_structure(tmp_path / "model.res")
    before = [(s.site, s.u_iso, s.u_star, s.flags.bits) for s in structure.scatterers()]
    prepare_model(structure, hydrogens="riding", fix=["element O"])
    assert [(s.site, s.u_iso, s.u_star, s.flags.bits) for s in structure.scatterers()] == before


@pytest.mark.parametrize("adp, anisotropic", [("auto", 9), ("anisotropic", 10), ("isotropic", 0)])
def test_displacements_of_a_shelx_file(tmp_path, adp, anisotropic):
    """One of ten atoms beside hydrogen is isotropic in the file."""
    text = alcohol().replace("11.00000 0.03300 0.03630 =\n   0.02970 0.00165 0.00277 -0.00231", "11.0 0.033")
    (tmp_path / "model.res").write_text(text)
    found = prepare_model(read_model(tmp_path / "model.res"), adp=adp).structure
    assert found.use_u_aniso().count(True) == anisotropic


def test_unknown_choice(tmp_path):
    (tmp_path / "model.res").write_text(alcohol())
    with pytest.raises(ValueError, match="hydrogens is one of auto, fixed, riding, refined, not 'other'"):
        prepare_model(read_model(tmp_path / "model.res"), hydrogens="other")
