"""Experiments made from nothing: a quartz crystal on a stage, and what DIALS needs to predict its spots."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from cctbx import crystal, xray

from dials.algorithms.profile_model.gaussian_rs import Model
from dxtbx.model import BeamFactory, Crystal, DetectorFactory, GoniometerFactory, ScanFactory
from dxtbx.model.experiment_list import Experiment, ExperimentList


def quartz_structure() -> xray.structure:
    """Literature coordinates; oxygen isotropic, so that "as it is" can be told from refined."""
    symmetry = crystal.symmetry((4.913, 4.913, 5.405, 90, 90, 120), "P 32 2 1")
    settings = crystal.special_position_settings(symmetry)
    structure = xray.structure(settings)
    structure.add_scatterer(xray.scatterer("Si1", (0.4697, 0.0, 2 / 3), u=0.008, scattering_type="Si"))
    structure.add_scatterer(xray.scatterer("O1", (0.4135, 0.2669, 0.78577), u=0.014, scattering_type="O"))
    return structure


def experiments(
    *,
    images: int = 20,
    width: float = 1.0,
    half_width: float | None = 1.0,
    identifier: str = "made up",
    turn: tuple[float, float, float] = (0.3, -0.5, 0.2),
) -> ExperimentList:
    """One rotation about x, the beam along -z, 200 kV; `half_width` None leaves out the profile model."""
    unit = quartz_structure().unit_cell()
    setting = Rotation.from_rotvec(turn).as_matrix() @ np.reshape(unit.orthogonalization_matrix(), (3, 3))
    experiment = Experiment(
        beam=BeamFactory.make_beam(unit_s0=(0, 0, -1), wavelength=0.02508, sample_to_source=None),
        detector=DetectorFactory.simple(
            "PAD", 500.0, (15.0, 15.0), "+x", "-y", (0.05, 0.05), (600, 600), trusted_range=(-1, 65535)
        ),
        goniometer=GoniometerFactory.known_axis((1, 0, 0)),
        scan=ScanFactory.make_scan(
            (1, images),
            [0.0] * images,
            (-0.5 * images * width, width),
            dict.fromkeys(range(1, images + 1), 0.0),
        ),
        crystal=Crystal(*map(tuple, setting.T), space_group_symbol="P 32 2 1"),
        profile=None if half_width is None else Model(None, 3, 0.02, half_width / 3, deg=True),
        identifier=identifier,
    )
    return ExperimentList([experiment])
