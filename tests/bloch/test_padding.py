from __future__ import annotations

import torch

from dials_hybrid.bloch.padding import stacked, stacked_with_last


def test_each_part_stands_in_its_corner():
    parts = [torch.full((2, 3), 1.0), torch.full((1, 4), 2.0), torch.full((0, 2), 3.0)]
    found = stacked(parts, fill=-7.0)
    expected = [[[1, 1, 1, -7], [1, 1, 1, -7]], [[2, 2, 2, 2], [-7] * 4], [[-7] * 4, [-7] * 4]]
    assert torch.equal(found, torch.tensor(expected, dtype=torch.float32))


def test_the_last_number_is_repeated():
    found = stacked_with_last([torch.tensor([1, 2, 3]), torch.tensor([4])])
    assert torch.equal(found, torch.tensor([[1, 2, 3], [4, 4, 4]]))
