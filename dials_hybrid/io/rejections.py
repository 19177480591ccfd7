"""Every row of a table is used or counted with the reason why not."""

from __future__ import annotations

import numpy as np


class Rejections:
    """Counts rows by the first reason that rejects them."""

    def __init__(self, n_rows: int):
        self.kept = np.ones(n_rows, dtype=bool)
        self.counts: dict[str, int] = {}

    def reject(self, mask: np.ndarray, reason: str) -> None:
        """Reject the rows still kept where `mask` (n_rows,) is true."""
        mask = mask & self.kept
        if mask.any():
            self.counts[reason] = self.counts.get(reason, 0) + int(mask.sum())
            self.kept &= ~mask

    def __str__(self) -> str:
        return ", ".join(f"{n} {reason}" for reason, n in self.counts.items())
