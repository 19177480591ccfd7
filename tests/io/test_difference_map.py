"""Maps: the sign of the phases, the scale of the potential, and what other programs read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cctbx import crystal, miller, sgtbx, xray
from iotbx import reflection_file_reader
from iotbx.reflection_file_utils import get_r_free_flags_scores

from dials_hybrid.bloch.scattering import structure_factors
from dials_hybrid.io.difference_map import DifferenceMap, write_mtz
from dials_hybrid.io.structure import prepare_structure
from dials_hybrid.io.tensors import atomic_model


def chiral(symbol: str = "P21", missing: tuple[str, ...] = ()) -> xray.structure:
    cell = (5.1, 6.3, 7.2, 90, 101, 90) if symbol == "P21" else (7.0, 7.0, 8.0, 90, 90, 120)
    structure = xray.structure(crystal_symmetry=crystal.symmetry(cell, symbol))
    for label, site in {
        "C1": (0.21, 0.12, 0.33),
        "O1": (0.43, 0.31, 0.12),
        "N1": (0.77, 0.45, 0.61),
        "C2": (0.05, 0.68, 0.87),
    }.items():
        if label not in missing:
            structure.add_scatterer(xray.scatterer(label, site, u=0.02, scattering_type=label[0]))
    return prepare_structure(structure, adp="isotropic")


def reflections(structure: xray.structure, d_min: float = 0.8) -> np.ndarray:
    """Some equivalent of each unique reflection, not the one in cctbx's asymmetric unit."""
    unique = miller.build_set(structure.crystal_symmetry(), anomalous_flag=False, d_min=d_min)
    group = structure.space_group()
    return np.array([miller.sym_equiv_indices(group, h).indices()[-1].h() for h in unique.indices()])


def factors(structure: xray.structure, hkl: np.ndarray) -> np.ndarray:
    return structure_factors(atomic_model(structure), torch.as_tensor(hkl)).numpy()


def made(model: xray.structure, truth: xray.structure | None = None, hkl=None) -> DifferenceMap:
    hkl = reflections(model) if hkl is None else hkl
    calculated = factors(model, hkl)
    observed = np.abs(factors(truth or model, hkl))
    free = np.arange(len(hkl)) % 10 == 0
    return DifferenceMap(model, hkl, calculated, observed, 0.01 + 0.0 * observed, free)


def distance(structure: xray.structure, site, other) -> float:
    images = sgtbx.sym_equiv_sites(structure.unit_cell(), structure.space_group(), site)
    return sgtbx.min_sym_equiv_distance_info(images, other).dist()


@pytest.mark.parametrize("symbol", ["P21", "P31"])
def test_phases_are_those_of_cctbx(symbol):
    structure = chiral(symbol)
    found = made(structure)
    expected = found.f_calc.structure_factors_from_scatterers(structure, algorithm="direct").f_calc()
    assert np.abs((found.f_calc.data() - expected.data()).as_numpy_array()).max() < 1e-3


@pytest.mark.parametrize("symbol", ["P21", "P31"])
def test_observed_map_has_its_peaks_at_the_atoms(symbol):
    structure = chiral(symbol)
    found = made(structure)
    peaks = found._extrema(found.observed, 4, 1.0)
    assert {peak.atom for peak in peaks} == {"C1", "O1", "N1", "C2"}
    assert max(peak.distance for peak in peaks) < 0.06
    # the other hand is somewhere else
    inverted = [tuple(-x for x in scatterer.site) for scatterer in structure.scatterers()]
    assert max(min(distance(structure, site, peak.site) for peak in peaks) for site in inverted) > 0.5


def test_potential_of_an_atom():
    """phi(0) = 2 pi a_0 sum a_i (4 pi / (b_i + B))^(3/2): the Fourier transform of the form factor."""
    structure = xray.structure(crystal_symmetry=crystal.symmetry((9.0, 10.0, 11.0, 90, 90, 90), "P1"))
    structure.add_scatterer(xray.scatterer("C1", (0.5, 0.5, 0.5), u=0.08))
    structure = prepare_structure(structure, adp="isotropic")
    found = made(structure, hkl=reflections(structure, d_min=0.6))
    height = found._extrema(found.observed, 1, 1.0)[0].height
    atoms = atomic_model(structure)
    b = atoms.form_factor_b[0] + 8.0 * math.pi**2 * 0.08
    of_atom = float((atoms.form_factor_a[0] * (4.0 * math.pi / b) ** 1.5).sum())
    mean = float(atoms.form_factor_a[0].sum()) / structure.unit_cell().volume()  # F(000) is not in the map
    volts = 47.878 * (of_atom - mean)
    assert height * 14.3996 == pytest.approx(volts, rel=0.01)


