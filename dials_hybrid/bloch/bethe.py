r"""Weak beams by perturbation theory (Bethe, 1928), so that the structure matrix holds strong ones only.

A beam w far from the Ewald sphere has the amplitude psi_w = -sum_h A_wh psi_h / A_ww of what the strong
beams h send there, and sends back

    A_gh -> A_gh - sum_w A_gw A_wh / A_ww = A_gh - M_g M_h sum_w U_{g-w} U_{w-h} / (2 K S_w).

1 / S_w is averaged over the steps of a segment; like M_g it stays what it was when the beams were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.bloch.matrix import DifferenceTable, Pairs, looked_up


@dataclass(frozen=True)
class WeakBeams:
    """What W weak beams do to the N strong ones of a segment."""

    there: Pairs  # (W, N) of w - h
    back: Pairs  # (W, N) of g - w
    m: Tensor  # (N,) M_g of the strong beams
    inverse: Tensor  # (W,) mean of 1 / (2 K S_w) over the steps [A^2]

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
        r = torch.einsum("kij,wj->kwi", basis, weak.to(basis.dtype))
        s_w = excitation_errors(r, beam, wave_number)
        return cls(
            there=table.pairs(weak, strong),
            back=table.pairs(weak, strong, -1),
            m=m,
            inverse=(0.5 / (wave_number * s_w)).mean(0),
        )

    def to(self, dtype: torch.dtype) -> WeakBeams:
        return replace(self, m=self.m.to(dtype), inverse=self.inverse.to(dtype))

    def correction(self, u: Tensor) -> Tensor:
        """What is added to A (N, N) [1/A^2] for U_g (D,) of the difference table."""
        return -(self._back(u).mT @ looked_up(u, self.there.positions)) * torch.outer(self.m, self.m)

    def correction_derivatives(self, u: Tensor, du: Tensor, hermitian: bool) -> Tensor:
        """Derivatives (P, N, N) of `correction` for dU_g (P, D).

        Some weak beams at a time, so that no array is larger than the result. With U_{-g} = conj(U_g), that
        is `hermitian`, both factors of U U have derivatives that are alike.
        """
        total = self._by_one_factor(self._back(u), self.there.positions, du)
        if hermitian:
            total = total + total.transpose(0, 1).conj()
        else:
            there = looked_up(u, self.there.positions) * self.inverse[:, None]
            total = total + self._by_one_factor(there, self.back.positions, du).transpose(0, 1)
        return -(total * torch.outer(self.m, self.m)[..., None]).permute(2, 0, 1)

    def contracted(self, u: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (m, W, N) of dU at `there` and at `back` in the sum of weights_mgh and `correction`.

        The weights are (m, N, N), M_g M_h included.
        """
        there = -(self._back(u).to(weights.dtype) @ weights)
        back = -((looked_up(u, self.there.positions) * self.inverse[:, None]).to(weights.dtype) @ weights.mT)
        return there, back

    def _by_one_factor(self, fixed: Tensor, pairs: Tensor, du: Tensor) -> Tensor:
        """sum_w fixed_wi dU_wj (N, N, P), where fixed is (W, N) and `pairs` (W, N) tells which dU."""
        n, table = len(self.m), du.mT.contiguous()  # parameters last: they are looked up together
        total = table.new_zeros(n, n * table.shape[1])
        for weak in (slice(i, i + n) for i in range(0, len(fixed), n)):
            of_weak = table.index_select(0, pairs[weak].flatten())
            total.addmm_(fixed[weak].mT, of_weak.view(-1, total.shape[1]))
        return total.view(n, n, -1)

    def _back(self, u: Tensor) -> Tensor:
        """U_{g-w} / (2 K S_w), shape (W, N)."""
        return looked_up(u, self.back.positions) * self.inverse[:, None]
