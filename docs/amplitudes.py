"""Waves behind a crystal, without any file: the intensities of one orientation add up to one."""

from __future__ import annotations

import torch

from dials_hybrid.bloch.waves import amplitudes

torch.manual_seed(0)
n_beams, n_steps = 30, 10
u = 0.01 * torch.randn(n_beams, n_beams, dtype=torch.complex128)  # U_g-h [1/A^2]
coupling = u + u.mH
coupling.fill_diagonal_(0.0)
diagonal = 0.4 * torch.randn(n_steps, n_beams, dtype=torch.float64)  # 2 K S_g [1/A^2]
diagonal[:, 0] = 0.0  # the incident beam
thickness = torch.tensor([100.0, 500.0, 1000.0], dtype=torch.float64)  # [A]

psi = amplitudes(coupling, diagonal, thickness, wave_number=39.9)
intensity = psi.abs() ** 2  # (steps, thicknesses, beams)
print("shape", tuple(intensity.shape))
print(f"sums between {intensity.sum(-1).min():.9f} and {intensity.sum(-1).max():.9f}")
