"""Atoms as tensors against the structure factors of cctbx, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cctbx import crystal, miller, sgtbx, uctbx, xray
from cctbx.array_family import flex
from cctbx.development import random_structure

from dials_hybrid.io.structure import prepare_structure
from dials_hybrid.io.tensors import atomic_model, updated_structure


@pytest.fixture
def quartz():
    symmetry = crystal.symmetry((4.913, 4.913, 5.405, 90, 90, 120), "P 32 2 1")
    atoms = [
        xray.scatterer("Si1", (0.4697, 0, 2 / 3), u=0.007, scattering_type="Si"),
        xray.scatterer("O1", (0.4135, 0.2669, 0.7858), u=0.013, scattering_type="O"),
    ]
    return prepare_structure(xray.structure(crystal_symmetry=symmetry, scatterers=flex.xray_scatterer(atoms)))


def structure_factors(model, hkl):
    """F_g of the electron convention, exp(-2 pi i g.r), shape (n_hkl,)."""
    cell = uctbx.unit_cell(model.cell.tolist())
    s2 = np.array([cell.stol_sq([int(i) for i in h]) for h in hkl])
    total = np.zeros(len(hkl), dtype=complex)
    for j, row in enumerate(model.parameters.numpy()):
        kind = model.form_factor_type[j]
        a, b = model.form_factor_a[kind].numpy(), model.form_factor_b[kind].numpy()
        f = row[10] * float(model.multiplicity[j]) * (a * np.exp(-b * s2[:, None])).sum(axis=1)
        u_star = row[[4, 7, 8, 7, 5, 9, 8, 9, 6]].reshape(3, 3)
        for rotation, translation in zip(model.rotations.numpy(), model.translations.numpy(), strict=True):
            hr = hkl @ rotation
            exponent = -2 * np.pi**2 * np.einsum("mi,ij,mj->m", hr, u_star, hr)
            if not model.anisotropic[j]:
                exponent = -8 * np.pi**2 * row[3] * s2
            total += f * np.exp(exponent - 2j * np.pi * (hr @ row[:3] + hkl @ translation))
    return total


@pytest.mark.parametrize(
    "symbol", ["P1", "P-1", "P21/c", "Pbnm", "Fdd2", "P3221", "R-3c:H", "R-3c:R", "Fm-3m"]
)
def test_structure_factors_are_those_of_cctbx_conjugated(symbol):
    flex.set_random_seed(0)
    general = random_structure.xray_structure(
        sgtbx.space_group_info(symbol),
        elements=("Si", "O", "Pb"),
        volume_per_atom=60,
        use_u_aniso=True,
        random_u_iso=True,
        random_occupancy=True,
    )
    general.add_scatterer(xray.scatterer("C1", (0, 0, 0), u=0.02))
    general.add_scatterer(xray.scatterer("H1", (0.11, 0.23, 0.37), u=0.03))
    prepared = prepare_structure(general)
    indices = miller.build_set(prepared, anomalous_flag=True, d_min=1.5)
    cctbx_factors = indices.structure_factors_from_scatterers(prepared, algorithm="direct").f_calc()
    expected = cctbx_factors.data().as_numpy_array().conj()
    hkl = cctbx_factors.indices().as_vec3_double().as_numpy_array()
    assert np.abs(expected.imag).max() > 1 or prepared.space_group().is_centric()
    assert np.abs(structure_factors(atomic_model(prepared), hkl) - expected).max() < 1e-10


def test_atomic_model_of_quartz(quartz):
    model = atomic_model(quartz)
    assert (model.labels, model.elements) == (("Si1", "O1"), ("Si", "O"))
    assert model.multiplicity.tolist() == [0.5, 1]
    assert model.rotations.shape == (6, 3, 3) and model.translations.shape == (6, 3)
    assert model.form_factor_a.shape == model.form_factor_b.shape == (2, 5)  # Peng's five Gaussians
    assert model.form_factor_a[0].sum().item() == pytest.approx(5.8268)  # f(0) of silicon [A]
    assert model.parameters.dtype == torch.float64


def test_updated_structure_takes_all_parameters(quartz):
    """Of an isotropic and of an anisotropic atom."""
    prepared = prepare_structure(quartz, adp="as_is")
    prepared.scatterers()[1].convert_to_isotropic(prepared.unit_cell())
    model = atomic_model(prepared)
    shifted = model.parameters * 1.01
    updated = updated_structure(prepared, shifted.requires_grad_())
    assert torch.equal(atomic_model(updated).parameters, shifted)
    assert torch.equal(atomic_model(prepared).parameters, model.parameters)
    assert updated.is_similar_symmetry(prepared)
