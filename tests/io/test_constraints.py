from __future__ import annotations

import numpy as np
import pytest
import torch

from cctbx import sgtbx, xray
from cctbx.array_family import flex

from dials_hybrid.data import ATOM_PARAMETERS
from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.structure import prepare_structure, read_structure
from dials_hybrid.io.tensors import atomic_model, updated_structure

# General and special positions of many kinds, whatever the space group makes of them.
SITES = [
    (0, 0, 0),
    (0.5, 0.5, 0),
    (0.25, 0.25, 0.25),
    (0.1, 0.1, 0.1),
    (0.2, 0.4, 0.25),
    (1 / 3, 2 / 3, 0.25),
    (0.3, 0, 2 / 3),
    (0.11, 0.22, 0.33),
    (0.41, 0.23, 0.17),
]
POLAR = {"P1": 3, "Pc": 2, "P21": 1, "I2": 1, "Fdd2": 1, "P6": 1, "R3:H": 1, "R3:R": 1}
OTHERS = [
    "P-1",
    "P21/c",
    "P212121",
    "Pbnm",
    "P3221",
    "R-3c:H",
    "R-3c:R",
    "P63/mmc",
    "Fm-3m",
    "Fd-3m:1",
    "I4/mmm",
]


def crowded(symbol: str, **options) -> xray.structure:
    """A structure with atoms at all SITES, prepared for refinement."""
    symmetry = sgtbx.space_group_info(symbol).any_compatible_crystal_symmetry(volume=4000)
    structure = xray.structure(crystal_symmetry=symmetry)
    for i, site in enumerate(SITES):
        structure.add_scatterer(xray.scatterer(f"C{i}", site, u=0.02, occupancy=0.9))
    return prepare_structure(structure, refine_occupancies=True, **options)


def shifted(structure: xray.structure, jacobian: torch.Tensor, shifts: torch.Tensor) -> xray.structure:
    table = atomic_model(structure).parameters
    return updated_structure(structure, table + (jacobian.T @ shifts).reshape(table.shape))


@pytest.mark.parametrize("symbol", [*POLAR, *OTHERS])
def test_random_shifts_keep_the_symmetry(symbol):
    structure = crowded(symbol)
    jacobian = constraints(structure).jacobian
    generator = torch.Generator().manual_seed(0)
    moved = shifted(
        structure, jacobian, 1e-3 * torch.randn(len(jacobian), generator=generator, dtype=torch.float64)
    )
    symmetrised = moved.deep_copy_scatterers()
    symmetrised.apply_symmetry_sites()
    symmetrised.apply_symmetry_u_stars()
    before, after = atomic_model(moved).parameters, atomic_model(symmetrised).parameters
    assert (before - atomic_model(structure).parameters).abs().max() > 1e-3
    assert (before - after).abs().max() < 1e-15


@pytest.mark.parametrize("symbol", [*POLAR, *OTHERS])
def test_every_free_parameter_is_there_once(symbol):
    structure = crowded(symbol)
    found = constraints(structure)
    n_free = structure.n_parameters(considering_site_symmetry_constraints=True)
    assert found.jacobian.shape == (n_free, len(SITES) * len(ATOM_PARAMETERS))
    assert torch.linalg.matrix_rank(found.jacobian) == n_free
    assert len(set(found.names)) == n_free


@pytest.mark.parametrize("symbol", [*POLAR, *OTHERS])
def test_origin_shifts_leave_all_intensities_alone(symbol):
    structure = crowded(symbol)
    found = constraints(structure)
    shifts = found.origin_shifts
    assert shifts.shape == (POLAR.get(symbol, 0), len(found.names))
    assert torch.allclose(shifts @ shifts.T, torch.eye(len(shifts), dtype=torch.float64))
    for direction in shifts:
        moved = shifted(structure, found.jacobian, 0.1 * direction)
        assert moved.sites_frac().max_distance(structure.sites_frac()) > 0.01
        before, after = (
            abs(s.structure_factors(d_min=2, algorithm="direct").f_calc()).data().as_numpy_array()
            for s in (structure, moved)
        )
        assert np.abs(after - before).max() < 1e-9 * before.max()


def test_an_atom_that_is_fixed_holds_the_origin():
    structure = crowded("P21")
    structure.scatterers()[3].flags.set_grad_site(False)
    assert len(constraints(structure).origin_shifts) == 0


def test_names_and_ratios_of_quartz(quartz_dials):
    quartz = prepare_structure(read_structure(quartz_dials / "quartz_P3221.cif"))
    found = constraints(quartz)
    silicon = ("Si1.x", "Si1.u11", "Si1.u33", "Si1.u12", "Si1.u23")
    oxygen = tuple(f"O1.{name}" for name in ATOM_PARAMETERS if name not in ("uiso", "occ"))
    assert found.names == silicon + oxygen
    columns = [ATOM_PARAMETERS.index(name) for name in ("u11", "u22", "u33", "u12", "u13", "u23")]
    # International Tables: on the axis along a, U22 = 2 U12 and U23 = 2 U13.
    u22, u23 = found.jacobian[3, columns], found.jacobian[4, columns]
    assert u22.tolist() == [0, 2, 0, 1, 0, 0]
    assert u23.tolist() == [0, 0, 0, 0, 0.5, 1]


def test_nonstandard_setting(cspbbr3_pets):
    perovskite = prepare_structure(read_structure(cspbbr3_pets / "cspbbr3.cif"))
    assert str(perovskite.space_group_info()) == "P b n m"
    names = constraints(perovskite).names
    assert [n for n in names if n.startswith("Pb1")] == [f"Pb1.u{ij}" for ij in (11, 22, 33, 12, 13, 23)]
    assert [n for n in names if n.startswith("Cs1")] == ["Cs1.x", "Cs1.y"] + [
        f"Cs1.u{ij}" for ij in (11, 22, 33, 12)
    ]


def test_labels_may_contain_anything():
    structure = crowded("P1")
    structure.scatterers()[0].label = "C1.a,b"
    assert constraints(structure).names[:2] == ("C1.a,b.x", "C1.a,b.y")


def test_fixed_and_isotropic_atoms():
    symmetry = sgtbx.space_group_info("P212121").any_compatible_crystal_symmetry(volume=400)
    scatterers = flex.xray_scatterer(
        [xray.scatterer("O1", (0.1, 0.2, 0.3), u=0.02), xray.scatterer("H1", (0.2, 0.2, 0.3), u=0.03)]
    )
    structure = xray.structure(crystal_symmetry=symmetry, scatterers=scatterers)
    isotropic = constraints(prepare_structure(structure, adp="isotropic"))
    assert isotropic.names == ("O1.x", "O1.y", "O1.z", "O1.uiso")
    refined = constraints(prepare_structure(structure, adp="isotropic", hydrogens="refined"))
    assert refined.names[4:] == ("H1.x", "H1.y", "H1.z", "H1.uiso")
