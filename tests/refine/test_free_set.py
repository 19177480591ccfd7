"""The free set against cctbx and against symmetry written out."""

from __future__ import annotations

import pytest
import torch

from dials_hybrid.refine.free_set import choose_free, unique_reflections

SPACE_GROUPS = ["P 1", "P 1 21 1", "C 2 2 21", "P 32 2 1", "R 3 :H", "I 41 m d", "P 63", "F d -3 m"]
BOX = torch.cartesian_prod(*[torch.arange(-5, 6)] * 3)
BOX = BOX[(BOX != 0).any(1)]
# P3221 and P21, without any library
TRIGONAL = [[[0, -1, 0], [1, -1, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0], [0, 0, -1]]]
MONOCLINIC = [[[-1, 0, 0], [0, 1, 0], [0, 0, -1]]]


def rotations_of(symbol):
    sgtbx = pytest.importorskip("cctbx.sgtbx")
    group = sgtbx.space_group_info(symbol).group()
    return torch.tensor([op.r().as_double() for op in group], dtype=torch.float64).reshape(-1, 3, 3)


def group_of(generators):
    """All products of the generators (S, 3, 3)."""
    found = {tuple(torch.eye(3, dtype=torch.long).flatten().tolist())}
    while True:
        matrices = [torch.tensor(m).reshape(3, 3) for m in found]
        products = {
            tuple((a @ torch.tensor(b)).flatten().tolist()) for a in matrices for b in generators
        } | found
        if products == found:
            return torch.stack(matrices).double()
        found = products


@pytest.mark.parametrize("symbol", SPACE_GROUPS)
def test_as_many_unique_reflections_as_cctbx_counts(symbol):
    crystal = pytest.importorskip("cctbx.crystal")
    miller = pytest.importorskip("cctbx.miller")
    flex = pytest.importorskip("cctbx.array_family.flex")
    sgtbx = pytest.importorskip("cctbx.sgtbx")
    cell = sgtbx.space_group_info(symbol).any_compatible_unit_cell(volume=500)
    symmetry = crystal.symmetry(unit_cell=cell, space_group_symbol=symbol)
    indices = flex.miller_index(BOX.tolist())
    asu = miller.set(symmetry, indices, anomalous_flag=False).map_to_asu().indices()
    group = unique_reflections(BOX, rotations_of(symbol))
    pairs = set(zip(asu, group.tolist(), strict=True))
    assert len(pairs) == len(set(asu)) == int(group.max()) + 1


@pytest.mark.parametrize("generators, order", [(TRIGONAL, 6), (MONOCLINIC, 2)])
def test_equivalents_and_friedel_mates_stay_together(generators, order):
    rotations = group_of(generators)
    assert len(rotations) == order
    small = BOX[(BOX.abs() <= 3).all(1)]
    for mates in [*(small.double() @ r for r in rotations), -small.double()]:
        both = torch.cat([small, mates.long()])
        group = unique_reflections(both, rotations)
        assert torch.equal(group[: len(small)], group[len(small) :])
        free = choose_free(both, rotations, 0.3, seed=1)
        assert torch.equal(free[: len(small)], free[len(small) :])


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 1.0])
def test_fraction_of_the_unique_reflections(fraction):
    rotations = group_of(TRIGONAL)
    group, free = unique_reflections(BOX, rotations), choose_free(BOX, rotations, fraction, seed=3)
    n = int(group.max()) + 1
    assert n > 100
    assert len(set(group[free].tolist())) == round(fraction * n)


def test_seed_decides():
    rotations = group_of(MONOCLINIC)
    first, again, other = (choose_free(BOX, rotations, 0.1, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_order_and_repetition_of_rows_do_not_matter():
    rotations = group_of(TRIGONAL)
    free = choose_free(BOX, rotations, 0.1, seed=0)
    rows = torch.randint(len(BOX), (4 * len(BOX),), generator=torch.Generator().manual_seed(0))
    rows = torch.cat([rows, torch.arange(len(BOX))])
    assert torch.equal(choose_free(BOX[rows], rotations, 0.1, seed=0), free[rows])
