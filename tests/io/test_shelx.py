"""SHELX files: what is refined of them, against smtbx's own reading of the same files."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
import torch
from organic import ATOMS, alcohol

import smtbx.utils
from cctbx.array_family import flex
from iotbx.shelx import parse_smtbx_refinement_model
from smtbx.refinement.constraints import reparametrisation

from dials_hybrid.data import ATOM_PARAMETERS
from dials_hybrid.io.cif import structure_cif_block, write_cif
from dials_hybrid.io.start_model import prepare_model
from dials_hybrid.io.structure import read_model
from dials_hybrid.io.tensors import atomic_model

WIDTH = len(ATOM_PARAMETERS)
# Two alternatives of a methyl group and of an oxygen atom that share one free variable.
DISORDER = """\
C1   1  0.10 0.20 0.30 11.0 0.02 0.02 0.02 0.001 0.002 0.003
PART 1
C2A  1  0.20 0.25 0.35 21.0 0.03
O3A  3  0.31 0.24 0.36 21.0 0.03
PART 2
C2B  1  0.19 0.27 0.28 -21.0 0.03
O3B  3  0.30 0.31 0.27 -21.0 0.03
PART 0
C4   1  0.05 0.05 0.31 11.0 0.02
"""


def test_parts_are_those_of_a_cif_made_of_the_file(tmp_path):
    (tmp_path / "model.res").write_text(alcohol(atoms=DISORDER, fvar="FVAR 1.0 0.7\n"))
    model = read_model(tmp_path / "model.res")
    assert model.parts == (0, 1, 1, 2, 2, 0)
    prepared = prepare_model(model)
    covariance = np.zeros((len(prepared.constraints.names),) * 2)
    block = structure_cif_block(prepared.structure, covariance, prepared.constraints)
    write_cif(tmp_path / "model.cif", {"alcohol": block})
    assert read_model(tmp_path / "model.cif").parts == model.parts


@pytest.fixture
def model(tmp_path):
    def read(text: str, **options):
        (tmp_path / "model.res").write_text(text)
        return prepare_model(read_model(tmp_path / "model.res"), **options)

    return read


def smtbx_jacobian(text: str) -> np.ndarray:
    """(P, 11 n) of the same file by smtbx."""
    builder = parse_smtbx_refinement_model(file=io.StringIO(text))
    structure = builder.structure
    for i, scatterer in enumerate(structure.scatterers()):
        scatterer.label = str(i)
    table = smtbx.utils.connectivity_table(structure, conformer_indices=builder.conformer_indices)
    found = reparametrisation(structure, builder.constraints, table, temperature=20)
    found.linearise()
    part = found.jacobian_transpose_matching_grad_fc().as_dense_matrix().as_numpy_array()
    jacobian = np.zeros((len(part), WIDTH * structure.scatterers().size()))
    for k, annotation in enumerate(found.component_annotations):
        atom, name = annotation.split(".")
        jacobian[:, WIDTH * int(atom) + ATOM_PARAMETERS.index(name)] = part[:, k]
    return jacobian


def outside(rows: np.ndarray, others: np.ndarray) -> float:
    """The largest part of a row that is no linear combination of the others."""
    basis = np.linalg.qr(others.T)[0]
    left = rows - (rows @ basis) @ basis.T
    return float((np.linalg.norm(left, axis=1) / np.linalg.norm(rows, axis=1)).max())


def test_parameters_are_those_of_smtbx(model):
    """Riding atoms, two of their groups turning, U_iso = c U_eq: the same space of shifts.

    smtbx has X-ray distances, which scale the shifts of turning atoms; they are given here.
    """
    text = alcohol(atoms=ATOMS.replace("AFIX 137", "AFIX 137 0.96").replace("AFIX 147", "AFIX 147 0.82"))
    found, expected = model(text).constraints.jacobian.numpy(), smtbx_jacobian(text)
    assert found.shape == expected.shape
    # Hydrogen positions of the file have six digits, those of smtbx are exact.
    assert outside(expected, found) < 1e-4


def test_names(model):
    names = model(alcohol()).constraints.names
    assert len(names) == len(set(names)) == 92
    assert names[-2:] == ("C8.turn", "O1.turn")
    assert not any(name.startswith("H") for name in names)


def test_riding_atoms_follow(model):
    found = model(alcohol())
    labels = list(found.structure.scatterers().extract_labels())
    assert set(found.constraints.riding) == {label for label in labels if label[0] == "H"}
    j = found.constraints.jacobian.reshape(-1, len(labels), WIDTH)
    of = {name: j[k] for k, name in enumerate(found.constraints.names)}
    assert torch.equal(of["C7.y"][labels.index("H7")], of["C7.y"][labels.index("C7")])
    u = of["C7.u22"][labels.index("H7"), 3]
    b = found.structure.unit_cell().parameters()[1]
    assert u == pytest.approx(1.2 * b**2 / 3.0)


@pytest.mark.parametrize(
    "label, distance", [("H2", 1.08), ("H7", 1.10), ("H8B", 1.08), ("H9A", 1.09), ("H1O", 0.98)]
)
def test_nuclear_distances(model, label, distance):
    structure = model(alcohol()).structure
    scatterers = {s.label: s for s in structure.scatterers()}
    pivot = {"H2": "C2", "H7": "C7", "H8B": "C8", "H9A": "C9", "H1O": "O1"}[label]
    found = structure.unit_cell().distance(scatterers[label].site, scatterers[pivot].site)
    assert found == pytest.approx(distance, abs=1e-6)
    factor = 1.5 if label in ("H8B", "H1O") else 1.2
    u_eq = scatterers[pivot].u_iso_or_equiv(structure.unit_cell())
    assert scatterers[label].u_iso == pytest.approx(factor * u_eq)


def test_the_turn_of_a_methyl_group(model):
    """Finite difference: the mode turns the hydrogen atoms about the bond and keeps their distances."""
    found = model(alcohol())
    labels = list(found.structure.scatterers().extract_labels())
    row = found.constraints.jacobian[found.constraints.names.index("C8.turn")].reshape(-1, WIDTH)
    cell = found.structure.unit_cell()
    sites = np.array(found.structure.sites_frac())
    c7, c8 = sites[labels.index("C7")], sites[labels.index("C8")]
    for label in ("H8A", "H8B", "H8C"):
        before = sites[labels.index(label)]
        after = before + 1e-4 * row[labels.index(label), :3].numpy()
        assert cell.distance(tuple(after), tuple(c8)) == pytest.approx(1.08, abs=1e-7)
        assert cell.angle(tuple(after), tuple(c8), tuple(c7)) == pytest.approx(
            cell.angle(tuple(before), tuple(c8), tuple(c7)), abs=1e-5
        )
        # 1e-4 radian about the axis, at a distance of 1.08 sin(109.5) from it
        assert cell.distance(tuple(after), tuple(before)) == pytest.approx(1e-4 * 1.08 * 0.943, rel=1e-2)
    assert torch.equal(row[labels.index("C8")], torch.zeros(WIDTH, dtype=torch.float64))


@pytest.mark.parametrize(
    "hydrogens, n", [("auto", 92), ("riding", 92), ("fixed", 90), ("refined", 90 + 12 * 4)]
)
def test_treatment_of_hydrogen(model, hydrogens, n):
    found = model(alcohol(), hydrogens=hydrogens).constraints
    assert len(found.names) == n
    assert len(found.riding) == (12 if hydrogens in ("auto", "riding") else 0)


def test_stretching(model):
    found = model(alcohol(atoms=ATOMS.replace("AFIX 13\n", "AFIX 14\n").replace("AFIX 137", "AFIX 138")))
    assert found.constraints.names[-4:] == ("C7.stretch", "C8.turn", "C8.stretch", "O1.turn")


def test_disorder_shares_a_free_variable(model):
    text = alcohol(atoms=DISORDER, fvar="FVAR 1.0 0.7\n")
    found = model(text).constraints
    (row,) = [k for k, name in enumerate(found.names) if name.endswith("occ")]
    occupancies = found.jacobian[row].reshape(-1, WIDTH)[:, -1]
    assert occupancies.tolist() == [0, 1, 1, -1, -1, 0]
    assert model(text).structure.scatterers()[4].occupancy == pytest.approx(0.3)
    held = model(text, fix=["occ: name O3A"]).constraints
    assert not any(name.endswith("occ") for name in held.names)
    assert len(held.names) == len(found.names) - 1


MIXED = "".join(f"M{m} 1 0.1 0.2 0.{m} {m}1.0 0.02\n" for m in (2, 3, 4, 5))


def test_sums_of_free_variables(model, caplog):
    """The example of SHELXL's manual, four metals on sites that are full and have a mean charge of 2."""
    sums = "SUMP 1.0 0.001 1 2 1 3 1 4 1 5\nSUMP 2.0 0.001 1 2 2 3 3 4 1 5\n"
    found = model(alcohol(sums, atoms=MIXED, fvar="FVAR 1.0 0.2 0.3 0.35 0.15\n"))
    rows = [k for k, name in enumerate(found.constraints.names) if name.endswith("occ")]
    assert len(rows) == 2
    occupancies = found.constraints.jacobian[rows].reshape(2, -1, WIDTH)[:, :, -1]
    for charges in ((1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 3.0, 1.0)):
        assert (occupancies @ torch.tensor(charges, dtype=torch.float64)).abs().max() < 1e-12
    assert "SUMP" not in caplog.text


