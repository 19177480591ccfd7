"""What is refined, as PyTorch modules with physical names.

`crystal` (the atoms), `orientation` (tilts and mosaic spread), `thickness` (a distribution, from
one value to a neural network), `scale`; `hybrid` joins them into calculated intensities and their
Jacobian, and `simulation` does the sums over rocking steps.
"""
