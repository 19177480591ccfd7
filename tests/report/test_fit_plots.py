from __future__ import annotations

import numpy as np
import pytest
from sample import reflections, summary
from scipy.stats import probplot

from dials_hybrid.report import fit_plots


def test_amplitudes_are_roots_of_intensities():
    data = reflections()
    diagonal, work, free = fit_plots.amplitudes(data)["data"]
    assert diagonal["x"] == diagonal["y"]
    assert len(work["x"]) + len(free["x"]) == 150
    assert len(free["x"]) == 15
    assert np.square(free["x"]) == pytest.approx(data.calculated[data.free], rel=1e-5)
    assert np.square(free["y"]) == pytest.approx(data.observed[data.free].clip(0.0), rel=1e-5)
    h, k, l = data.hkl[0]  # noqa: E741
    assert free["text"][0].startswith(f"{h} {k} {l}<br>")


def test_of_many_reflections_the_worst_are_drawn():
    data = reflections(40_000)
    figure = fit_plots.amplitudes(data)
    drawn = sum(len(trace["x"]) for trace in figure["data"][1:])
    assert 4000 <= drawn <= 4400
    assert f"{drawn} of 40000 reflections" in figure["note"]
    assert any("Δ/σ -30.0" in text for trace in figure["data"][1:] for text in trace["text"])


def test_shells_stand_at_the_middle_of_their_range():
    figure = fit_plots.by_resolution(summary()["resolution_shells"])
    observed, every = figure["data"]
    assert observed["x"] == pytest.approx([0.52, 2.5])  # 1/d^2
    assert observed["y"] == pytest.approx([6.0, 10.0])
    assert every["y"] == pytest.approx([7.0, 30.0])
    assert figure["layout"]["xaxis"]["ticktext"] == ["1.39", "0.63"]


def test_each_crystal_has_its_curves_by_angle_and_what_is_missing_is_a_gap():
    traces = fit_plots.by_angle(summary()["angular_ranges"])["data"]
    assert [trace["name"] for trace in traces] == [
        f"{what}, crystal {crystal}" for crystal in (1, 2) for what in ("I > 3σ", "all")
    ]
    assert traces[0]["y"] == [7.0, None]
    assert traces[0]["x"] == [-10.0, 10.0]


def test_intensity_groups_have_their_own_axis_for_k():
    figure = fit_plots.by_intensity(summary()["intensity_groups"])
    k = figure["data"][-1]
    assert (k["y"], k["yaxis"]) == ([None, 0.98], "y2")
    assert "yaxis2" in figure["layout"]


def test_normal_probability_by_scipy():
    """scipy's Filliben quantiles differ a little from (i - 1/2) / n, and most at the ends."""
    data = reflections(2000)
    _, points = fit_plots.normal_probability(data)["data"]
    work = data.residual[~data.free]
    expected, observed = probplot(work, fit=False)
    assert points["y"] == pytest.approx(observed, rel=1e-5)
    assert points["x"][20:-20] == pytest.approx(expected[20:-20], abs=0.01)


def test_slope_of_the_middle_is_that_of_the_residuals():
    data = reflections(5000)
    data.residual[:] *= 3.0
    assert "(here 3.0)" in fit_plots.normal_probability(data)["note"]


def test_residuals_by_angle_are_those_of_each_crystal():
    data = reflections()
    figure = fit_plots.residuals_by_angle(data)
    zero, *crystals = figure["data"]
    assert set(zero["y"]) == {0.0} and zero["x"] == pytest.approx(
        [data.angle.min(), data.angle.max()], rel=1e-5
    )
    assert [trace["name"] for trace in crystals] == ["crystal 1", "crystal 2"]
    for number, trace in enumerate(crystals):
        own = data.crystal == number
        assert trace["x"] == pytest.approx(data.angle[own], rel=1e-5)
        assert trace["y"] == pytest.approx(data.residual[own], rel=1e-5)
    h, k, l = data.hkl[7]  # noqa: E741
    assert crystals[1]["text"][3] == f"{h} {k} {l}<br>{data.d[7]:.2f} Å, {data.angle[7]:.1f}°<br>Δ/σ -30.0"
