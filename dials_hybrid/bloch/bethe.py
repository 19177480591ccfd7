r"""Weak beams by perturbation theory (Bethe, 1928), so that the structure matrix holds strong ones only.

A beam w far from the Ewald sphere has the amplitude psi_w = -sum_h A_wh psi_h / A_ww of what the strong
beams h send there, and sends back

    A_gh -> A_gh - sum_w A_gw A_wh / A_ww = A_gh - M_g M_h sum_w U_{g-w} U_{w-h} / (2 K S_w).

1 / S_w is averaged over the steps of a segment; like M_g it stays what it was when the beams were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.bloch.geometry import excitation_errors_of_lattice
from dials_hybrid.bloch.matrix import DifferenceTable, Pairs, looked_up
from dials_hybrid.bloch.padding import stacked


@dataclass(frozen=True)
class WeakBeams:
    """What W weak beams do to the N strong ones of a segment."""

    there: Pairs  # (..., W, N) of w - h
    back: Pairs  # (..., W, N) of g - w
    m: Tensor  # (..., N) M_g of the strong beams
    inverse: Tensor  # (..., W) mean of 1 / (2 K S_w) over the steps [A^2]

    @classmethod
    def of_segment(
        cls,
        strong: Tensor,
        weak: Tensor,
        table: DifferenceTable,
        basis: Tensor,
        beam: Tensor,
        m: Tensor,
        wave_number: float,
    ) -> WeakBeams:
        """For Miller indices (N, 3) and (W, 3) and steps with the reciprocal basis (K, 3, 3) [1/A].

        Args:
            beam: unit vector (3,).
            m: M_g of the strong beams (N,).
            wave_number: K [1/A].
        """
        s_w = excitation_errors_of_lattice(basis, beam, weak.to(basis.dtype), wave_number)
        there = table.pairs(weak, strong)
        return cls(
            there=there,
            back=there.opposite,
            m=m,
            inverse=(0.5 / (wave_number * s_w)).mean(0),
        )

    @classmethod
    def none(cls, pairs: Pairs, m: Tensor) -> WeakBeams:
        """For strong beams with these pairs (N, N) and M_g (N,)."""
        empty = replace(pairs, rows=pairs.rows[:0])
        return cls(there=empty, back=empty, m=m, inverse=m[:0])

    @classmethod
    def stacked(cls, parts: Sequence[WeakBeams]) -> WeakBeams:
        """Those of several segments, filled up with beams that do nothing."""
        return cls(
            there=Pairs.stacked([part.there for part in parts]),
            back=Pairs.stacked([part.back for part in parts]),
            m=stacked([part.m for part in parts]),
            inverse=stacked([part.inverse for part in parts]),
        )

    def to(self, dtype: torch.dtype) -> WeakBeams:
        return replace(self, m=self.m.to(dtype), inverse=self.inverse.to(dtype))

    def correction(self, u: Tensor) -> Tensor:
        """What is added to A (..., N, N) [1/A^2] for U_g (D,) of the difference table."""
        return -(self._back(u).mT @ looked_up(u, self.there.positions)) * self._m_m

    def correction_derivatives(self, u: Tensor, du: Tensor, hermitian: bool) -> Tensor:
        """Derivatives (..., P, N, N) of `correction` for dU_g (P, D).

        Some weak beams at a time, so that no array is larger than the result. With U_{-g} = conj(U_g), that
        is `hermitian`, both factors of U U have derivatives that are alike.
        """
        total = self._by_one_factor(self._back(u), self.there.positions, du)
        if hermitian:
            total = total + total.transpose(-3, -2).conj()
        else:
            total = total + self._by_one_factor(self._there(u), self.back.positions, du).transpose(-3, -2)
        return -(total * self._m_m[..., None]).movedim(-1, -3)

    def contracted(self, u: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (..., m, W, N) of dU at `there` and at `back` in the sum of weights_mgh and `correction`.

        The weights are (..., m, N, N), M_g M_h included.
        """
        there, back = (x.to(weights.dtype).unsqueeze(-3) for x in (self._there(u), self._back(u)))
        return -(back @ weights), -(there @ weights.mT)

    def _by_one_factor(self, fixed: Tensor, pairs: Tensor, du: Tensor) -> Tensor:
        """sum_w fixed_wi dU_wj (..., N, N, P), where fixed and `pairs`, which dU it is, are (..., W, N)."""
        table = du.mT.contiguous()  # parameters last: they are looked up together
        n, p = self.m.shape[-1], table.shape[1]
        fixed, pairs = fixed.view(-1, *fixed.shape[-2:]), pairs.view(-1, *pairs.shape[-2:])
        total = table.new_zeros(len(fixed), n, n * p)
        for weak in (slice(i, i + n) for i in range(0, fixed.shape[1], n)):
            of_weak = table.index_select(0, pairs[:, weak].flatten())
            total.baddbmm_(fixed[:, weak].mT, of_weak.view(len(fixed), -1, n * p))
        return total.view(*self.m.shape, n, p)

    @property
    def _m_m(self) -> Tensor:
        """M_g M_h (..., N, N)."""
        return self.m[..., :, None] * self.m[..., None, :]

    def _there(self, u: Tensor) -> Tensor:
        """U_{w-h} / (2 K S_w), shape (..., W, N)."""
        return looked_up(u, self.there.positions) * self.inverse[..., None]

    def _back(self, u: Tensor) -> Tensor:
        """U_{g-w} / (2 K S_w), shape (..., W, N)."""
        return looked_up(u, self.back.positions) * self.inverse[..., None]
