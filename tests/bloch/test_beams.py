from __future__ import annotations

import pytest
import torch
from synthetic import BEAM, dataset, fourfold, quartz, sweep, triclinic, turned

from dials_hybrid.bloch import beams
from dials_hybrid.bloch.beams import cut_segments, reflections_within, without_lattice_absences
from dials_hybrid.bloch.geometry import excitation_errors

K = 39.87
G_MAX, SG_MAX = 1.1, 0.008


def as_set(hkl):
    return set(map(tuple, hkl.tolist()))


@pytest.mark.parametrize("crystal", [triclinic, quartz, fourfold])
def test_sphere_holds_what_a_large_box_holds(crystal):
    atoms = crystal()
    box = torch.cartesian_prod(*[torch.arange(-12, 13)] * 3)
    g = (box.to(torch.float64) @ turned(atoms, 0.2, 0.1, -0.4).T).norm(dim=1)
    expected = box[(g > 0) & (g < G_MAX)]
    found = reflections_within(atoms.cell, G_MAX)
    assert as_set(found) == as_set(expected)
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    "centring, allowed",
    [
        ([], lambda h: True),
        ([(0.5, 0.5, 0.0)], lambda h: (h[0] + h[1]) % 2 == 0),
        ([(0.5, 0.5, 0.5)], lambda h: sum(h) % 2 == 0),
        ([(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)], lambda h: h[0] % 2 == h[1] % 2 == h[2] % 2),
        ([(2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3)], lambda h: (h[1] + h[2] - h[0]) % 3 == 0),
    ],
    ids=["P", "C", "I", "F", "R"],
)
def test_lattice_absences_are_left_out_and_screw_absences_kept(centring, allowed):
    screw = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    rotations = torch.stack([torch.eye(3, dtype=torch.float64)] * (1 + len(centring)) + [screw])
    translations = torch.tensor([(0, 0, 0), *centring, (0, 0, 0.5)], dtype=torch.float64)
    hkl = torch.cartesian_prod(*[torch.arange(-4, 5)] * 3)
    found = without_lattice_absences(hkl, rotations, translations)
    assert as_set(found) == set(filter(allowed, as_set(hkl)))


@pytest.fixture(scope="module")
def cut():
    """Segments of 5 steps of two crystals with 11 steps each, and the |S_g| (K, G) behind them."""
    atoms = triclinic()
    bases = turned(atoms, 0.3, -0.5, 0.2), turned(atoms, 0.9, 0.4, -0.2)
    steps = dataset(atoms, [sweep(b, n=11, width=0.3, crystal=i) for i, b in enumerate(bases)]).steps
    hkl = reflections_within(atoms.cell, G_MAX)
    segments = cut_segments(
        steps.basis, BEAM.expand(22, 3), steps.crystal, hkl, wave_number=K, sg_max=SG_MAX, length=5
    )
    r = (steps.basis @ hkl.to(torch.float64).T).mT
    return segments, hkl, excitation_errors(r, BEAM, K).abs()


def test_segments_hold_every_step_once_and_never_two_crystals(cut):
    segments, _, _ = cut
    found = [(segment.first, segment.last, segment.crystal) for segment in segments]
    assert found == [(0, 5, 0), (5, 10, 0), (10, 11, 0), (11, 16, 1), (16, 21, 1), (21, 22, 1)]
    assert [len(segment) for segment in segments] == [5, 5, 1] * 2


def test_beams_are_all_that_come_near_the_ewald_sphere_at_any_step(cut):
    segments, hkl, s_g = cut
    for segment in segments:
        least = s_g[segment.first : segment.last].amin(0)
        assert segment.hkl[0].tolist() == [0, 0, 0]
        assert as_set(segment.hkl[1:]) == as_set(hkl[least < SG_MAX])
        assert 5 < len(segment.hkl) < len(hkl) / 2
    assert as_set(segments[0].hkl) != as_set(segments[1].hkl)


