"""What a refinement gives back: the refined structure, the figures, and how to write them down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dials_hybrid.io.cif import refinement_items, structure_cif_block
from dials_hybrid.io.constraints import Constraints
from dials_hybrid.refine.figures import ThicknessResult

_DETAILS = """Dynamical refinement against unmerged intensities. R factors are on F, pooled over all
used reflections, free ones included; wR has weights 1/(s^2 + (0.01 F)^2). Thickness in Angstrom."""


@dataclass(frozen=True)
class Result:
    """The outcome of `run_hybrid_refine`."""

    xray_structure: object  # cctbx.xray.structure, refined
    constraints: Constraints
    covariance: np.ndarray  # (P, P) of the independent parameters of the structure
    experiments: object  # dxtbx ExperimentList with the refined orientation
    reflections: object  # dials reflection table with intensity.dyn.value
    thickness: ThicknessResult
    summary: dict  # what output.json holds

    @property
    def r1_obs(self) -> float:
        """R1 on F over all used reflections with I > 3 sigma, pooled."""
        return self.summary["r1_obs"]


def cif_block(result: Result):
    """The refined structure with s.u.s and the figures of the refinement, as iotbx.cif block."""
    block = structure_cif_block(result.xray_structure, result.covariance, result.constraints)
    summary = result.summary
    history = summary["history"]
    refinement_items(
        block,
        {
            "_computing_structure_refinement": "dials.hybrid_refine",
            "_diffrn_radiation_probe": "electron",
            "_diffrn_radiation_wavelength": summary["wavelength"],
            "_reflns_number_gt": summary["n_observed"],
            "_reflns_threshold_expression": "I > 3 sigma(I)",
            "_refine_diffraction_theory": "dynamical",
            "_refine_ls_structure_factor_coef": "Fsqd",
            "_refine_ls_matrix_type": "full",
            "_refine_ls_number_reflns": summary["n_used"],
            "_refine_ls_number_parameters": summary["n_parameters"],
            "_refine_ls_R_factor_gt": round(summary["r1_obs"], 4),
            "_refine_ls_R_factor_all": round(summary["r1_all"], 4),
            "_refine_ls_wR_factor_ref": round(summary["wr_all"], 4),
            "_refine_ls_goodness_of_fit_ref": round(summary["goodness_of_fit"], 3),
            "_refine_ls_shift/su_max": round(history[-1]["largest_shift"], 3) if history else None,
            "_refine_ls_sample_thickness": round(summary["thickness_mean"], 1),
            "_refine_ls_sample_shape_expression": summary["thickness_model"],
            "_refine_special_details": _DETAILS,
        },
    )
    return block