def test_a_sum_that_is_another_one_stays(model, caplog):
    logger = logging.getLogger("dials.hybrid_refine.io.shelx")
    logger.addHandler(caplog.handler)
    model(alcohol("SUMP 1.0 0.001 1 2 1 3\n", atoms=MIXED, fvar="FVAR 1.0 0.2 0.3 0.35 0.15\n"))
    logger.removeHandler(caplog.handler)
    assert "SUMP keeps its sum at 0.5, where it is, not at 1" in caplog.text


def test_fixed_parameters(model):
    """A coordinate, an isotropic U and a single U_ij; smtbx can fix sites and U's only as a whole."""
    text = alcohol(
        atoms="C1 1 10.1 0.2 0.3 11.0 0.02\nC2 1 0.2 0.3 0.4 11.0 10.03\n"
        "C3 1 10.3 10.5 10.6 11.0 0.02 0.02 0.02 0.001 10.002 0.003\nC4 1 0.6 0.1 0.1 0.5 0.02\n"
    )
    assert model(text).constraints.names == (
        *("C1.y", "C1.z", "C1.uiso", "C2.x", "C2.y", "C2.z"),
        *("C3.u11", "C3.u22", "C3.u33", "C3.u12", "C3.u23"),
        *("C4.x", "C4.y", "C4.z", "C4.uiso", "C4.occ"),
    )


