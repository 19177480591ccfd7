from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample import sample, summary

from dials_hybrid.report import crystal_plots


def test_a_distribution_that_changes_is_a_map_with_its_mean():
    map_, mean = crystal_plots.thickness_distribution(sample().distributions[1])["data"]
    assert np.shape(map_["z"]) == (4, 3), "a row for each thickness"
    assert np.array(map_["z"])[:, 0] == pytest.approx([2.5, 5.0, 2.5, 0.0])
    assert mean["y"] == pytest.approx([200.0, 250.0, 300.0])


def test_a_distribution_that_stays_is_a_curve_with_its_mean():
    mean, p = crystal_plots.thickness_distribution(sample().distributions[0])["data"]
    assert (p["x"], p["y"]) == ([100.0, 200.0, 300.0, 400.0], pytest.approx([2.5, 5.0, 2.5, 0.0]))
    assert mean["x"] == pytest.approx([200.0, 200.0])


def test_distributions_have_names_of_their_own():
    names = {crystal_plots.thickness_distribution(each)["id"] for each in sample().distributions}
    assert len(names) == 2


def test_crystals_are_named_where_there_are_several():
    distribution, (curve,) = sample().distributions[1], sample().tilts
    titles = [
        crystal_plots.thickness_distribution(distribution, several)["title"] for several in (False, True)
    ]
    assert titles == ["Thickness distribution", "Thickness distribution, crystal 2"]
    other = replace(curve, crystal=1)
    names = [
        [trace.get("name") for trace in crystal_plots.tilts(curves)["data"]]
        for curves in ([curve], [curve, other])
    ]
    assert names == [[None, curve.name], [None, f"{curve.name}, crystal 1", None, f"{curve.name}, crystal 2"]]


def test_uncertainty_of_the_thickness_is_a_band():
    figure = crystal_plots.thickness_curve(summary()["thickness"]["curve"])
    band, mean, _, spread = figure["data"]
    assert set(band["y"]) == {488.0, 512.0}
    assert (set(mean["y"]), set(spread["y"])) == ({500.0}, {90.0})
    assert "one s.u." in figure["note"]


def test_no_band_where_the_uncertainty_is_not_known():
    curve = [{"crystal": 0, "angle": 1.0, "mean": 500.0, "spread": 90.0}]
    figure = crystal_plots.thickness_curve(curve)
    assert [trace["name"] for trace in figure["data"]] == ["mean", "spread"]
    assert "s.u." not in figure["note"]


def test_scan_is_relative_to_its_lowest():
    (trace,) = crystal_plots.thickness_scan(summary()["scan"])["data"]
    assert trace["y"] == [3.0, 1.0, 2.0]
    assert crystal_plots.thickness_scan(None) is None


def test_tilts_have_their_band_and_scales_without_one_none():
    data = sample()
    band, tilt = crystal_plots.tilts(data.tilts)["data"]
    assert tilt["y"] == pytest.approx([-0.2, 0.0, 0.2])
    assert sorted(band["y"]) == pytest.approx([-0.22, -0.18, -0.02, 0.02, 0.18, 0.22])
    assert len(crystal_plots.scales(data.scales)["data"]) == 1
