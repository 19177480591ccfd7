"""Observed amplitudes for maps: exact ratios, and what must not blow up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import dataset, double, quartz, sweep, turned

from dials_hybrid.bloch.scattering import structure_factors
from dials_hybrid.refine.observed_amplitudes import observed_amplitudes

ATOMS = quartz()
HKL = [(1, 0, 0), (0, 1, 0), (-1, 0, 0), (2, 1, 3), (-2, -1, -3), (1, 2, -3), (1, 1, 1), (2, 2, 1)]
GROUPS = [[0, 1, 2], [3, 4, 5], [6], [7]]  # equivalents, Friedel mates among them


def columns(found):
    return {name: value for name, value in vars(found).items() if value is not None}


def observations(intensity, sigma):
    found = dataset(ATOMS, [sweep(turned(ATOMS, 0.3, -0.5, 0.2), n=40, width=0.1)]).observations
    pick = {name: value[: len(HKL)] for name, value in columns(found).items()}
    assert len(pick["hkl"]) == len(HKL)
    hkl = torch.tensor(HKL)
    return replace(found, **{**pick, "hkl": hkl, "intensity": double(intensity), "sigma": double(sigma)})


def amplitudes(intensity, sigma, calculated):
    found = observed_amplitudes(observations(intensity, sigma), double(calculated), ATOMS)
    order = [next(i for i, h in enumerate(found.hkl.tolist()) if tuple(h) == HKL[g[0]]) for g in GROUPS]
    return replace(found, **{name: value[order] for name, value in columns(found).items()})


CALCULATED = [100.0, 300.0, 50.0, 20.0, 80.0, 10.0, 400.0, 5.0]


def test_equivalents_are_merged():
    found = amplitudes(CALCULATED, [1.0] * 8, CALCULATED)
    assert len(found.hkl) == len(GROUPS)
    assert [tuple(h) for h in found.hkl.tolist()] == [HKL[g[0]] for g in GROUPS]
    assert torch.equal(found.calculated, structure_factors(ATOMS, found.hkl))


@pytest.mark.parametrize("factor", [0.25, 1.0, 1.7])
def test_a_common_ratio_is_exact(factor):
    """Dynamical intensities of equivalents differ by factors; if all are off by one ratio, so is |F|^2."""
    found = amplitudes([factor * i for i in CALCULATED], [1.0] * 8, CALCULATED)
    torch.testing.assert_close(found.observed, factor**0.5 * found.calculated.abs())


def test_tiny_calculated_intensity_does_not_count():
    """One of three equivalents is calculated as almost nothing, and measured as 50."""
    calculated = [100.0, 300.0, 1e-9, *CALCULATED[3:]]
    found = amplitudes([100.0, 300.0, 50.0, *CALCULATED[3:]], [1.0] * 8, calculated)
    assert float(found.observed[0] / found.calculated[0].abs()) == pytest.approx(1.0, abs=1e-6)


def test_weak_calculated_intensity_of_a_strong_reflection_hardly_counts():
    """50 times too weak, yet well above its sigma."""
    calculated = [100.0, 300.0, 1.0, *CALCULATED[3:]]
    found = amplitudes([100.0, 300.0, 50.0, *CALCULATED[3:]], [0.2] * 8, calculated)
    assert float(found.observed[0] / found.calculated[0].abs()) == pytest.approx(1.0, abs=0.02)


def test_lone_tiny_calculated_intensity_is_cut_and_uncertain():
    found = amplitudes([*CALCULATED[:7], 50.0], [1.0] * 8, [*CALCULATED[:7], 1e-3])
    f, observed, sigma = (float(x[3]) for x in (found.calculated.abs(), found.observed, found.sigma))
    assert observed == pytest.approx(2.0 * f)
    assert sigma > 5.0 * f


def test_negative_intensities_count():
    measured = [-30.0, 300.0, 50.0, *CALCULATED[3:6], -5.0, 5.0]
    found = amplitudes(measured, [10.0] * 8, CALCULATED)
    assert 0.0 < float(found.observed[0]) < float(found.calculated[0].abs())
    assert float(found.observed[2]) == 0.0
    assert float(found.sigma[2]) > 0.0
    assert all(value.isfinite().all() for value in vars(found).values())


def test_shares_of_repeated_rows():
    """Two rows of one measurement with a share of a half each are one row."""
    rows = observations([50.0, 30.0, 30.0, *CALCULATED[3:]], [5.0] * 8)
    calculated = double([40.0, 35.0, 35.0, *CALCULATED[3:]])
    halves = replace(rows, share=double([1.0, 0.5, 0.5, *[1.0] * 5]))
    once = replace(rows, share=double([1.0, 1.0, 0.0, *[1.0] * 5]))
    first, second = (observed_amplitudes(o, calculated, ATOMS) for o in (halves, once))
    torch.testing.assert_close(first.observed, second.observed)
    torch.testing.assert_close(first.sigma, second.sigma)


def test_uncertainty_by_simulation():
    """Scatter of |F_obs| over noisy measurements that are close to their calculated intensities."""
    generator = torch.Generator().manual_seed(0)
    sigma = [60.0, 150.0, 30.0, 12.0, 40.0, 6.0, 200.0, 2.0]
    runs = []
    for _ in range(400):
        noise = torch.randn(8, generator=generator, dtype=torch.float64)
        measured = (double(CALCULATED) + 0.5 * double(sigma) * noise).tolist()
        runs.append(amplitudes(measured, [0.5 * s for s in sigma], CALCULATED))
    scatter = torch.stack([run.observed for run in runs]).std(0)
    stated = torch.stack([run.sigma for run in runs]).mean(0)
    # The stated one holds the error of the calculation (20 % of I) besides.
    assert (scatter < 1.1 * stated).all()
    assert (scatter > 0.5 * stated).all()
