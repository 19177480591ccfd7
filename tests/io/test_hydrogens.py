"""Riding hydrogen atoms of structures without instructions, against the geometry of smtbx."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
from organic import ATOMS, alcohol

import smtbx.utils
from cctbx import sgtbx, xray
from cctbx.array_family import flex
from iotbx.shelx import parse_smtbx_refinement_model
from smtbx.refinement.constraints import reparametrisation

from dials_hybrid.data import ATOM_PARAMETERS
from dials_hybrid.io.start_model import prepare_model
from dials_hybrid.io.structure import read_structure

DISTANCES = {"H2": 1.08, "H3": 1.08, "H4": 1.08, "H5": 1.08, "H6": 1.08, "H7": 1.10, "H1O": 0.98}
DISTANCES |= {"H8A": 1.08, "H8B": 1.08, "H8C": 1.08, "H9A": 1.09, "H9B": 1.09}
PIVOTS = {"H7": "C7", "H1O": "O1"} | {f"H{k}": f"C{k}" for k in range(2, 7)}
PIVOTS |= {f"H8{x}": "C8" for x in "ABC"} | {f"H9{x}": "C9" for x in "AB"}


@pytest.fixture
def bare(tmp_path):
    """The alcohol as a structure alone."""
    (tmp_path / "model.res").write_text(alcohol())
    return read_structure(tmp_path / "model.res")


@pytest.fixture
def ideal() -> xray.structure:
    """Hydrogen atoms placed by smtbx, at the distances of nuclei."""
    builder = parse_smtbx_refinement_model(file=io.StringIO(alcohol()))
    labels = list(builder.structure.scatterers().extract_labels())
    for constraint in builder.constraints:
        if hasattr(constraint, "bond_length"):
            constraint.bond_length = DISTANCES[labels[constraint.constrained_site_indices[0]]]
    table = smtbx.utils.connectivity_table(builder.structure)
    found = reparametrisation(builder.structure, builder.constraints, table, temperature=20)
    found.linearise()
    found.store()
    return builder.structure


def sites(structure) -> dict[str, tuple]:
    return {scatterer.label: scatterer.site for scatterer in structure.scatterers()}


def test_hydrogen_is_put_where_smtbx_puts_it(bare, ideal):
    """From places 0.05 A off; the direction of O-H is kept, and a methyl group as it is turned."""
    generator = np.random.default_rng(0)
    cell, expected = bare.unit_cell(), sites(ideal)
    for scatterer in bare.scatterers():
        if scatterer.scattering_type == "H" and scatterer.label not in ("H8A", "H8B", "H8C", "H1O"):
            shift = generator.normal(size=3)
            shift = cell.fractionalize(tuple(0.05 * shift / np.linalg.norm(shift)))
            scatterer.site = tuple(np.add(scatterer.site, shift))
    found = sites(prepare_model(bare).structure)
    # smtbx does not look which of two is which.
    expected["H9A"], expected["H9B"] = sorted(
        (expected["H9A"], expected["H9B"]), key=lambda site: cell.distance(site, found["H9A"])
    )
    for label, site in expected.items():
        assert cell.distance(found[label], site) < (2e-3 if label in ("H9A", "H9B") else 1e-3), label


def test_distances_displacements_and_freedom(bare):
    found = prepare_model(bare)
    cell, place = found.structure.unit_cell(), sites(found.structure)
    u = dict(zip(place, found.structure.extract_u_iso_or_u_equiv(), strict=True))
    assert set(found.constraints.riding) == set(DISTANCES)
    for label, distance in DISTANCES.items():
        assert cell.distance(place[label], place[PIVOTS[label]]) == pytest.approx(distance, abs=1e-9)
        factor = 1.5 if label in ("H8A", "H8B", "H8C", "H1O") else 1.2
        assert u[label] == pytest.approx(factor * u[PIVOTS[label]])
    assert len(found.constraints.names) == 90
    jacobian = found.constraints.jacobian.reshape(90, -1, len(ATOM_PARAMETERS))
    labels = list(place)
    for label, pivot in PIVOTS.items():
        assert (jacobian[:, labels.index(label), :3] == jacobian[:, labels.index(pivot), :3]).all()


def test_nothing_moves_a_second_time(bare):
    once = prepare_model(bare).structure
    again = prepare_model(once).structure
    assert once.sites_cart().max_distance(again.sites_cart()) < 1e-6


def test_directions_far_from_ideal_are_kept(bare):
    """An amine is not flat: the direction of a hydrogen atom 40 degrees off is the file's."""
    cell, place = bare.unit_cell(), sites(bare)
    (h2,) = [s for s in bare.scatterers() if s.label == "H2"]
    out = np.cross(
        cell.orthogonalize(tuple(np.subtract(place["H2"], place["C2"]))),
        cell.orthogonalize(tuple(np.subtract(place["C3"], place["C2"]))),
    )
    h2.site = tuple(np.add(place["H2"], cell.fractionalize(tuple(0.8 * out / np.linalg.norm(out)))))
    before = h2.site
    after = sites(prepare_model(bare).structure)["H2"]
    assert cell.angle(before, place["C2"], after) < 1e-3


def symmetric(*atoms) -> xray.structure:
    symmetry = sgtbx.space_group_info("P-1").any_compatible_crystal_symmetry(volume=500)
    return xray.structure(
        crystal_symmetry=symmetry,
        scatterers=flex.xray_scatterer([xray.scatterer(*atom, u=0.02) for atom in atoms]),
    )


@pytest.fixture
def warnings(caplog):
    logger = logging.getLogger("dials.hybrid_refine.io.start_model")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_hydrogen_without_a_clear_pivot_is_fixed(warnings):
    """One alone, and one between two oxygen atoms, on a centre of symmetry."""
    structure = symmetric(("O1", (0.1, 0.1, 0.06)), ("H1", (0, 0, 0)), ("H2", (0.5, 0.6, 0.4)))
    found = prepare_model(structure)
    assert found.constraints.riding == ()
    assert all(name.startswith("O1.") for name in found.constraints.names)
    assert "without a clear pivot are fixed: H1, H2" in warnings.text


def test_hydrogen_bonded_to_an_image_is_brought_to_its_pivot():
    structure = symmetric(("O1", (0.3, 0.1, 0.2)), ("H1", (0.3, 0.1, 0.3)))
    direct = prepare_model(structure)
    structure.scatterers()[1].site = (-0.3, 0.9, 0.7)
    image = prepare_model(structure)
    assert direct.constraints.riding == image.constraints.riding == ("H1",)
    assert np.allclose(sites(image.structure)["H1"], sites(direct.structure)["H1"], atol=1e-9)


def test_occupancies_of_riding_atoms_follow(bare):
    found = prepare_model(bare, refine_occupancies=True).constraints
    labels = list(bare.scatterers().extract_labels())
    row = found.jacobian[found.names.index("O1.occ")].reshape(-1, len(ATOM_PARAMETERS))[:, -1]
    assert {labels[k] for k in row.nonzero().flatten().tolist()} == {"O1", "H1O"}


def test_bare_atoms_are_those_of_the_file(bare):
    assert bare.scatterers().size() == sum(line[:1] in "CHO" for line in ATOMS.splitlines())
