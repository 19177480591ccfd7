from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample import quartz
from scipy.stats import chi

from dials_hybrid.report import structure
from dials_hybrid.report.structure import drawing, half_axes


def test_ellipsoids_hold_half():
    assert structure.PROBABILITY_50 == pytest.approx(chi(3).median(), abs=1e-4)
    matrix = np.array([[0.02, 0.004, 0.001], [0.004, 0.01, -0.002], [0.001, -0.002, 0.03]])
    axes, positive = half_axes(matrix[None])
    assert positive.all()
    # every point of the surface has x^T U^-1 x = c^2; the axes give back U
    inverse = np.linalg.inv(matrix)
    assert [axis @ inverse @ axis for axis in axes[0]] == pytest.approx([structure.PROBABILITY_50**2] * 3)
    assert axes[0].T @ axes[0] == pytest.approx(structure.PROBABILITY_50**2 * matrix)


def test_an_ellipsoid_that_is_not_positive_is_marked():
    axes, positive = half_axes(np.diag([0.01, 0.01, -0.01])[None])
    assert not positive[0]
    assert (np.linalg.norm(axes[0], axis=1) > 0.0).all()


def test_silicon_has_four_oxygens_at_the_known_distance():
    picture = drawing(quartz())
    position = np.array([atom["position"] for atom in picture["atoms"]])
    silicon = np.array([atom["label"] == "Si1" for atom in picture["atoms"]])
    distance = np.linalg.norm(position[silicon][:, None] - position[~silicon][None], axis=-1)
    near = np.sort(distance, axis=1)[:, :4]
    assert near == pytest.approx(np.full(near.shape, 1.609), abs=0.01)  # Si-O of quartz
    # three in the cell; all that are drawn with four neighbours are silicons
    assert silicon.sum() >= 3
    assert len(picture["cell"]) == 12


def test_bonds_end_at_the_surfaces():
    """Of spheres: the centre distance less both radii."""
    spheres = replace(quartz(), u_cart=np.array([0.01 * np.eye(3), 0.04 * np.eye(3)]))
    lengths = [np.linalg.norm(np.subtract(*bond)) for bond in drawing(spheres)["bonds"]]
    assert lengths == pytest.approx([1.609 - structure.PROBABILITY_50 * (0.1 + 0.2)] * len(lengths), abs=0.01)


def test_turned_ellipsoids_keep_their_shape_and_follow_the_symmetry():
    crystal = quartz()
    picture = drawing(crystal)
    lengths = {
        tuple(np.round(np.linalg.norm(atom["axes"], axis=1), 3))
        for atom in picture["atoms"]
        if atom["label"] == "O1"
    }
    expected = structure.PROBABILITY_50 * np.sqrt([0.006, 0.01, 0.016])
    assert np.array([sorted(own) for own in lengths]) == pytest.approx(
        np.tile(expected, (len(lengths), 1)), abs=2e-3
    )
    directions = {tuple(np.round(np.abs(atom["axes"][2]), 2)) for atom in picture["atoms"]}
    assert len(directions) > 2, "a threefold axis turns them"


def test_a_crowded_cell_is_drawn_as_its_asymmetric_unit():
    crystal = quartz()
    copies = 8
    many = replace(
        crystal,
        labels=list(crystal.labels) * copies,
        elements=list(crystal.elements) * copies,
        sites=np.concatenate([crystal.sites + 0.01 * k for k in range(copies)]),
        u_cart=np.tile(crystal.u_cart, (copies, 1, 1)),
        radii=np.zeros(2 * copies),
    )
    picture = drawing(many)
    assert picture["cell"] == []
    assert len(picture["atoms"]) == 2 * copies


def test_hydrogens_are_not_bonded_to_one_another():
    crystal = replace(quartz(), elements=["H", "H"], labels=["H1", "H2"])
    assert drawing(crystal)["bonds"] == []


def test_unknown_elements_have_colours_of_their_own():
    crystal = replace(quartz(), elements=["Cs", "Pb"])
    assert len(set(drawing(crystal)["elements"].values())) == 2


def test_only_an_asymmetric_unit_has_names_and_hydrogen_has_none(monkeypatch):
    assert not any(atom["named"] for atom in drawing(quartz())["atoms"])
    monkeypatch.setattr(structure, "_MOST_IN_CELL", 3)
    assert [atom["label"] for atom in drawing(quartz())["atoms"] if atom["named"]] == ["Si1", "O1"]
    with_carbon = replace(quartz(), elements=["Si", "C"])
    monkeypatch.undo()
    assert drawing(with_carbon)["cell"] == [], "molecules are not broken"
    with_hydrogen = replace(quartz(), elements=["C", "H"])
    assert [atom["label"] for atom in drawing(with_hydrogen)["atoms"] if atom["named"]] == ["Si1"]


def test_a_molecule_is_shown_from_where_it_is_broadest():
    """And neither its distances nor its hand change."""
    molecule = replace(quartz(), elements=["Si", "C"])
    atoms = drawing(molecule)["atoms"]
    position = np.array([atom["position"] for atom in atoms])
    assert (np.diff((position**2).sum(0)) <= 1e-6).all()  # x, then y, then z
    axes = np.array([atom["axes"] for atom in atoms])
    u = np.einsum("nki,nkj->nij", axes, axes) / structure.PROBABILITY_50**2
    assert np.trace(u[0]) == pytest.approx(np.trace(molecule.u_cart[0]), abs=1e-5)
    names = [atom["label"] for atom in atoms]
    start = molecule.sites @ molecule.orthogonalisation.T
    between = position[names.index("O1")] - position[names.index("Si1")]
    assert np.linalg.norm(between) == pytest.approx(np.linalg.norm(start[1] - start[0]), abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_turning_is_a_rotation(seed):
    face = structure._face(np.random.default_rng(seed).normal(size=(5, 3)))
    assert face @ face.T == pytest.approx(np.eye(3)) and np.linalg.det(face) == pytest.approx(1.0)