def test_free_variable_for_displacements(model):
    text = alcohol(atoms="C1 1 0.1 0.2 0.3 11.0 21.0\nC2 1 0.2 0.3 0.4 11.0 20.5\n", fvar="FVAR 1.0 0.04\n")
    found = model(text)
    assert list(found.structure.extract_u_iso_or_u_equiv()) == pytest.approx([0.04, 0.02])
    (row,) = [k for k, name in enumerate(found.constraints.names) if name.endswith("uiso")]
    uiso = found.constraints.jacobian[row].reshape(-1, WIDTH)[:, 3]
    assert uiso.tolist() == [1.0, 0.5]


def test_eadp_and_exyz(model):
    atoms = "C1 1 0.1 0.2 0.3 10.5 0.02\nO1 3 0.1 0.2 0.3 10.5 0.03\nC2 1 0.4 0.2 0.3 11.0 0.02\n"
    found = model(alcohol("EADP C1 O1\nEXYZ C1 O1\n", atoms)).constraints
    assert found.names == ("C1.x", "C1.y", "C1.z", "C1.uiso", "C2.x", "C2.y", "C2.z", "C2.uiso")
    table = found.jacobian.reshape(-1, 3, WIDTH)
    assert torch.equal(table[:4, 0], table[:4, 1])


def test_rigid_group(model):
    """A ring of six atoms has the six degrees of freedom of a rigid body."""
    ring = ATOMS[: ATOMS.index("C7 ")].replace("AFIX 43", "AFIX 43").replace("AFIX 0", "AFIX 65")
    found = model(alcohol(atoms="AFIX 66\n" + ring + "AFIX 0\n")).constraints
    sites = [name for name in found.names if not name.split(".")[1].startswith("u")]
    assert sites == ["C1.x", "C1.y", "C1.z", "C1.turn_x", "C1.turn_y", "C1.turn_z"]
    larger = model(alcohol(atoms="AFIX 69\n" + ring + "AFIX 0\n")).constraints
    assert len(larger.names) == len(found.names) + 1 and "C1.size" in larger.names


def test_special_positions_and_symmetry_stay(model):
    """Shifts by any independent parameters keep an atom on a centre of symmetry where it is."""
    text = alcohol(
        "EADP C1 C2\n", "C1 1 10.5 10.5 10.5 10.5 0.02 0.02 0.02 0 0 0\nC2 1 .1 .2 .3 11 .02 .02 .02 0 0 0\n"
    )
    found = model(text)
    assert found.constraints.names[:6] == tuple(f"C1.u{ij}" for ij in (11, 22, 33, 12, 13, 23))
    assert len(found.constraints.names) == 9
    assert found.structure.scatterers()[0].occupancy == 1


