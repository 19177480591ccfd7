"""Simulated data as the refinement and DIALS meet them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dials.array_family.flex")

from simulated_experiments import experiments, quartz_structure

import libtbx.phil
from cctbx import crystal, xray

from dials.array_family import flex

from dials_hybrid.io.pets import read_pets
from dials_hybrid.phil_simulate import phil_scope
from dials_hybrid.synthesis import Synthesis, simulate

CHEAP = """d_min=1.0 nproc=1 mosaic_spread=0 thickness.mean=200 thickness.width=60 numerics.g_max=1.3
numerics.sg_max=0.01 numerics.weak_sg_max=None numerics.check=False""".split()


def parameters(*text):
    return phil_scope.fetch(libtbx.phil.parse("\n".join([*CHEAP, *text]))).extract()


@pytest.fixture(scope="module")
def simulated():
    return simulate(experiments(), quartz_structure(), parameters("seed=3"))


def column(table, name):
    return table[name].as_numpy_array()


def test_counts_are_as_asked_for(simulated):
    _, table, truth = simulated
    true = column(table, "intensity.true.value")
    assert true.mean() == pytest.approx(3000.0)
    np.testing.assert_allclose(truth["intensities"], true)
    measured, variance = column(table, "intensity.sum.value"), column(table, "intensity.sum.variance")
    deviate = (measured - true) / np.sqrt(variance)
    assert 0.7 < deviate.std() < 1.3 and abs(deviate.mean()) < 0.5
    # 1000 counts of background in each degree of the rocking curve
    width = 2.0 / np.abs(column(table, "zeta"))
    np.testing.assert_allclose(column(table, "background.sum.value"), 1000.0 * width)
    np.testing.assert_allclose(variance, measured + 1000.0 * width)
    strong = measured > 3.0 * np.sqrt(variance)
    r1 = np.abs(np.sqrt(measured[strong]) - np.sqrt(true[strong])).sum() / np.sqrt(measured[strong]).sum()
    assert truth["r_of_truth"]["r1_obs"] == pytest.approx(r1)
    assert truth["n_observed"] == strong.sum()


def test_rows_are_what_dials_would_integrate(simulated):
    expt, table, truth = simulated
    assert len(table) == truth["n_reflections"] > 30
    table.assert_experiment_identifiers_are_consistent(expt)
    assert table.get_flags(table.flags.integrated, all=True).count(False) == 0
    needed = (
        "miller_index id xyzcal.px xyzobs.px.value zeta partiality d lp s1 bbox panel intensity.prf.value"
    )
    assert set(needed.split()) <= set(table.keys())
    assert min(column(table, "partiality")) >= 0.99 and min(column(table, "d")) >= 1.0
    assert min(np.abs(column(table, "zeta"))) >= 0.05


def test_seed_decides_about_the_noise_and_not_about_the_truth(simulated):
    _, table, truth = simulated
    made = Synthesis(experiments(), quartz_structure(), parameters("seed=3"))
    _, again, same = made.run()
    made.params.seed = 4
    _, other, _ = made.run()
    assert np.array_equal(column(table, "intensity.sum.value"), column(again, "intensity.sum.value"))
    assert not np.array_equal(column(table, "intensity.sum.value"), column(other, "intensity.sum.value"))
    np.testing.assert_array_equal(
        column(table, "intensity.true.value"), column(other, "intensity.true.value")
    )
    assert same == truth


def test_the_truth_can_be_told_from_the_file(simulated):
    truth = simulated[2]
    silicon, oxygen = truth["structure"]["atoms"]
    assert silicon["site"] == pytest.approx([0.4697, 0.0, 2 / 3])
    assert oxygen["u_cart"] == pytest.approx([0.014] * 3 + [0.0] * 3)  # not made anisotropic
    assert truth["structure"]["space_group"] == "P 32 2 1"
    assert (truth["seed"], truth["thickness"]["model"]) == (3, "normal")
    angles = [point["angle"] for point in truth["thickness"]["curve"]]
    assert (angles[0], angles[-1]) == (-10.0, 10.0)
    assert truth["thickness"]["curve"][0]["mean"] == pytest.approx(200.2, abs=0.3)


def test_rows_of_a_given_table_come_back_with_other_intensities(simulated):
    expt, table, _ = simulated
    chosen = table.select(table["d"] > 1.3)
    chosen["intensity.prf.value"] = flex.double(len(chosen), 7.0)
    _, found, _ = simulate(expt, quartz_structure(), parameters("counts.noise=False"), chosen)
    assert list(found["miller_index"]) == list(chosen["miller_index"])
    np.testing.assert_allclose(column(found, "intensity.prf.value"), column(found, "intensity.true.value"))
    ratio = column(found, "intensity.true.value") / column(chosen, "intensity.true.value")
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.02)  # beams near the limits of g and S_g come and go


def test_two_crystals_have_tilts_of_their_own():
    two = experiments(identifier="first")
    two.extend(experiments(identifier="second", turn=(0.9, 0.1, -0.3)))
    expt, table, truth = simulate(two, quartz_structure(), parameters("misorientation.smooth=0.02"))
    table.assert_experiment_identifiers_are_consistent(expt)
    assert set(table["id"]) == {0, 1}
    curves = [[p["tilt"] for p in truth["thickness"]["curve"] if p["crystal"] == i] for i in (0, 1)]
    assert np.std(curves[0]) == pytest.approx(0.02, rel=0.1)
    assert not np.allclose(*curves, atol=1e-3)
    with pytest.raises(ValueError, match="holds one crystal, not 2"):
        Synthesis(two, quartz_structure(), parameters()).write_pets("never.cif_pets")


def test_virtual_frames_of_the_same_crystal(tmp_path):
    """All images merged into one frame: nearly the whole rocking curves of the sweep, on the same scale."""
    made = Synthesis(
        experiments(), quartz_structure(), parameters("virtual_frames.n_merged=20", "counts.noise=False")
    )
    _, table, _ = made.run()
    figures = made.write_pets(tmp_path / "x.cif_pets")
    data = read_pets(tmp_path / "x.cif_pets")
    assert (figures["n_frames"], figures["n_reflections"]) == (1, len(data))
    np.testing.assert_allclose(data.intensity, figures["intensities"], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(data.sigma**2, data.intensity + 20 * 1000.0, rtol=1e-4)
    whole = dict(zip(map(tuple, data.hkl.tolist()), data.intensity, strict=True))
    pairs = np.array(
        [
            (whole[hkl], true)
            for hkl, true, zeta in zip(
                table["miller_index"], table["intensity.true.value"], table["zeta"], strict=True
            )
            if hkl in whole and true > 3000.0 and abs(zeta) > 0.5
        ]
    )
    assert len(pairs) > 4
    assert (pairs[:, 0] > 0.99 * pairs[:, 1]).all()
    assert np.median(pairs[:, 0] / pairs[:, 1]) < 1.2


def test_a_mosaic_spread_in_both_directions_changes_narrow_windows_only():
    def made(*text):
        mosaic = "mosaic_spread=0.1", "numerics.mosaic_points=3", "counts.noise=False"
        return simulate(experiments(), quartz_structure(), parameters(*mosaic, *text))

    narrow = "rocking_width=0.2"
    across, both = made(narrow), made(narrow, "mosaic_directions=both")
    assert (across[2]["mosaic_directions"], both[2]["mosaic_directions"]) == ("across", "both")
    wide = made("rocking_width=1"), made("rocking_width=1", "mosaic_directions=both")

    def difference(pair):
        (_, _, first), (_, _, second) = pair
        f = [np.sqrt(np.array(truth["intensities"]) / truth["scale"]) for truth in (first, second)]
        return np.abs(f[0] - f[1]).sum() / f[0].sum()

    assert difference(wide) < 0.004 < 0.02 < difference((across, both))


def other_cell():
    structure = xray.structure(
        crystal.special_position_settings(crystal.symmetry((6.0, 6.0, 5.405, 90, 90, 120), "P 32 2 1"))
    )
    structure.add_scatterer(xray.scatterer("Si1", (0.4697, 0.0, 2 / 3), u=0.008))
    return structure


@pytest.mark.parametrize(
    ("make", "structure", "text", "sentence"),
    [
        (lambda: experiments()[:0], quartz_structure, (), "there are no experiments"),
        (lambda: experiments(half_width=None), quartz_structure, (), "no profile model .* set rocking_width"),
        (experiments, other_cell, (), "the cell of the model .* is not that of experiment 0"),
        (experiments, quartz_structure, ("numerics.g_max=0.5",), "numerics.g_max=0.5 leaves out reflections"),
        (experiments, quartz_structure, ("thickness.mean=1e5",), "rocking steps are too many"),
        (experiments, quartz_structure, ("d_min=40",), "predicts no reflection to 40.00 A"),
    ],
    ids=["none", "profile", "cell", "g_max", "steps", "d_min"],
)
def test_bad_input_is_explained(make, structure, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        simulate(make(), structure(), parameters(*text))
