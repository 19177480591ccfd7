"""Every parameter of the programs, with its help.

A parameter may be None or Auto where that is its default or its help says what it means.
"""

from __future__ import annotations

from functools import reduce
from operator import attrgetter

import libtbx.phil
from libtbx import Auto

phil_scope = libtbx.phil.parse(
    """
preset = *none jana
  .type = choice
  .help = "Other defaults, which all other parameters still override: the conventions of JANA2020, to"
          "continue a refinement made there."
structure {
  adp = *auto anisotropic isotropic as_is
    .type = choice
    .help = "Displacement parameters of the atoms other than hydrogen. Auto: as they are in a SHELX file,"
            "else anisotropic."
  hydrogens = *auto fixed riding refined
    .type = choice
    .help = "Hydrogen atoms stay where they are, ride on their pivots at the distances of their nuclei, or"
            "are refined with isotropic displacements. Auto: as a SHELX file says, else riding; what has no"
            "clear pivot is fixed."
  fix = None
    .type = str
    .multiple = True
    .help = "Atoms, or some of their parameters, to hold: name H1 or element H; xyz: name Si1; u,occ: all and"
            "not element C. Names may contain * and ?."
  refine = None
    .type = str
    .multiple = True
    .help = "Atoms, or some of their parameters (xyz, u, occ), to refine although they would be fixed, tied"
            "or riding: occ: name O1*."
    .expert_level = 1
  refine_occupancies = False
    .type = bool
    .help = "Refine the occupancy of every refined atom."
    .expert_level = 1
  overall_displacements = False
    .type = bool
    .help = "Of several crystals, give each but the first an overall isotropic displacement that adds to"
            "those of the atoms: for a series of growing dose."
    .expert_level = 1
  form_factors = *peng lobato
    .type = choice
    .help = "Of neutral atoms: five Gaussians by Peng et al. (1996), or those of Lobato & Van Dyck (2014),"
            "which hold to higher angles."
    .expert_level = 1
  ions = *refuse neutral ionic
    .type = choice
    .help = "Charged atoms (O2-, Cs1+): stop, take the neutral atoms instead, or the form factors of ions"
            "by Peng (1998). Those need a neutral cell."
    .expert_level = 1
}
data {
  intensity = *profile sum images
    .type = choice
    .help = "Profile-fitted intensities (summed ones where a reflection has no fitted one), summed ones"
            "throughout, or those of each image, from the rocking curves that dials.integrate keeps with"
            "frame_slice_shoeboxes=True."
  flip_images = False
    .type = bool
    .help = "The images are mirrored, as by the software of some detectors, and with them the hand of the"
            "crystal: take every reflection h k l for the -h -k -l of the crystal."
    .expert_level = 1
  d_min = None
    .type = float(value_min=0)
    .help = "High-resolution limit [Angstrom]."
  d_max = None
    .type = float(value_min=0)
    .help = "Low-resolution limit [Angstrom]."
  min_partiality = 0.99
    .type = float(value_min=0, value_max=1)
    .help = "Leave out reflections with a smaller part of their rocking curve inside the scan."
    .expert_level = 1
  min_zeta = 0.05
    .type = float(value_min=0, value_max=1)
    .help = "Leave out reflections close to the rotation axis, with |zeta| below this."
    .expert_level = 1
  rocking_width = Auto
    .type = float(value_min=0.001)
    .help = "Half of the range of scan angle over which a reflection with |zeta| = 1 is integrated"
            "[degree]. Auto: delta_m of the profile model; without one, from the boxes over which the"
            "reflections were integrated."
    .expert_level = 1
  rsg = 0.66
    .type = float(value_min=0.01, value_max=1)
    .help = "Virtual frames: use a reflection only if |S_g| in the middle of the frame is below this part"
            "of D_g, the largest |S_g| with which it still crosses the Ewald sphere inside the frame."
  dsg = 0.0015
    .type = float(value_min=0)
    .help = "Virtual frames: use a reflection only if D_g - |S_g| is above this [1/Angstrom]."
  frame_window = *auto frame curve
    .type = choice
    .help = "Virtual frames: sum calculated intensities over the rotation of the frame, or over whole rocking"
            "curves, also where they end beyond it; overlapping frames are then calculated as one rotation."
            "Auto: as a whole where neighbouring frames list the same intensity of a reflection."
    .expert_level = 1
  frames = None
    .type = strings
    .help = "Virtual frames to use, as numbers and ranges: 1-20,25. None: all."
    .expert_level = 1
  free_fraction = 0.05
    .type = float(value_min=0, value_max=0.5)
    .help = "Part of the unique reflections that is held out of every fit, for R1_free."
}
beams {
  g_max = Auto
    .type = float(value_min=0.1)
    .help = "Largest |g| of the beams that take part [1/Angstrom]. Auto: 1.1 times the largest of the"
            "data, at least 1.8."
  sg_max = 0.0075
    .type = float(value_min=0.0001)
    .help = "Largest excitation error of the beams that take part [1/Angstrom]."
  weak_sg_max = 0.03
    .type = float(value_min=0.0001)
    .help = "Beams with excitation errors between sg_max and this take part by perturbation (Bethe"
            "potentials) [1/Angstrom]. None: there are none."
  rocking_step = Auto
    .type = float(value_min=0.0001)
    .help = "Scan angle between two solutions of the wave equation [degree]; at most a quarter of"
            "data.rocking_width. Auto: from thickness and g_max."
    .expert_level = 1
  frame_steps = None
    .type = int(value_min=1)
    .help = "Rocking steps of a virtual frame, for each quantile of the mosaic spread, where rocking_step is"
            "Auto. None: as in a sweep."
    .expert_level = 1
  segment_length = 8
    .type = int(value_min=1)
    .help = "Rocking steps that share one set of beams."
    .expert_level = 2
}
absorption {
  model = *none thermal_diffuse
    .type = choice
    .help = "Loss of electrons to thermal diffuse scattering, from the elements and displacement"
            "parameters; it matters for heavy atoms."
  factor = 1.0
    .type = float(value_min=0.001)
    .help = "Factor on the absorptive potential of the theory. Auto: refined, with a prior of 1 and a"
            "standard deviation of 0.5."
    .expert_level = 1
}
absolute_structure = *auto ignore
  .type = choice
  .help = "Auto: where the space group has two hands, refine the other one too, and say which one the data"
          "prefer. Or do not."
orientation {
  tilt_nodes = Auto
    .type = int(value_min=1)
    .help = "Spline coefficients of the tilt across the rotation axis, for each crystal. Auto: one"
            "more than one in 20 degrees of scan, 2 to 12."
    .expert_level = 1
  restraint = 0.05
    .type = float(value_min=0.0001)
    .help = "Standard deviation of the prior on the tilts [degree]."
    .expert_level = 1
  frame_restraint = 0.05
    .type = float(value_min=0.0001)
    .help = "Standard deviation of the prior on the tilts of each virtual frame [degree]: two, or where whole"
            "rocking curves are summed the one across the rotation axis. None: no such tilts."
    .expert_level = 1
  mosaic_points = 5
    .type = int(value_min=1, value_max=100)
    .help = "Tilts that stand for the mosaic spread, which is refined. 1: no mosaicity."
    .expert_level = 1
  mosaic_tilts = *means medians
    .type = choice
    .help = "These tilts are the means of equally probable intervals of the normal distribution, or their"
            "medians, as in JANA2020: the same in effect at a spread 1.08 times as large, with five of them."
    .expert_level = 2
  mosaic_spread = 0.04
    .type = float(value_min=0.001)
    .help = "Start of the mosaic spread (standard deviation) [degree]."
    .expert_level = 2
  mosaic_directions = *auto across both
    .type = choice
    .help = "The mosaic spread tilts the blocks of the crystal across the rotation axis alone, or about it as"
            "well, which blurs the edges of what intensities are summed over. Auto: both where rocking curves"
            "are cut, in virtual frames with frame_window=frame and in single images. In precession: across."
    .expert_level = 1
}
thickness {
  model = *auto flat wedge normal gamma histogram neural
    .type = choice
    .help = "Distribution of the crystal's thickness: one value, all values up to a largest one, a"
            "truncated normal or gamma distribution, any smooth one, or one that a small network learns"
            "as a function of scan angle and beam direction. Auto: the simplest of those of one"
            "or two numbers that predicts reflections left out of its fit within one standard error as well"
            "as the best of them, or the network where it does so better than each by two."
  maximum = Auto
    .type = float(value_min=50)
    .help = "Largest thickness considered [Angstrom]. Auto: from the thickness scan."
  surface = None
    .type = str
    .multiple = True
    .help = "Normal of the faces of a plate; its thickness is then measured along it: the Miller indices"
            "of a face (0 0 1), or stage for a plate that lies across the beam at scan angle 0. One for all"
            "crystals, or one for each. None: the thickness is along the beam, in all of the scan."
    .expert_level = 1
  network {
    hidden = 8
      .type = int(value_min=1)
      .help = "Neurons of the hidden layer."
      .expert_level = 2
    terms = 5
      .type = int(value_min=1)
      .help = "Cosine terms by which the network shapes the distribution."
      .expert_level = 2
    prior = Auto
      .type = float(value_min=0.001)
      .help = "Standard deviation of the prior on the network's weights: smaller is closer to the"
              "distribution that it starts from. Auto: the most likely one."
      .expert_level = 2
  }
}
scale {
  nodes = Auto
    .type = int(value_min=1)
    .help = "Spline coefficients of the logarithmic scale, for each crystal. Auto: one in 12.5"
            "degrees of scan, 2 to 8."
    .expert_level = 1
  frame_restraint = 0.05
    .type = float(value_min=0.0001)
    .help = "Standard deviation of the prior on the logarithm of the scale of each virtual frame, beside"
            "the smooth one. None: no such scale."
    .expert_level = 1
}
refinement {
  max_cycles = 10
    .type = int(value_min=0)
    .help = "Most cycles of one pass through a stage; the orientation has four at most, the other hand five."
            "The joint and the last stage may be passed through again where the fit is still poor. A pass"
            "ends sooner, after one cycle (the last stage: three) that lowers the sum of squares by less"
            "than a hundredth."
  tolerance = 0.001
    .type = float(value_min=0)
    .help = "The orientation and the other hand are refined until a cycle would lower the sum of squares"
            "by less than this part of it, the joint stage until ten times this part, the last one until a"
            "twentieth."
    .expert_level = 1
  gain = Auto
    .type = float(value_min=0.01)
    .help = "Factor on the standard uncertainties of the reflection table. Auto: refined."
    .expert_level = 1
  instability = Auto
    .type = float(value_min=0)
    .help = "Part of F that is added to its standard uncertainty. Auto: refined, up to 0.03, so that strong"
            "reflections count where the model lacks something."
    .expert_level = 1
  floor = Auto
    .type = float(value_min=0)
    .help = "Standard uncertainty of the intensity that even the weakest reflection has, in counts of"
            "the table. Auto: refined."
    .expert_level = 1
  outlier_cutoff = 3
    .type = float(value_min=1)
    .help = "Reflections whose misfit exceeds so many robust standard deviations count less. None:"
            "all count by their standard uncertainty alone."
    .expert_level = 1
  crystal_weights = None
    .type = floats(value_min=0.001)
    .help = "Weights of several crystals in the sum of squares, in the order in which they are given, for"
            "instance 1,0.5. None: observations count by their standard uncertainty, whatever their crystal."
    .expert_level = 1
}
resume = None
  .type = path
  .help = "Checkpoint of an interrupted run to continue."
result = None
  .type = path
  .help = "Result of python -m dials_hybrid.refine for the problem of these files (see output.problem):"
          "write it as CIF, experiments, reflections and so on, instead of refining."
nproc = Auto
  .type = int(value_min=1)
  .help = "Processes. Auto: one for each processor."
memory = Auto
  .type = float(value_min=0.001)
  .help = "Most memory that a cycle of least squares may hold [GiB]. Auto: a quarter of the device's, or"
          "of what a container leaves of the machine's."
  .expert_level = 1
device = cpu
  .type = str
  .help = "Where the waves are computed: cpu, cuda or cuda:N; under torchrun, cuda is a device for each"
          "process."
seed = 0
  .type = int(value_min=0)
  .help = "Of the free set and of the network's start."
  .expert_level = 1
output {
  cif = hybrid_refined.cif
    .type = path
    .help = "The refined structure. None: do not write it."
  mtz = hybrid_refined.mtz
    .type = path
    .help = "Amplitudes and coefficients of the observed and the difference map, for Coot, Olex2 and"
            "phenix. None: do not write it."
  experiments = hybrid_refined.expt
    .type = path
    .help = "The experiments with the refined orientation. None: do not write it."
  reflections = hybrid_refined.refl
    .type = path
    .help = "The input rows with calculated intensities. None: do not write it."
  observations = hybrid_refined.csv
    .type = path
    .help = "The observations of virtual frames with calculated intensities. None: do not write them."
  json = dials.hybrid_refine.json
    .type = path
    .help = "All figures of the refinement, for scripts. None: do not write it."
  html = dials.hybrid_refine.html
    .type = path
    .help = "The report, one page that opens in any browser. None: do not write it."
  log = dials.hybrid_refine.log
    .type = path
    .help = "The log. None: do not write it."
  checkpoint = dials.hybrid_refine.checkpoint
    .type = path
    .help = "State after the last completed stage, for resume=. None: do not write one."
  problem = None
    .type = path
    .help = "Write everything that is needed to refine elsewhere into this file, and stop: python -m"
            "dials_hybrid.refine refines it where there is neither DIALS nor cctbx. None: refine here."
}
"""
)


def check_values(params, scope=phil_scope) -> None:
    """Raise ValueError if a parameter is None or Auto without this having a meaning.

    Auto of a choice becomes the choice of this name.
    """
    for definition in scope.all_definitions():
        value, default = attrgetter(definition.path)(params), definition.object.extract()
        if value in (None, Auto) and value is not default and f"{value}:" not in definition.object.help:
            raise ValueError(f"{definition.path} cannot be {value}")
        if value is Auto and definition.object.type.phil_type == "choice":
            *groups, name = definition.path.split(".")
            setattr(reduce(getattr, groups, params), name, "auto")
