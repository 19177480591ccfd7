"""Rocking curves from DIALS: one observation for each image that a reflection is on.

`dials.integrate` with frame_slice_shoeboxes=True (DIALS 3.30 and later) keeps, in the column
frame_sliced_shoebox, what summation integration finds on each image of a reflection: image numbers
counted from one, intensities, their variances, and whether all pixels under the reflection were valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dials.array_family import flex

from dials_hybrid.io.reflections import read_reflections
from dials_hybrid.io.rejections import Rejections
from dials_hybrid.rocking.measurement import Reflections
from dials_hybrid.rocking.sweep import Sweep

COLUMN = "frame_sliced_shoebox"


@dataclass(frozen=True)
class RockingCurves:
    """The N images of all reflections, one curve after the other."""

    row: np.ndarray  # (N,) int, of the reflection table
    image: np.ndarray  # (N,) int, from one
    intensity: np.ndarray  # (N,)
    variance: np.ndarray  # (N,)
    valid: np.ndarray  # (N,) bool


def rocking_curves(column: Sequence) -> RockingCurves:
    """The curves of a column: items have the attributes of DIALS's FrameSlicedShoebox.

    An image without a single count has no variance of its own: it gets the smallest of all the others,
    lest only images with counts remain.
    """
    lengths = np.array([len(item.frames) for item in column], dtype=np.int64)

    def flat(name: str, dtype) -> np.ndarray:
        parts = [np.asarray(list(getattr(item, name)), dtype=dtype) for item in column]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)

    variance = flat("summation_intensity_variance", float)
    valid = flat("summation_intensity_valid", bool)
    known = valid & (variance > 0.0)
    if known.any():
        variance = np.where(valid & (variance == 0.0), variance[known].min(), variance)
    return RockingCurves(
        row=np.repeat(np.arange(len(lengths)), lengths),
        image=flat("frames", np.int64),
        intensity=flat("summation_intensity", float),
        variance=variance,
        valid=valid,
    )


def read_rocking_curves(
    table: flex.reflection_table, sweeps: list[Sweep], curves: RockingCurves | None = None, **limits
) -> tuple[Reflections, Rejections]:
    """The usable images of the reflections of a table, as if each were a reflection.

    Args:
        table: see `read_reflections`.
        sweeps: geometry of each experiment.
        curves: those of the table; None: of its own column.
        limits: min_zeta, d_min and d_max of `read_reflections`.

    Raises:
        ValueError: there are no rocking curves, or none is left.
    """
    if curves is None:
        if COLUMN not in table:
            raise ValueError(
                f"the reflection table has no rocking curves (column {COLUMN}): integrate with DIALS 3.30 or "
                "later and integration.frame_slice_shoeboxes=True, or leave data.intensity as it is"
            )
        curves = rocking_curves(table[COLUMN])
    images = _one_row_an_image(table, curves)
    widths = np.array([abs(sweep.width) for sweep in sweeps])
    reflections, rows = read_reflections(
        images, sweeps, column="sum", half_width=list(widths), min_partiality=0.0, **limits
    )
    without = len(table) - len(np.unique(curves.row))
    if without:
        rows.counts["without a rocking curve"] = without
    half_width = widths[reflections.run] / 2.0
    return replace(reflections, half_width=half_width, row=curves.row[reflections.row]), rows


def _one_row_an_image(table: flex.reflection_table, curves: RockingCurves) -> flex.reflection_table:
    """The table with its rows repeated, each with position and intensity of an image."""
    table = table.copy()
    for name in (COLUMN, "shoebox"):
        if name in table:
            del table[name]
    images = table.select(flex.size_t(curves.row.tolist()))
    x, y, _ = images["xyzcal.px"].parts()
    images["xyzcal.px"] = flex.vec3_double(x, y, flex.double(curves.image - 0.5))
    images["intensity.sum.value"] = flex.double(curves.intensity)
    images["intensity.sum.variance"] = flex.double(curves.variance)
    images["partiality"] = flex.double(len(images), 1.0)
    everything, valid = flex.bool(len(images), True), flex.bool(curves.valid)
    images.unset_flags(everything, images.flags.integrated)
    images.set_flags(valid, images.flags.integrated_sum)
    return images