@pytest.mark.parametrize("symbol", ["P21", "P31"])
def test_missing_atom_is_the_highest_peak(symbol):
    whole, part = chiral(symbol), chiral(symbol, missing=("O1",))
    peaks, holes = made(part, whole).peaks()
    assert distance(whole, peaks[0].site, whole.scatterers()[1].site) < 0.1
    assert peaks[0].height > 2.0 * peaks[1].height
    assert [peak.height for peak in peaks] == sorted((peak.height for peak in peaks), reverse=True)
    assert holes[0].height < 0.0
    nearest = min(distance(part, peaks[0].site, s.site) for s in part.scatterers())
    assert peaks[0].distance == pytest.approx(nearest)


def test_atom_too_many_is_the_deepest_hole():
    whole, part = chiral(), chiral(missing=("N1",))
    peaks, holes = made(whole, part).peaks()
    assert holes[0].atom == "N1"
    assert holes[0].distance < 0.1
    summary = made(whole, part).summary()
    assert summary["min"] <= holes[0].height < -summary["rms"] * 4
    assert summary["holes"][0]["atom"] == "N1"


def test_uncertain_amplitudes_stay_out():
    whole, part = chiral(), chiral(missing=("O1",))
    hkl = reflections(part)
    calculated, observed = factors(part, hkl), np.abs(factors(whole, hkl))
    wild = np.arange(len(hkl)) % 5 == 0
    observed[wild] *= 2.0
    sigma = np.where(wild, 50.0, 0.01)
    free = np.zeros(len(hkl), dtype=bool)
    found = DifferenceMap(part, hkl, calculated, observed, sigma, free)
    assert distance(whole, found.peaks()[0][0].site, whole.scatterers()[1].site) < 0.1
    assert (
        np.abs(found.difference.data().as_numpy_array()).max() < np.abs(observed - np.abs(calculated)).max()
    )


def test_systematic_absences_are_left_out():
    structure = chiral("P31")
    hkl = np.vstack([reflections(structure), [(0, 0, 1), (0, 0, 2)]])
    indices = list(made(structure, hkl=hkl).f_calc.indices())
    assert len(indices) == len(hkl) - 2 - sum(map(structure.space_group().is_sys_absent, hkl[:-2].tolist()))


@pytest.fixture
def columns(tmp_path):
    whole, part = chiral(), chiral(missing=("C2",))
    found = made(part, whole)
    write_mtz(tmp_path / "map.mtz", found, 0.0251)
    content = reflection_file_reader.any_reflection_file(str(tmp_path / "map.mtz"))
    arrays = {tuple(array.info().labels): array for array in content.as_miller_arrays()}
    return found, arrays, content.file_content()


def test_mtz_columns(columns):
    found, arrays, mtz = columns
    assert set(arrays) == {
        ("FP", "SIGFP"),
        ("FC", "PHIC"),
        ("FWT", "PHWT"),
        ("DELFWT", "PHDELWT"),
        ("FreeR_flag",),
    }
    types = dict(zip(mtz.column_labels(), mtz.column_types(), strict=True))
    assert [types[label] for label in ("FP", "SIGFP", "FC", "PHIC", "FWT", "PHWT")] == list("FQFPFP")
    assert types["FreeR_flag"] == "I"
    assert mtz.crystals()[-1].datasets()[-1].wavelength() == pytest.approx(0.0251)
    for labels, expected in (
        (("FC", "PHIC"), found.f_calc),
        (("FWT", "PHWT"), found.observed),
        (("DELFWT", "PHDELWT"), found.difference),
    ):
        array, own = arrays[labels].common_sets(expected)
        assert array.size() == expected.size()
        assert np.abs((array.data() - own.data()).as_numpy_array()).max() < 1e-4
        assert array.space_group() == expected.space_group()


def test_free_flags_are_recognised(columns):
    _, arrays, _ = columns
    flags = arrays[("FreeR_flag",)]
    scores = get_r_free_flags_scores([flags], None)
    assert scores.test_flag_values == [0]
    assert (flags.data() == 0).count(True) / flags.size() == pytest.approx(0.1, abs=0.02)


def test_map_from_the_file(columns):
    """What a map program does: FWT and PHWT, Fourier transform, peaks at the atoms."""
    _, arrays, _ = columns
    structure = chiral()
    peaks = arrays[("FWT", "PHWT")].fft_map(resolution_factor=0.25).apply_sigma_scaling()
    for scatterer in structure.scatterers():
        value = peaks.real_map_unpadded().tricubic_interpolation(scatterer.site)
        assert value > 4.0, scatterer.label


def test_no_flags_without_a_free_set(tmp_path):
    structure = chiral()
    hkl = reflections(structure)
    f = factors(structure, hkl)
    nothing = np.zeros(len(hkl), dtype=bool)
    write_mtz(tmp_path / "map.mtz", DifferenceMap(structure, hkl, f, np.abs(f), np.abs(f), nothing), 0.025)
    content = reflection_file_reader.any_reflection_file(str(tmp_path / "map.mtz")).file_content()
    assert "FreeR_flag" not in list(content.column_labels())


def test_missing_folder(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_mtz(tmp_path / "nowhere" / "map.mtz", made(chiral()), 0.025)
