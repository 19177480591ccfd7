"""Sets of defaults, by the name that `preset` has for them.

From Python: phil_scope.fetch(sources=[libtbx.phil.parse("\\n".join(PRESETS["jana"])), ...]).
"""

from __future__ import annotations

PRESETS: dict[str, tuple[str, ...]] = {
    # JANA2020: a wedge; beams chosen in every step; 120 midpoints of the frame and nothing beyond it; five
    # tilts of the mosaic spread across the axis, medians; a free scale for each frame;
    # w = 1 / (sigma_F^2 + (0.01 F)^2).
    "jana": (
        "data.rsg=0.66",
        "data.dsg=0.0015",
        "data.frame_window=frame",
        "data.free_fraction=0",
        "beams.sg_max=0.01",
        "beams.weak_sg_max=None",
        "beams.frame_steps=120",
        "beams.segment_length=1",
        "orientation.mosaic_points=5",
        "orientation.mosaic_tilts=medians",
        "orientation.mosaic_directions=across",
        "thickness.model=wedge",
        "scale.nodes=1",
        "scale.frame_restraint=10",
        "refinement.gain=1",
        "refinement.instability=0.01",
        "refinement.floor=0",
        "refinement.outlier_cutoff=None",
    ),
}
