r"""Weak beams by perturbation theory (Bethe, 1928), so that the structure matrix holds strong ones only.

A beam w far from the Ewald sphere has the amplitude psi_w = -sum_h A_wh psi_h / A_ww of what the strong
beams h send there, and sends back

    A_gh -> A_gh - sum_w A_gw A_wh / A_ww,     A_ww = 2 K S_w M_w^2.

1 / A_ww is averaged over the steps of a segment; like M_g it stays what it was when the beams were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dials_hybrid.bloch.geometry import excitation_errors
from dials_hybrid.bloch.matrix import DifferenceTable, symmetrisation


@dataclass(frozen=True)
class WeakBeams:
    """What W weak beams do to the N strong ones of a segment."""

    there: Tensor  # (W, N) positions of w - h in the difference table
    back: Tensor  # (N, W) positions of g - w
    factor: Tensor  # (N, W) M_g M_w, for either way
    inverse: Tensor  # (W,) mean of 1 / A_ww over the steps [A^2]

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
        m_weak = symmetrisation(r[len(r) // 2], beam, wave_number)
        a_ww = 2.0 * wave_number * excitation_errors(r, beam, wave_number) * m_weak**2
        return cls(
            there=table.of_pairs(weak, strong),
            back=table.of_pairs(strong, weak),
            factor=m[:, None] * m_weak,
            inverse=(1.0 / a_ww).mean(0),
        )

    def to(self, dtype: torch.dtype) -> WeakBeams:
        return WeakBeams(self.there, self.back, self.factor.to(dtype), self.inverse.to(dtype))

    def correction(self, u: Tensor) -> Tensor:
        """What is added to A (N, N) [1/A^2] for U_g (D,) of the difference table."""
        there, back = self._couplings(u)
        return -(back * self.inverse) @ there

    def correction_derivatives(self, u: Tensor, du: Tensor) -> Tensor:
        """Derivatives (P, N, N) of `correction` for dU_g (P, D)."""
        there, back = self._couplings(u)
        d_there, d_back = self._couplings(du)
        return -((d_back * self.inverse) @ there + (back * self.inverse) @ d_there)

    def _couplings(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """A_wh (..., W, N) and A_gw (..., N, W)."""
        return u[..., self.there] * self.factor.T, u[..., self.back] * self.factor
