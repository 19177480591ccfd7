"""Constrained refinement keeps the symmetry: settings of all crystal systems, standard or not."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from synthetic import central_differences

from cctbx import miller, sgtbx, xray
from cctbx.array_family import flex

from dials_hybrid.bloch.scattering import structure_factor_derivatives, structure_factors
from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.structure import prepare_structure
from dials_hybrid.io.tensors import atomic_model, updated_structure

# Symbol of the setting: dimensions of the origin that the space group leaves free.
SETTINGS = {
    "P1": 3,
    "P-1": 0,
    "Hall:  C 1": 3,  # triclinic, centred
    "P121": 1,
    "P1121": 1,  # unique axis c
    "C2": 1,
    "A2": 1,
    "I2": 1,
    "B112": 1,
    "Pn": 2,
    "Cc": 2,
    "Ia": 2,
    "P21/n": 0,
    "P1121/b": 0,
    "C2/c": 0,
    "I2/a": 0,
    "P212121": 0,
    "Pna21": 1,
    "P21nb": 1,  # polar along a
    "Pc21n": 1,  # polar along b
    "Fdd2": 1,
    "Pbnm": 0,
    "Pnnn:1": 0,
    "Cmce": 0,
    "Bbem": 0,
    "I222": 0,
    "P41": 1,
    "I41": 1,
    "I-4": 0,
    "P43212": 0,
    "I41/amd:1": 0,
    "I41/amd:2": 0,
    "P-421m": 0,
    "R3:H": 1,
    "R3:R": 1,
    "R3m:R": 1,
    "R32:R": 0,
    "R-3c:H": 0,
    "R-3c:R": 0,
    "P3221": 0,
    "P31m": 1,
    "P-31c": 0,
    "P61": 1,
    "P63mc": 1,
    "P-62c": 0,
    "P63/mmc": 0,
    "P213": 0,
    "I-43d": 0,
    "Fd-3m:1": 0,
    "Fd-3m:2": 0,
    "Ia-3d": 0,
}
SYSTEMS = {"Triclinic", "Monoclinic", "Orthorhombic", "Tetragonal", "Trigonal", "Hexagonal", "Cubic"}


@functools.cache
def crowded(symbol: str) -> xray.structure:
    """Atoms on a general position and on special ones of every kind that the setting has (at most six)."""
    symmetry = sgtbx.space_group_info(symbol).any_compatible_crystal_symmetry(volume=3000)
    structure = xray.structure(crystal_symmetry=symmetry)
    candidates = np.random.default_rng(0).random((100, 3)).tolist()
    general = next(x for x in candidates if structure.site_symmetry(x).is_point_group_1())
    structure.add_scatterer(xray.scatterer("O1", general, u=0.02, occupancy=0.8))
    kinds = set()
    for site in np.ndindex(5, 5, 5):
        x = tuple(np.array(site) / 8.0 + (site[0] == 4) * 0.01)
        operations = structure.site_symmetry(x)
        kind = operations.n_matrices(), str(operations.special_op())
        if operations.n_matrices() > 1 and kind not in kinds and len(kinds) < 6:
            kinds.add(kind)
            structure.add_scatterer(xray.scatterer(f"C{len(kinds)}", operations.exact_site(), u=0.03))
    return prepare_structure(structure, refine_occupancies=True)


@functools.cache
def free(symbol: str):
    return constraints(crowded(symbol))


def random_shifts(symbol: str, size: float) -> torch.Tensor:
    """Shifts of the independent parameters: sites and occupancies by `size`, U* by a hundredth of it."""
    names = free(symbol).names
    noise = torch.randn(len(names), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return noise * size * torch.tensor([0.01 if ".u" in name else 1.0 for name in names])


def moved(symbol: str, shifts: torch.Tensor) -> xray.structure:
    table = atomic_model(crowded(symbol)).parameters
    return updated_structure(crowded(symbol), table + (free(symbol).jacobian.T @ shifts).reshape(table.shape))


def reflections(symbol: str) -> torch.Tensor:
    """Eight unique reflections that are not absent, of low and high resolution."""
    symmetry = crowded(symbol).crystal_symmetry()
    unique = miller.build_set(symmetry, anomalous_flag=False, d_min=2.5).indices()
    chosen = np.linspace(0, len(unique) - 1, 8).astype(int)
    return torch.tensor([unique[int(i)] for i in chosen])


def operators(structure: xray.structure) -> tuple[np.ndarray, np.ndarray]:
    """R (S, 3, 3) and t (S, 3) of the space group."""
    operations = structure.space_group().all_ops()
    r = np.array([op.r().as_double() for op in operations]).reshape(-1, 3, 3)
    t = np.array([op.t().as_double() for op in operations])
    return r, t


def tensor(u: tuple[float, ...]) -> np.ndarray:
    return np.array([[u[0], u[3], u[4]], [u[3], u[1], u[5]], [u[4], u[5], u[2]]])


def test_enough_settings_of_all_systems():
    groups = [sgtbx.space_group_info(symbol).group() for symbol in SETTINGS]
    assert len(groups) >= 40
    assert len({str(group.info()) for group in groups}) == len(groups)
    assert {group.crystal_system() for group in groups} == SYSTEMS
    unusual = [group for group in groups if not group.type().cb_op().is_identity_op()]
    assert len(unusual) >= 15


@pytest.mark.parametrize("symbol", SETTINGS)
def test_structure_stays_invariant_under_its_operators(symbol):
    """Every operation that maps an atom on itself before maps it on itself after, with its tensor."""
    before, after = crowded(symbol), moved(symbol, random_shifts(symbol, 3e-3))
    r, t = operators(before)
    special = 0
    for old, new in zip(before.scatterers(), after.scatterers(), strict=True):
        x, y = np.array(old.site), np.array(new.site)
        image = r @ x + t
        lattice = np.round(image - x)
        same = np.abs(image - x - lattice).max(1) < 1e-9
        special += same.sum() > 1
        assert np.abs((r @ y + t - lattice - y)[same]).max() < 1e-12
        u = tensor(new.u_star)
        assert np.abs(r[same] @ u @ r[same].transpose(0, 2, 1) - u).max() < 1e-14
        assert not np.allclose(u, tensor(old.u_star), rtol=1e-6, atol=0.0)
    assert not np.allclose(before.scatterers()[0].site, after.scatterers()[0].site, atol=1e-4)
    assert special == len(before.scatterers()) - 1


@pytest.mark.parametrize("symbol", SETTINGS)
def test_intensities_keep_the_symmetry(symbol):
    """|F| of all equivalents of some reflections are equal after the shift; absences stay absent."""
    atoms = atomic_model(moved(symbol, random_shifts(symbol, 3e-3)))
    indices = flex.miller_index([(1, 2, 3), (2, -1, 3), (4, 1, 0), (0, 2, 3)])
    group = crowded(symbol).space_group()
    for h in indices:
        equivalents = [item.h() for item in miller.sym_equiv_indices(group, h).indices()]
        f = structure_factors(atoms, torch.tensor(equivalents)).abs()
        assert (f - f[0]).abs().max() < 1e-10
        if group.is_sys_absent(h):
            assert f.max() < 1e-10


@pytest.mark.parametrize("symbol", SETTINGS)
def test_derivatives_by_finite_differences(symbol):
    found, table, hkl = free(symbol), atomic_model(crowded(symbol)), reflections(symbol)
    derivative = structure_factor_derivatives(table, hkl, found.jacobian)
    displacement = torch.tensor([".u" in name for name in found.names])

    def f(x: torch.Tensor) -> torch.Tensor:
        shifts = (found.jacobian.T @ x).reshape(table.parameters.shape)
        return structure_factors(table.with_parameters(table.parameters + shifts), hkl)

    step = torch.where(displacement, 1e-5, 1e-4)
    numerical = central_differences(f, torch.zeros(len(step), dtype=torch.float64), step).T
    for kind in (displacement, ~displacement):
        error = (numerical - derivative)[kind].abs().max()
        assert error < 1e-6 * derivative[kind].abs().max()


@pytest.mark.parametrize("symbol", SETTINGS)
def test_floating_origin(symbol):
    """As many free directions as the space group has, and no intensity depends on them."""
    structure, found = crowded(symbol), free(symbol)
    # by hand: the directions that every operation of the point group leaves as they are
    r, _ = operators(structure)
    singular = np.linalg.svd((r - np.eye(3)).reshape(-1, 3))[1]
    assert (singular < 1e-9).sum() == SETTINGS[symbol]
    assert found.origin_shifts.shape == (SETTINGS[symbol], len(found.names))
    hkl = reflections(symbol)
    atoms = atomic_model(structure)
    f = structure_factors(atoms, hkl)
    derivative = structure_factor_derivatives(atoms, hkl, found.jacobian)
    of_intensity = 2.0 * (f.conj() * derivative).real  # (P, G)
    along = found.origin_shifts @ of_intensity
    if len(along):
        assert along.abs().max() < 1e-9 * of_intensity.abs().max()
        assert (found.origin_shifts.to(derivative.dtype) @ derivative).abs().max() > 0.1
