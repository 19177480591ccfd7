from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from simulated import quartz_crystal, triclinic_crystal
from synthetic import WAVELENGTH

from dials_hybrid.bloch.beams import reflections_within
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.refine.absolute_structure import compare, is_chiral, other_hand, vote
from dials_hybrid.refine.state import Inputs


@pytest.fixture(params=[quartz_crystal, triclinic_crystal])
def inputs(request):
    known = request.param()
    return Inputs(None, known.truth, known.jacobian, known.names, known.origin_shifts)


def test_the_other_hand_has_the_complex_conjugate_potential_wherever_the_parameters_are(inputs):
    hkl = reflections_within(inputs.atoms.cell, 0.9)
    potentials = []
    for hand in (inputs, other_hand(inputs)):
        crystal = Crystal(hand.atoms, hand.jacobian, hand.names)
        crystal.shifts.data[:] = torch.linspace(-0.02, 0.03, len(hand.names)).double()
        potentials.append(crystal.potential(hkl, WAVELENGTH, derivatives=True))
    first, second = potentials
    torch.testing.assert_close(second.u, first.u.conj().resolve_conj(), rtol=0, atol=1e-15)
    expected = first.derivatives.conj().resolve_conj()
    torch.testing.assert_close(second.derivatives, expected, rtol=0, atol=1e-14)
    assert first.u.imag.abs().max() > 1e-3


def test_the_other_hand_of_the_other_hand_is_the_first(inputs):
    again = other_hand(other_hand(inputs))
    assert torch.equal(again.atoms.parameters, inputs.atoms.parameters)
    assert torch.equal(again.atoms.translations, inputs.atoms.translations)
    assert torch.equal(again.jacobian, inputs.jacobian)


def test_only_groups_of_proper_rotations_have_hands(inputs):
    atoms = inputs.atoms
    assert is_chiral(atoms)
    both = torch.cat([atoms.rotations, -atoms.rotations])
    assert not is_chiral(replace(atoms, rotations=both))


@pytest.fixture
def observations():
    """Four reflections of sigma 1, two of them the same measurement listed twice."""
    scan = triclinic_crystal().scan.dataset(0.5, 1).observations
    few = replace(
        scan,
        intensity=torch.tensor([10.0, 20.0, 30.0, 30.0], dtype=torch.float64),
        sigma=torch.ones(4, dtype=torch.float64),
        share=torch.tensor([1.0, 1.0, 0.5, 0.5], dtype=torch.float64),
    )
    return few


def test_votes_by_hand(observations):
    first = observations.intensity + torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    second = observations.intensity + torch.tensor([2.0, 0.5, -3.0, -3.0], dtype=torch.float64)
    votes = vote(observations, first, second)
    assert (votes.n, votes.for_first) == (3.0, 2.0)
    assert votes.z_score == pytest.approx((2 * 2 - 3) / math.sqrt(3))
    noise = [1 - math.erf(d / 2) for d in (2.0, 0.5, 3.0)]
    assert votes.z_score_noise_adjusted == pytest.approx(1 / math.sqrt(3 - sum(noise)))
    assert vote(observations, second, first).z_score == pytest.approx(-votes.z_score)
    assert votes.probability == pytest.approx(stats.norm.cdf(votes.z_score_noise_adjusted))


def test_equal_hands_are_a_draw(observations):
    votes = vote(observations, observations.intensity, observations.intensity)
    assert votes.z_score == votes.z_score_noise_adjusted == 0.0
    assert votes.probability == 0.5


def test_observed_reflections_are_counted_apart(observations):
    """The second is weak: without it the vote is unanimous."""
    weak = replace(observations, sigma=torch.tensor([1.0, 9.0, 1.0, 1.0], dtype=torch.float64))
    first = weak.intensity + 0.5
    second = weak.intensity + torch.tensor([2.0, 0.1, 3.0, 3.0], dtype=torch.float64)
    found = compare(weak, first, second).as_dict()
    assert (found["n_reflections"], found["n_observed"]) == (3.0, 2.0)
    assert found["z_score"] == pytest.approx(1 / math.sqrt(3))
    assert found["z_score_observed"] == pytest.approx(2 / math.sqrt(2))
    noise = sum(1 - math.erf(d / 2) for d in (1.5, 2.5))
    assert found["z_score_observed_noise_adjusted"] == pytest.approx(2 / math.sqrt(2 - noise))
    assert found["hand"] == "as given"
    assert not found["determined"]  # z' is below 3
    other = compare(weak, second, first).as_dict()
    assert other["hand"] == "other than given"
    assert other["probability"] == pytest.approx(found["probability"])
    assert other["z_score_observed"] == pytest.approx(found["z_score_observed"])


def test_a_large_majority_decides(observations):
    many = {name: torch.cat([getattr(observations, name)] * 9) for name in ("intensity", "sigma", "share")}
    many = replace(observations, **many)
    found = compare(many, many.intensity, many.intensity + 5.0).as_dict()
    assert found["n_reflections"] == 27.0 and found["z_score"] == pytest.approx(math.sqrt(27.0))
    assert found["determined"] and found["probability"] > 0.999
    other = compare(many, many.intensity + 5.0, many.intensity).as_dict()
    assert other["determined"] and other["hand"] == "other than given"


def test_no_observed_reflection(observations):
    weak = replace(observations, sigma=observations.intensity)
    found = compare(weak, weak.intensity, 2.0 * weak.intensity).as_dict()
    assert (found["n_observed"], found["z_score_observed"]) == (0.0, 0.0)
