"""Every parameter of dials.hybrid_simulate, with its help."""

from __future__ import annotations

import libtbx.phil

phil_scope = libtbx.phil.parse(
    """
thickness {
  model = flat *normal wedge
    .type = choice
    .help = "Distribution of the crystal's thickness: one value, a normal distribution (cut at zero and"
            "four widths above its peak), or all values from zero to twice the mean, equally often."
  mean = 600
    .type = float(value_min=1, value_max=1e5)
    .help = "Thickness; mean of a wedge; peak of a normal distribution [Angstrom]."
  width = 150
    .type = float(value_min=1, value_max=1e5)
    .help = "Width (sigma) of a normal distribution [Angstrom]."
  change = *none linear sinusoidal
    .type = choice
    .help = "How all thicknesses change, together, over the scan."
  amplitude = 0.2
    .type = float(value_min=0, value_max=0.9)
    .help = "Largest part by which they change: 0.2 is from 80 to 120 % of the values above."
  periods = 1
    .type = float(value_min=0.01, value_max=100)
    .help = "Periods of a sinusoidal change in the scan."
}
misorientation {
  constant = 0
    .type = float(value_min=-2, value_max=2)
    .help = "Tilt of the crystal from the indexed orientation, about the axis across beam and rotation"
            "axis [degree]."
  smooth = 0
    .type = float(value_min=0, value_max=1)
    .help = "Root mean square of a smooth random tilt beside the constant one [degree]."
}
mosaic_spread = 0.04
  .type = float(value_min=0, value_max=1)
  .help = "Standard deviation of the tilts within the crystal [degree]. 0: none."
mosaic_directions = *across both
  .type = choice
  .help = "These are tilts across the rotation axis, or across and about it."
  .expert_level = 1
counts {
  mean = 3000
    .type = float(value_min=1e-3, value_max=1e12)
    .help = "Mean counts of a reflection."
  background = 1000
    .type = float(value_min=0, value_max=1e12)
    .help = "Counts of background under a reflection, in a degree of scan."
  gain = 1
    .type = float(value_min=1e-3, value_max=1e6)
    .help = "Counts an electron."
  noise = True
    .type = bool
    .help = "Draw counts at random. False: the expected intensities, with the standard uncertainties"
            "that counting would give them."
}
d_min = None
  .type = float(value_min=0.1)
  .help = "High-resolution limit [Angstrom]. None: of the reflections given, or of the detector's"
          "inscribed circle."
rocking_width = Auto
  .type = float(value_min=0.001, value_max=45)
  .help = "Half of the range of scan angle over which a reflection with |zeta| = 1 is integrated"
          "[degree]. Auto: delta_m of the profile model of the experiments."
min_zeta = 0.05
  .type = float(value_min=0.01, value_max=1)
  .help = "Leave out reflections close to the rotation axis, with |zeta| below this."
  .expert_level = 1
ions = *refuse neutral
  .type = choice
  .help = "Charged atoms (O2-, Cs1+) have no electron scattering factors here: stop, or take the"
          "neutral atom instead."
  .expert_level = 1
numerics {
  g_max = Auto
    .type = float(value_min=0.1)
    .help = "Largest |g| of the beams that take part [1/Angstrom]. Auto: 1.2 times the largest of the"
            "reflections, at least 2.2."
    .expert_level = 1
  sg_max = 0.03
    .type = float(value_min=0.0001, value_max=1)
    .help = "Largest excitation error of the beams that take part [1/Angstrom]."
    .expert_level = 1
  weak_sg_max = 0.08
    .type = float(value_min=0.0001, value_max=1)
    .help = "Beams with excitation errors between sg_max and this take part by perturbation (Bethe"
            "potentials) [1/Angstrom]. None: there are none."
    .expert_level = 1
  rocking_step = Auto
    .type = float(value_min=0.0001)
    .help = "Scan angle between two solutions of the wave equation [degree]. Auto: from thickness and"
            "g_max."
    .expert_level = 1
  mosaic_points = 15
    .type = int(value_min=1, value_max=100)
    .help = "Tilts that stand for the mosaic spread, which take turns from step to step."
    .expert_level = 1
  nodes = Auto
    .type = int(value_min=4)
    .help = "Thicknesses at which intensities are calculated. Auto: from the strongest reflection."
    .expert_level = 1
  check = True
    .type = bool
    .help = "Say what coarser numerics would change, on a twentieth of the reflections."
    .expert_level = 1
}
virtual_frames {
  n_merged = 2
    .type = int(value_min=1)
    .help = "Images merged into one virtual frame, for output.pets."
  step = 1
    .type = int(value_min=1)
    .help = "Images from one virtual frame to the next."
}
nproc = Auto
  .type = int(value_min=1)
  .help = "Processes. Auto: one for each processor."
seed = 0
  .type = int(value_min=0)
  .help = "Of the noise and of the smooth misorientation."
output {
  experiments = simulated.expt
    .type = path
    .help = "The experiments, as indexed. None: do not write them."
  reflections = simulated.refl
    .type = path
    .help = "The simulated reflections. None: do not write them."
  json = simulated.json
    .type = path
    .help = "The truth, and how it was calculated. None: do not write it."
  pets = None
    .type = path
    .help = "The same crystal in virtual frames, as .cif_pets. None: do not write it."
  log = dials.hybrid_simulate.log
    .type = path
    .help = "The log. None: do not write it."
}
"""
)
