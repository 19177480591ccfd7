from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dxtbx.model")

from cctbx import crystal, xray
from cctbx.array_family import flex
from cctbx.sgtbx import change_of_basis_op

from dials_hybrid.io.checks import SettingCheck, check_cell, check_setting

QUARTZ = (4.913, 4.913, 5.405, 90, 90, 120)


def structure(cell, space_group, *atoms):
    symmetry = crystal.symmetry(unit_cell=cell, space_group_symbol=space_group)
    scatterers = [xray.scatterer(name, site=site, u=0.01) for name, site in atoms]
    return xray.structure(crystal_symmetry=symmetry, scatterers=flex.xray_scatterer(scatterers))


@pytest.fixture
def quartz():
    return structure(QUARTZ, "P 32 2 1", ("Si", (0.4697, 0, 2 / 3)), ("O", (0.4135, 0.2669, 0.78577)))


def data(model, d_min=0.8, noise=0.05):
    """hkl, intensity and sigma of all reflections of a model, equivalents included, with noise."""
    f = model.structure_factors(d_min=d_min, anomalous_flag=True, algorithm="direct").f_calc()
    f = f.expand_to_p1()
    hkl = np.array(list(f.indices()))
    amplitude = flex.abs(f.data()).as_numpy_array()
    generator = np.random.default_rng(0)
    intensity = (amplitude * (1.0 + noise * generator.standard_normal(len(amplitude)))) ** 2
    return hkl, intensity, np.full(len(hkl), 0.01 * intensity.mean())


@pytest.mark.parametrize(
    ("factors", "agrees"),
    [
        ((1.0, 1.0, 1.0), True),
        ((1.01, 1.01, 0.99), True),  # calibration of the camera length
        ((1.05, 1.05, 1.05), False),
        ((0.95, 0.95, 0.95), False),
        ((1.0, 1.0, 1.05), False),
    ],
)
def test_cell_lengths(quartz, factors, agrees):
    cell = [length * factor for length, factor in zip(QUARTZ, factors, strict=False)]
    measured = (*cell, 90.0, 90.0, 120.0)
    if agrees:
        check_cell(quartz, measured, "it")
        return
    with pytest.raises(ValueError, match=r"4\.91 4\.91 5\.41 .* is not that of experiment 3 \("):
        check_cell(quartz, measured, "experiment 3")


@pytest.mark.parametrize(("angle", "agrees"), [(119.0, True), (117.0, False), (60.0, False)])
def test_cell_angles(quartz, angle, agrees):
    measured = (4.913, 4.913, 5.405, 90.0, 90.0, angle)
    if agrees:
        check_cell(quartz, measured, "it")
    else:
        with pytest.raises(ValueError, match=f"{angle:.2f}"):
            check_cell(quartz, measured, "it")


def test_the_right_setting_is_recognised(quartz):
    check = check_setting(quartz, *data(quartz))
    assert set(check.correlation) == {"h,k,l", "-h,-k,l"}  # point group 32: two of one lattice
    assert check.present > 0.98
    assert check.better is None


def test_the_other_setting_of_quartz_is_detected(quartz):
    """The model of -x, -y, z against data of x, y, z: reindexing by -h,-k,l mends it."""
    other = quartz.change_basis("-x,-y,z")
    check = check_setting(other, *data(quartz))
    assert check.better == "-h,-k,l"
    assert check.correlation["-h,-k,l"] > 0.98 > 0.9 > check.present


def test_the_advice_is_right(quartz):
    """The operator that is named, applied as dials.reindex does, makes model and data agree."""
    other = quartz.change_basis("-x,-y,z")
    hkl, intensity, sigma = data(quartz)
    advice = check_setting(other, hkl, intensity, sigma).better
    reindexed = change_of_basis_op(advice).apply(flex.miller_index([tuple(map(int, h)) for h in hkl]))
    again = check_setting(other, np.array(list(reindexed)), intensity, sigma)
    assert again.better is None and again.present > 0.98


def test_the_other_hand_looks_alike(quartz):
    """Friedel's law: that is for the dynamical refinement to tell."""
    other_hand = quartz.change_hand()
    check = check_setting(other_hand, *data(quartz))
    assert check.better is None and check.present > 0.98


def test_axes_of_equal_length_exchanged():
    """Monoclinic with a = c: the settings (h,k,l) and (l,-k,h) share the lattice."""
    atoms = ("Si", (0.1, 0.2, 0.35)), ("O", (0.4, 0.05, 0.1)), ("C", (0.8, 0.4, 0.6))
    model = structure((5.0, 6.0, 5.0, 90, 110, 90), "P 1 21 1", *atoms)
    hkl, intensity, sigma = data(model)
    swapped = hkl[:, [2, 1, 0]] * [1, -1, 1]
    check = check_setting(model, swapped, intensity, sigma)
    assert check.better is not None
    assert check.correlation[check.better] > 0.98


def test_the_whole_symmetry_of_the_lattice_leaves_one_setting():
    model = structure((5.64, 5.64, 5.64, 90, 90, 90), "F m -3 m", ("Na", (0, 0, 0)), ("Cl", (0.5, 0.5, 0.5)))
    check = check_setting(model, *data(model, d_min=0.7))
    assert list(check.correlation) == ["h,k,l"]


def test_too_few_observed_reflections_say_nothing(quartz):
    hkl, intensity, sigma = data(quartz)
    assert check_setting(quartz, hkl[:19], intensity[:19], 1e-6 * sigma[:19]) is None
    assert check_setting(quartz, hkl, intensity, intensity) is None


@pytest.mark.parametrize(
    ("other", "n_unique", "better"),
    [(0.80, 100, None), (0.87, 100, None), (0.89, 100, "-h,-k,l"), (0.89, 20, None), (0.99, 20, "-h,-k,l")],
)
def test_a_setting_that_chance_may_favour_is_not_better(other, n_unique, better):
    assert SettingCheck({"h,k,l": 0.80, "-h,-k,l": other}, n_unique).better == better


def test_standard_error_of_the_difference():
    """Of two coefficients of independent samples of 50 pairs, both 0.6 in truth, against Fisher's formula."""
    generator = np.random.default_rng(0)
    x, noise = generator.normal(size=(2, 4000, 50))
    y = 0.6 * x + 0.8 * noise
    coefficients = [np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]
    better = [
        SettingCheck({"h,k,l": first, "-h,-k,l": second}, 50).better is not None
        for first, second in zip(coefficients[::2], coefficients[1::2], strict=True)
    ]
    assert 0.012 < np.mean(better) < 0.036  # of a normal distribution beyond two standard errors: 0.023
