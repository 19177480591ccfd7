"""A hydrogen atom left out of an organic crystal is the highest peak of the dynamical difference map."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("cctbx.xray")

from simulated import Scan, true_model

from cctbx import crystal, sgtbx, xray
from cctbx.array_family import flex

from dials_hybrid.io.difference_map import DifferenceMap
from dials_hybrid.io.structure import prepare_structure
from dials_hybrid.io.tensors import atomic_model
from dials_hybrid.model.thickness import ThicknessGrid, Wedge
from dials_hybrid.refine.observed_amplitudes import observed_amplitudes
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.simulate import simulate_observations

ATOMS = {
    "C1": (0.20, 0.15, 0.22),
    "C2": (0.38, 0.30, 0.31),
    "O1": (0.02, 0.22, 0.14),
    "N1": (0.60, 0.20, 0.36),
    "H1": (0.28, 0.40, 0.42),  # both on C2
    "H2": (0.43, 0.42, 0.21),
}


def structure() -> xray.structure:
    symmetry = crystal.symmetry((5.2, 6.1, 7.4, 90, 90, 90), "P212121")
    made = xray.structure(crystal_symmetry=symmetry)
    for label, site in ATOMS.items():
        u = 0.03 if label[0] == "H" else 0.02
        made.add_scatterer(xray.scatterer(label, site, u=u, scattering_type=label[0]))
    return prepare_structure(made, adp="isotropic")


def model(atoms: xray.structure):
    """A crystal of all thicknesses up to 600 A, turned by 50 degrees."""
    scan = Scan(atomic_model(atoms), (0.3, -0.5, 0.2), 25.0)
    return true_model(scan, Wedge(ThicknessGrid(800.0, 32), 600.0), step=0.08, brightest=2e4)


@pytest.fixture(scope="module")
def measured():
    return simulate_observations(model(structure()), background=200.0, seed=0)


def without(label: str) -> xray.structure:
    whole = structure()
    return whole.select(flex.bool([name != label for name in whole.scatterers().extract_labels()]))


def peaks(part: xray.structure, observations, calculated: torch.Tensor):
    amplitudes = observed_amplitudes(observations, calculated, atomic_model(part))
    return DifferenceMap(part, *(item.numpy() for item in vars(amplitudes).values())).peaks()[0]


def distance(site, label: str) -> float:
    whole = structure()
    images = sgtbx.sym_equiv_sites(whole.unit_cell(), whole.space_group(), site)
    return sgtbx.min_sym_equiv_distance_info(images, ATOMS[label]).dist()


@pytest.mark.parametrize("label", ["H1", "H2"])
def test_hydrogen_is_the_highest_peak(measured, label):
    part = without(label)
    hybrid = model(part)
    assert torch.equal(hybrid.dataset.observations.hkl, measured.hkl)
    calculated = hybrid.evaluate().intensity
    f_o, f_c = measured.intensity.clamp(min=0.0).sqrt(), calculated.sqrt()
    calculated = calculated * ((f_o * f_c).sum() / calculated.sum()) ** 2
    assert r_values(measured.intensity, measured.sigma, calculated).r1_obs > 0.03
    found = peaks(part, measured, calculated)
    assert distance(found[0].site, label) < 0.2
    assert found[0].height > 1.8 * found[1].height
