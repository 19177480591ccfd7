"""The physics: dynamical diffraction of fast electrons by Bloch waves, in PyTorch.

Read in the order of the theory: `electron` (wavelength, gamma), `scattering` (F_g, U_g),
`geometry` (S_g), `beams` (which g), `matrix` (A), `eigen` (psi(t) and its derivatives),
`propagate` (intensities summed over rocking steps). Units: Angstrom and 1/Angstrom.
"""