def test_beams_of_a_long_sweep_and_of_a_second_beam():
    """Candidates are drawn for many segments at once, also where two crystals meet among them."""
    atoms = triclinic()
    bases = turned(atoms, 0.3, -0.5, 0.2), turned(atoms, 0.31, -0.49, 0.2)
    steps = dataset(atoms, [sweep(b, n=41, width=0.4, crystal=i) for i, b in enumerate(bases)]).steps
    hkl = reflections_within(atoms.cell, G_MAX)
    beam = BEAM.expand(82, 3).clone()
    beam[41:] = torch.nn.functional.normalize(BEAM + 0.02 * torch.roll(BEAM, 1), dim=0)
    options = {"wave_number": K, "sg_max": SG_MAX, "weak_sg_max": 3.0 * SG_MAX, "length": 2}
    segments = cut_segments(steps.basis, beam, steps.crystal, hkl, **options)
    assert len(segments) == 42
    s_g = excitation_errors((steps.basis @ hkl.to(torch.float64).T).mT, beam[:, None], K).abs()
    for segment in segments:
        least = s_g[segment.first : segment.last].amin(0)
        assert as_set(segment.hkl[1:]) == as_set(hkl[least < SG_MAX])
        assert as_set(segment.weak) == as_set(hkl[(least >= SG_MAX) & (least < 3.0 * SG_MAX)])


def test_beams_do_not_depend_on_how_many_are_looked_at_at_once(cut, monkeypatch):
    monkeypatch.setattr(beams, "_ELEMENTS", 1)
    atoms = triclinic()
    bases = turned(atoms, 0.3, -0.5, 0.2), turned(atoms, 0.9, 0.4, -0.2)
    steps = dataset(atoms, [sweep(b, n=11, width=0.3, crystal=i) for i, b in enumerate(bases)]).steps
    options = {"wave_number": K, "sg_max": SG_MAX, "length": 5}
    found = cut_segments(steps.basis, BEAM.expand(22, 3), steps.crystal, cut[1], **options)
    assert [segment.hkl.tolist() for segment in found] == [segment.hkl.tolist() for segment in cut[0]]


def test_an_orientation_that_is_not_finite_leaves_the_incident_beam_alone():
    basis, crystal = torch.full((3, 3, 3), torch.nan, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    hkl = torch.tensor([[1, 0, 0], [0, 1, 0]])
    (segment,) = cut_segments(basis, BEAM.expand(3, 3), crystal, hkl, wave_number=K, sg_max=SG_MAX, length=3)
    assert segment.hkl.tolist() == [[0, 0, 0]] and not len(segment.weak)


def test_without_candidates_there_is_the_incident_beam_alone():
    atoms = triclinic()
    steps = dataset(atoms, [sweep(turned(atoms, 0.3, -0.5, 0.2), n=3, width=0.3)]).steps
    none = torch.zeros(0, 3, dtype=torch.long)
    options = {"wave_number": K, "sg_max": SG_MAX, "length": 2}
    segments = cut_segments(steps.basis, BEAM.expand(3, 3), steps.crystal, none, **options)
    assert [segment.hkl.tolist() for segment in segments] == [[[0, 0, 0]]] * 2


def test_large_sets_of_beams_are_filled_up_to_a_multiple_of_four_with_the_next_ones():
    atoms = triclinic()
    steps = dataset(atoms, [sweep(turned(atoms, 0.3, -0.5, 0.2), n=20, width=0.4)]).steps
    hkl = reflections_within(atoms.cell, 4.0 * G_MAX)
    options = {"wave_number": K, "sg_max": SG_MAX, "weak_sg_max": 3.0 * SG_MAX, "length": 2}
    segments = cut_segments(steps.basis, BEAM.expand(20, 3), steps.crystal, hkl, **options)
    s_g = excitation_errors((steps.basis @ hkl.to(torch.float64).T).mT, BEAM, K).abs()
    filled = 0
    for segment in segments:
        least = s_g[segment.first : segment.last].amin(0)
        near = int((least < SG_MAX).sum())
        assert near >= 99 and len(segment.hkl) % 4 == 0
        extra = len(segment.hkl) - 1 - near
        filled += extra
        assert 0 <= extra < 4
        assert as_set(segment.hkl[1:]) == as_set(hkl[least.argsort()[: near + extra]])
        assert not as_set(segment.weak) & as_set(segment.hkl)
        assert len(segment.weak) + len(segment.hkl) - 1 == int((least < 3.0 * SG_MAX).sum())
    assert filled > 5
