"""Parts of the data against selections made by hand, d against the formula for a monoclinic cell."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from synthetic import double

from dials_hybrid.data import Observations
from dials_hybrid.refine.bins import angular_ranges, d_spacings, intensity_groups, resolution_shells
from dials_hybrid.refine.rvalues import r_values


def measured(n: int = 230):
    generator = torch.Generator().manual_seed(5)
    calculated = 100.0 * torch.rand(n, generator=generator, dtype=torch.float64)
    sigma = 2.0 + 0.05 * calculated
    intensity = calculated + sigma * torch.randn(n, generator=generator, dtype=torch.float64)
    return intensity, sigma, calculated


def observations(angle, crystal, frame, intensity, sigma) -> Observations:
    n = len(angle)
    nothing = torch.zeros(n, dtype=torch.long)
    return Observations(
        hkl=torch.zeros(n, 3, dtype=torch.long),
        intensity=intensity,
        sigma=sigma,
        first=nothing,
        last=nothing,
        crystal=crystal,
        frame=frame,
        angle=angle,
        row=torch.arange(n),
        free=nothing.bool(),
        share=torch.ones(n, dtype=torch.float64),
    )


def test_d_of_a_monoclinic_cell():
    a, b, c, beta = 5.1, 7.3, 9.9, math.radians(104.0)
    cell = double([a, b, c, 90.0, 104.0, 90.0])
    hkl = torch.tensor([[1, 0, 0], [0, 2, 0], [1, -3, 2], [-1, -3, 2]])
    expected = []
    for h, k, l in hkl.tolist():  # noqa: E741
        square = h**2 / a**2 + k**2 * math.sin(beta) ** 2 / b**2 + l**2 / c**2
        square -= 2 * h * l * math.cos(beta) / (a * c)
        expected.append(math.sin(beta) / math.sqrt(square))
    assert d_spacings(hkl, cell).tolist() == pytest.approx(expected)


def test_shells_are_equal_complete_and_in_order():
    intensity, sigma, calculated = measured()
    d = 0.5 + torch.rand(230, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shells = resolution_shells(d, intensity, sigma, calculated)
    assert [shell["n_all"] for shell in shells] == [23] * 10
    assert all(upper["d_min"] > lower["d_max"] for upper, lower in zip(shells, shells[1:], strict=False))
    own = (d <= shells[3]["d_max"]) & (d >= shells[3]["d_min"])
    values = asdict(r_values(intensity[own], sigma[own], calculated[own]))
    assert {name: shells[3][name] for name in values} == pytest.approx(values)


def test_shells_add_up_to_the_pooled_value():
    intensity, sigma, calculated = measured()
    f_o = intensity.clamp(min=0.0).sqrt()
    shells = resolution_shells(calculated, intensity, sigma, calculated)
    order = calculated.argsort(descending=True).tensor_split(10)
    weights = [float(f_o[own].sum()) for own in order]
    mean = sum(w * shell["r1_all"] for w, shell in zip(weights, shells, strict=True)) / sum(weights)
    assert mean == pytest.approx(r_values(intensity, sigma, calculated).r1_all)


def test_few_reflections_make_few_shells():
    assert len(resolution_shells(double([1.0, 2.0]), *(double([1.0, 2.0]) for _ in range(3)))) == 2


def test_intensity_groups_find_a_wrong_scale_of_the_weak():
    _, sigma, calculated = measured()
    weakest = calculated.argsort()[:23]
    intensity = calculated.clone()
    intensity[weakest] *= 0.4
    groups = intensity_groups(intensity, sigma, calculated)
    assert [group["k"] for group in groups] == pytest.approx([0.4] + [1.0] * 9)
    assert groups[0]["r1_all"] == pytest.approx((1.0 - 0.4**0.5) / 0.4**0.5)
    assert [group["r1_all"] for group in groups[1:]] == pytest.approx([0.0] * 9, abs=1e-12)
    assert groups[-1]["f_calc_max"] == pytest.approx(float(calculated.max()) ** 0.5)


def test_ranges_of_a_sweep_and_frames_of_another_crystal():
    intensity, sigma, calculated = measured(8)
    angle = double([-10.0, -4.0, 4.9, 10.0, 3.0, 3.0, 3.0, 7.0])
    crystal = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    frame = torch.tensor([-1, -1, -1, -1, 4, 4, 6, 6])
    data = observations(angle, crystal, frame, intensity, sigma)
    ranges = angular_ranges(data, calculated)
    found = [(part["crystal"], part["frame"], part["angle_min"], part["n_all"]) for part in ranges]
    # 20 degrees: four ranges of 5
    assert found == [
        (0, None, -10.0, 1),
        (0, None, -4.0, 1),
        (0, None, 4.9, 1),
        (0, None, 10.0, 1),
        (1, 4, 3.0, 2),
        (1, 6, 3.0, 2),
    ]
    last = r_values(intensity[6:], sigma[6:], calculated[6:])
    assert ranges[-1]["r1_all"] == pytest.approx(last.r1_all)


def test_a_single_angle_is_one_range():
    intensity, sigma, calculated = measured(3)
    same = torch.zeros(3, dtype=torch.long)
    data = observations(double([5.0] * 3), same, same - 1, intensity, sigma)
    (only,) = angular_ranges(data, calculated)
    assert only["n_all"] == 3


def test_a_long_sweep_has_at_most_forty_ranges():
    intensity, sigma, calculated = measured(230)
    same = torch.zeros(230, dtype=torch.long)
    angle = torch.linspace(-180.0, 180.0, 230, dtype=torch.float64)
    ranges = angular_ranges(observations(angle, same, same - 1, intensity, sigma), calculated)
    assert len(ranges) == 40
    assert sum(part["n_all"] for part in ranges) == 230
