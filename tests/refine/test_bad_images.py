"""Parts of a scan that fit badly are found, named by their images, and chance is not taken for a fault."""

from __future__ import annotations

import numpy as np
import pytest

from dials_hybrid.refine.bad_images import bad_images
from dials_hybrid.rocking.sweep import Sweep

PHI_0, WIDTH = -50.0, 0.5


def sweep(width=WIDTH) -> Sweep:
    """Images 1 to 200, from -50 degree on."""
    unit, z = np.eye(3)[None].repeat(2, 0), np.array([0.0, 200.0])
    return Sweep(unit, unit, z, unit[0, 2], unit[0, 0], PHI_0 if width > 0 else -PHI_0, width)


def ranges(r1=0.08, crystal=0, n=20, n_observed=50, frame=None, **others) -> list[dict]:
    """n ranges that share the scan of 100 degrees; others["r3"] is the R1 of the fourth."""
    edges = np.linspace(-50.0, 50.0, n + 1)
    return [
        {
            "crystal": crystal,
            "frame": frame,
            "angle_min": edges[i] + 0.01,
            "angle_max": edges[i + 1] - 0.01,
            "r1_obs": others.get(f"r{i}", r1),
            "n_observed": n_observed,
            "n_all": 2 * n_observed,
        }
        for i in range(n)
    ]


def summary(parts, angles=(), crystal=0) -> dict:
    outliers = [{"crystal": crystal, "angle": float(angle)} for angle in angles]
    return {
        "r1_obs": 0.08,
        "n_used": sum(part["n_all"] for part in parts),
        "angular_ranges": parts,
        "outliers": outliers,
    }


def test_a_good_scan_has_none():
    scattered = np.linspace(-49.0, 49.0, 40)
    assert list(bad_images(summary(ranges(), scattered), [sweep()])) == []


def test_outliers_together_are_named_by_their_images():
    """The fourth range is from -35 to -30 degree, images 31 to 40 of half a degree each."""
    found = list(bad_images(summary(ranges(), [*np.linspace(-34.0, -31.0, 17), 3.0, 20.0]), [sweep()]))
    assert found == [
        "17 reflections of images 31-40 fit badly (R1_obs 8%, overall 8%): beam damage, drift or a bad image?"
    ]


def test_a_scan_in_the_other_direction():
    (found,) = bad_images(summary(ranges(r3=0.3)), [sweep(-WIDTH)])
    assert "The reflections of images 161-170 fit badly (R1_obs 30%, overall 8%)" in found


@pytest.mark.parametrize(("r1", "n"), [(0.17, 1), (0.15, 0)])
def test_twice_the_r_value_is_bad(r1, n):
    assert len(list(bad_images(summary(ranges(r3=r1))))) == n


def test_neighbours_are_one():
    (found,) = bad_images(summary(ranges(r3=0.2, r4=0.25)), [sweep()])
    assert "images 31-50" in found and "R1_obs 25%" in found


def test_five_outliers_are_chance():
    assert list(bad_images(summary(ranges(), np.linspace(-34.0, -31.0, 5)))) == []


def test_of_many_outliers_some_are_together_by_chance():
    """200 by a Poisson distribution over 20 ranges, ten each: none is five standard deviations off."""
    angles = np.random.default_rng(0).uniform(-50.0, 50.0, 200)
    assert list(bad_images(summary(ranges(), angles))) == []


def test_frames_are_judged_together():
    """Of ten observed reflections each: one bad frame of four is chance, four are not."""
    few = {"n": 100, "n_observed": 10, "frame": 0}
    assert list(bad_images(summary(ranges(**few, r4=0.3)))) == []
    (found,) = bad_images(summary(ranges(**few, r3=0.3, r4=0.3, r5=0.3)))
    assert "of -47 to -44 degree of scan angle fit" in found


def test_crystals_are_apart():
    parts = [*ranges(), *ranges(crystal=1, r0=0.4)]
    (found,) = bad_images(summary(parts, np.linspace(-49.0, -46.0, 9), crystal=1), [sweep(), sweep()])
    assert found.startswith("9 reflections of images 1-10 of crystal 2 fit badly")
    of_first, of_second = bad_images(summary(parts, np.linspace(-49.0, -46.0, 9), crystal=0))
    assert of_first.startswith("9 reflections") and "of crystal 1 fit" in of_first
    assert of_second.startswith("The reflections") and "of crystal 2 fit" in of_second


def test_without_observed_reflections_nothing_is_said():
    parts = ranges(r1=float("nan"), n_observed=0)
    assert list(bad_images({**summary(parts), "r1_obs": float("nan")})) == []
