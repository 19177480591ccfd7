"""Bonds, angles and hydrogen bonds: values and s.u.s by other means, symmetry codes from the CIF alone."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from test_cif import correlated, example

from cctbx import covariance as cctbx_covariance
from cctbx import crystal, geometry, sgtbx, xray
from cctbx.array_family import flex

from dials_hybrid.io.cif import _cctbx_covariance, structure_cif_block
from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.geometry_tables import Geometry, geometry_loops
from dials_hybrid.io.structure import prepare_structure, read_structure
from dials_hybrid.io.tensors import atomic_model, updated_structure

GROUPS = ["P1", "P21/c", "P3221", "R-3c:H", "R-3c:R", "Pbnm", "I4/mmm"]


def numbers(text: str) -> tuple[float, float | None]:
    """Value and s.u. of a CIF number."""
    value, su = re.fullmatch(r"(-?[\d.]+)(?:\((\d+)\))?", text).groups()
    return float(value), None if su is None else int(su) * 10.0 ** -len(value.partition(".")[2])


def contacts(structure, **options) -> tuple[Geometry, list]:
    """Geometry with correlated uncertainties, and some vectors from each atom."""
    found = constraints(structure)
    made = Geometry(structure, correlated(found.names, su=1e-3), found, **options)
    near = made.neighbours(structure.pair_asu_table(distance_cutoff=5.0))
    return made, [own[:: max(1, len(own) // 4)] for own in near]


def by_differences(structure, made: Geometry, value) -> float:
    """The s.u. of value(sites) by central differences in the independent parameters."""
    found, step = constraints(structure), 1e-6
    table = atomic_model(structure).parameters
    gradient = []
    for row in found.jacobian:
        shift = (step * row).reshape(table.shape)
        plus, minus = (
            value(np.array(updated_structure(structure, table + s).sites_frac())) for s in (shift, -shift)
        )
        gradient.append((plus - minus) / (2.0 * step))
    return float(np.sqrt(np.array(gradient) @ correlated(found.names, su=1e-3) @ np.array(gradient)))


def image(v, sites: np.ndarray) -> np.ndarray:
    return np.array(v.rt_mx * tuple(sites[v.j]))


@pytest.mark.parametrize("symbol", GROUPS)
def test_standard_uncertainties_by_finite_differences(symbol):
    structure = example(symbol)
    cell = structure.unit_cell()
    made, near = contacts(structure)
    n_checked = 0
    for own in near:
        for v, w in zip(own, own[1:], strict=False):

            def distance(sites, v=v):
                return cell.distance(tuple(sites[v.i]), tuple(image(v, sites)))

            def angle(sites, v=v, w=w):
                return cell.angle(*(tuple(x) for x in (image(v, sites), sites[v.i], image(w, sites))))

            for f, (value, su) in ((distance, made.distance(v)), (angle, made.angle(v, w))):
                assert value == pytest.approx(f(made.sites), abs=1e-9)
                if value < 179.99 or f is distance:
                    expected = by_differences(structure, made, f)
                    assert su == pytest.approx(expected, rel=1e-4, abs=2e-6)
                    n_checked += su > 0.0
    assert n_checked > 10


@pytest.mark.parametrize("symbol", ["P1", "P3221", "Pbnm"])
def test_variance_of_cctbx(symbol):
    structure = example(symbol)
    made, near = contacts(structure)
    found, cell = constraints(structure), structure.unit_cell()
    packed = _cctbx_covariance(structure, correlated(found.names, su=1e-3), found)
    parameters = structure.parameter_map()
    cartesian = cctbx_covariance.orthogonalize_covariance_matrix(packed, cell, parameters)
    refined = [i for i in range(len(near)) if parameters[i].site >= 0]
    for i in refined:
        for v in near[i]:
            if v.j in refined and v.j != v.i:
                ends = [cell.orthogonalize(x) for x in (tuple(made.sites[i]), tuple(image(v, made.sites)))]
                pair = cctbx_covariance.extract_covariance_matrix_for_sites(
                    flex.size_t((i, v.j)), cartesian, parameters
                )
                variance = geometry.distance(ends).variance(pair, cell, v.rt_mx)
                assert made.distance(v)[1] == pytest.approx(max(variance, 0.0) ** 0.5, rel=1e-5, abs=1e-6)


def applied(code: str, operations, site) -> tuple[float, ...]:
    """The site that a code n_klm names."""
    if code == ".":
        return site
    number, _, shifts = code.partition("_")
    moved = sgtbx.rt_mx(operations[int(number) - 1]) * site
    return tuple(x + int(digit) - 5 for x, digit in zip(moved, shifts or "555", strict=True))


@pytest.mark.parametrize("symbol", [*GROUPS, "Fd-3m:1", "C2/c"])
def test_symmetry_codes_point_to_the_neighbours(symbol):
    """Distances and angles follow from labels, coordinates, operations and codes of the CIF alone."""
    structure = example(symbol)
    found = constraints(structure)
    block = structure_cif_block(structure, correlated(found.names, su=1e-7), found)
    cell, operations = structure.unit_cell(), list(block["_space_group_symop_operation_xyz"])
    xyz = zip(*(block[f"_atom_site_fract_{axis}"] for axis in "xyz"), strict=True)
    sites = {
        label: tuple(numbers(text)[0] for text in row)
        for label, row in zip(block["_atom_site_label"], xyz, strict=True)
    }
    bonds = zip(*block.get_loop("_geom_bond").values(), strict=True)
    n = 0
    for first, second, distance, code in bonds:
        end = applied(code, operations, sites[second])
        assert numbers(distance)[0] == pytest.approx(cell.distance(sites[first], end), abs=2e-4)
        n += 1
    angles = zip(*block.get_loop("_geom_angle").values(), strict=True) if "_geom_angle" in block else ()
    for first, centre, third, angle, code_1, code_3 in angles:
        ends = [applied(c, operations, sites[x]) for x, c in ((first, code_1), (third, code_3))]
        assert numbers(angle)[0] == pytest.approx(cell.angle(ends[0], sites[centre], ends[1]), abs=0.06)
    assert n > 0


def test_quartz_has_all_its_angles(quartz_dials):
    quartz = prepare_structure(read_structure(quartz_dials / "quartz_P3221.cif"))
    found = constraints(quartz)
    bonds, angles = geometry_loops(Geometry(quartz, correlated(found.names), found))
    assert bonds.n_rows() == 4  # of Si; those of O are the same
    around = list(angles["_geom_angle_atom_site_label_2"])
    assert (around.count("Si1"), around.count("O1")) == (6, 1)
    of_silicon = [i for i, label in enumerate(around) if label == "Si1"]
    tetrahedral = [numbers(angles["_geom_angle"][i])[0] for i in of_silicon]
    assert np.mean(tetrahedral) == pytest.approx(109.47, abs=0.1)


def test_cell_uncertainty():
    """A distance along a: sigma(d) / d = sigma(a) / a, as a and b are one parameter."""
    symmetry = crystal.symmetry((4.0, 4.0, 7.0, 90, 90, 120), "P6/mmm")
    structure = xray.structure(crystal_symmetry=symmetry)
    structure.add_scatterer(xray.scatterer("Ni1", (0, 0, 0), u=0.01))
    structure.add_scatterer(xray.scatterer("Ni2", (1 / 3, 2 / 3, 0), u=0.01))
    structure = prepare_structure(structure)
    found = constraints(structure)
    n = len(found.names)
    su = (0.004, 0.004, 0.007, 0.0, 0.0, 0.0)
    made = Geometry(structure, np.zeros((n, n)), found, su)
    near = made.neighbours(structure.pair_asu_table(distance_cutoff=4.5))
    checked = 0
    for v in (v for own in near for v in own):
        distance, uncertainty = made.distance(v)
        if abs(v.delta[2]) < 1e-9:
            assert uncertainty / distance == pytest.approx(1e-3, rel=1e-6)
            checked += 1
    assert checked > 2
    assert made.angle(near[0][0], near[0][1])[1] == pytest.approx(0.0, abs=1e-6)


def test_cell_uncertainty_of_each_parameter():
    structure = example("P1")
    su = np.array([0.002, 0.003, 0.004, 0.02, 0.03, 0.04])
    found = constraints(structure)
    nothing = np.zeros((len(found.names),) * 2)
    made = Geometry(structure, nothing, found, tuple(su))
    own = made.neighbours(structure.pair_asu_table(distance_cutoff=6.0))[1]
    for v, w in zip(own[:5], own[1:], strict=False):
        for value in (lambda g, v=v: g.distance(v)[0], lambda g, v=v, w=w: g.angle(v, w)[0]):
            gradient = []
            for k in range(6):
                ends = []
                for sign in (1.0, -1.0):
                    cell = np.array(structure.unit_cell().parameters())
                    cell[k] += sign * 1e-4
                    symmetry = crystal.symmetry(tuple(cell), "P1")
                    changed = structure.customized_copy(crystal_symmetry=symmetry)
                    ends.append(value(Geometry(changed, nothing, found)))
                gradient.append((ends[0] - ends[1]) / 2e-4)
            expected = np.sqrt(((np.array(gradient) * su) ** 2).sum())
            calculated = made.distance(v)[1] if value(made) == made.distance(v)[0] else made.angle(v, w)[1]
            assert calculated == pytest.approx(expected, rel=1e-5)


def water(shift: float = 0.0) -> xray.structure:
    """Two molecules and a mercury atom, whose label begins with H; O1-H1...O2 is 180 degrees at 2.75 A."""
    symmetry = crystal.symmetry((10.0, 10.0, 10.0, 90, 90, 90), "P1")
    structure = xray.structure(crystal_symmetry=symmetry)
    for label, site in {
        "O1": (0.1, 0.1, 0.1),
        "H1": (0.195, 0.1, 0.1),
        "H2": (0.076, 0.192, 0.1),
        "O2": (0.375, 0.1 + shift, 0.1),
        "Hg1": (0.5, 0.27, 0.1),
    }.items():
        element = re.match("[A-Z][a-z]?", label)[0]
        structure.add_scatterer(xray.scatterer(label, site, u=0.02, scattering_type=element))
    return prepare_structure(structure, adp="isotropic", hydrogens="refined")


def test_hydrogen_bonds():
    structure = water()
    found = constraints(structure)
    made = Geometry(structure, np.eye(len(found.names)) * 1e-6, found)
    loops = {list(loop.keys())[0].split("_atom")[0]: loop for loop in geometry_loops(made)}
    loop = loops["_geom_hbond"]
    row = [column[0] for column in loop.values()]
    assert loop.n_rows() == 1
    assert row[:3] == ["O1", "H1", "O2"]
    assert [numbers(x)[0] for x in row[3:6]] == pytest.approx([0.95, 1.80, 2.75], abs=0.01)
    assert [numbers(x)[1] for x in row[3:6]] == pytest.approx([0.014] * 3, rel=0.05)  # sqrt(2) x 0.01 A
    assert row[6:] == ["180.0", ".", "."]
    bonded = loops["_geom_bond"]
    pairs = set(zip(*(bonded[f"_geom_bond_atom_site_label_{i}"] for i in (1, 2)), strict=True))
    assert ("O2", "Hg1") in pairs and ("O1", "H1") in pairs


def test_alternatives_are_not_bonded():
    """O1 and H1 of another PART than Hg1 and O2."""
    structure = water()
    found = constraints(structure)
    labels = list(structure.scatterers().extract_labels())
    parts = tuple(1 if label in ("O1", "H1") else 2 for label in labels)
    made = Geometry(structure, np.eye(len(found.names)) * 1e-6, replace(found, parts=parts))
    loops = {list(loop.keys())[0].split("_atom")[0]: loop for loop in geometry_loops(made)}
    bonds = loops["_geom_bond"]
    pairs = zip(*(list(bonds[f"_geom_bond_atom_site_label_{i}"]) for i in (1, 2)), strict=True)
    assert {frozenset(pair) for pair in pairs} >= {frozenset(("O1", "H1"))}
    part = dict(zip(labels, parts, strict=True))
    for i, j in zip(*(list(bonds[f"_geom_bond_atom_site_label_{i}"]) for i in (1, 2)), strict=True):
        assert part[i] == part[j]
    assert "_geom_hbond" not in loops  # O1-H1 to O2


def test_atoms_that_share_a_site_are_not_bonded():
    """As of a mixed occupancy: there is no angle at a bond without length."""
    structure = water()
    first = structure.scatterers()[0]
    label, site = first.label, first.site  # adding an atom moves all others in memory
    structure.add_scatterer(xray.scatterer("S9", site, u=0.02, occupancy=0.1))
    found = constraints(structure)
    for loop in geometry_loops(Geometry(structure, np.eye(len(found.names)) * 1e-6, found)):
        ends = [list(column) for name, column in loop.items() if "_label_" in name]
        rows = set(zip(*ends, strict=True))
        assert rows and not rows & {(label, "S9"), ("S9", label)}
        assert "nan" not in str(loop)


def test_no_hydrogen_bond_at_a_small_angle():
    structure = water(shift=0.2)
    found = constraints(structure)
    made = Geometry(structure, np.eye(len(found.names)) * 1e-6, found)
    assert not any("_geom_hbond_angle_DHA" in loop.keys() for loop in geometry_loops(made))


def test_distance_held_by_a_constraint_has_no_uncertainty():
    """Two atoms that move together, as a riding hydrogen atom does, in a cell with uncertainties."""
    structure = water()
    found = constraints(structure)
    jacobian = found.jacobian.reshape(len(found.names), -1, 11)
    riding = jacobian.clone()
    riding[:, 1, :3] = riding[:, 0, :3]
    tied = type(found)(riding.reshape(found.jacobian.shape), found.names, found.origin_shifts)
    made = Geometry(structure, np.eye(len(found.names)) * 1e-6, tied, (0.01,) * 3 + (0.0,) * 3)
    identity = sgtbx.rt_mx()
    assert made.distance(made.vector(0, 1, identity))[1] == 0.0
    assert made.distance(made.vector(0, 3, identity))[1] > 0.01
