"""Every row is kept or counted once, under the first reason."""

from __future__ import annotations

import numpy as np

from dials_hybrid.io.rejections import Rejections


def test_a_row_is_counted_once_under_its_first_reason():
    rows = Rejections(6)
    rows.reject(np.array([1, 1, 0, 0, 0, 0], dtype=bool), "too weak")
    rows.reject(np.array([0, 1, 1, 0, 0, 0], dtype=bool), "overloaded")
    rows.reject(np.array([0, 0, 0, 0, 0, 1], dtype=bool), "too weak")
    assert rows.counts == {"too weak": 3, "overloaded": 1}
    assert rows.kept.tolist() == [False, False, False, True, True, False]
    assert sum(rows.counts.values()) + rows.kept.sum() == 6


def test_a_reason_without_rows_is_not_listed():
    rows = Rejections(2)
    rows.reject(np.zeros(2, dtype=bool), "never")
    assert rows.counts == {} and str(rows) == ""
    rows.reject(np.array([True, False]), "first")
    rows.reject(np.array([True, False]), "again")  # it is out already
    assert str(rows) == "1 first"