def test_selections(model):
    names = model(alcohol(), fix=["element O", "xyz: name C1 C2"], refine=["xyz: name H1O"]).constraints.names
    assert not any(name.startswith(("O1.", "C1.x", "C2.y")) for name in names)
    assert {"C1.u11", "H1O.x", "H1O.y", "H1O.z"} <= set(names)
    assert "H1O.uiso" not in names


def test_polar_axes_are_still_known(model):
    text = alcohol().replace("LATT 1", "LATT -1").replace("0.5-Z", "-Z")
    found = model(text)
    assert str(found.structure.space_group_info()) == "P 1 21 1"
    (shift,) = found.constraints.origin_shifts
    moved = (found.constraints.jacobian.T @ shift).reshape(-1, WIDTH)
    assert torch.allclose(moved[:, 1], moved[0, 1].expand(len(moved)), atol=1e-9)
    assert moved[:, [0, 2, *range(3, 11)]].abs().max() < 1e-9


def test_instructions_that_are_not_followed_are_named(model, caplog):
    logger = logging.getLogger("dials.hybrid_refine.io.shelx")
    logger.addHandler(caplog.handler)
    model(alcohol("HFIX 43 C1\nTWIN\n"))
    logger.removeHandler(caplog.handler)
    assert "not followed: HFIX, TWIN" in caplog.text
    assert "HFIX is not followed: hydrogen atoms must be in the file" in caplog.text


@pytest.mark.parametrize(
    "change, message",
    [
        (("AFIX 43", "AFIX 913"), r"model.res: line 13: unknown AFIX 913"),
        (("AFIX 43", "AFIX"), r"line 13: AFIX needs a number"),
        (("AFIX 137", "AFIX 33\nAFIX 23"), r"AFIX 33 needs 3 atoms, not 0"),
        (("AFIX 13\n", "AFIX 23\n"), r"AFIX 23 needs 2 atoms, not 1"),
        (("C1 ", "FRAG 17\nC1 "), r"line 9: FRAG is not read"),
        (("C1 ", "SUMP 1 0.1 1 2\nC1 "), r"line 9: SUMP needs c sigma c1 m1"),
        (("C1 ", "SUMP 1\nC1 "), r"line 9: SUMP needs c sigma c1 m1"),
        (("11.00000 -1.20000", "41.00000 -1.20000"), r"cannot read a structure from .*model.res"),
    ],
)
def test_bad_instructions_are_one_sentence_with_their_line(model, change, message):
    with pytest.raises(ValueError, match=message) as error:
        model(alcohol(atoms=ATOMS.replace(*change, 1)))
    assert "\n" not in str(error.value)


def test_hydrogen_on_its_pivot(model):
    atoms = ATOMS.replace("H7   2  0.322314  0.572450 -0.040045", "H7   2  0.294150  0.607503  0.046510")
    with pytest.raises(ValueError, match="atom H7 is not at a bond's length from C7"):
        model(alcohol(atoms=atoms))


def test_shifts_by_smtbx_are_shifts_by_the_affine_map(model):
    """Symmetry and a pair of occupancies.

    smtbx mistakes occupancies where more than two atoms share a free variable: here are two.
    """
    pair = "".join(line + "\n" for line in DISORDER.splitlines() if line[:3] not in ("O3A", "O3B"))
    special = "C5 1 10.5 10.5 10.5 10.5 0.02 0.02 0.02 0 0 0\n"
    text = alcohol(atoms=pair + special, fvar="FVAR 1.0 0.7\n")
    found = model(text)
    assert outside(smtbx_jacobian(text), found.constraints.jacobian.numpy()) < 1e-9
    builder = parse_smtbx_refinement_model(file=io.StringIO(text))
    table = smtbx.utils.connectivity_table(builder.structure)
    other = reparametrisation(builder.structure, builder.constraints, table, temperature=20)
    other.linearise()
    n = other.jacobian_transpose_matching_grad_fc().n_rows
    assert n == len(found.constraints.names)
    other.apply_shifts(flex.double(np.random.default_rng(0).normal(size=n) * 1e-4))
    other.linearise()
    other.store()
    after = found.structure.deep_copy_scatterers()
    for own, moved in zip(after.scatterers(), builder.structure.scatterers(), strict=True):
        own.site, own.occupancy, own.u_iso, own.u_star = (
            moved.site,
            moved.occupancy,
            moved.u_iso,
            moved.u_star,
        )
    shift = (atomic_model(after).parameters - atomic_model(found.structure).parameters).flatten().numpy()
    assert np.abs(shift).max() > 1e-5
    assert outside(shift[None], found.constraints.jacobian.numpy()) < 1e-9
