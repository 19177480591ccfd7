"""Intensities from DIALS: reflection tables to plain arrays, and calculated intensities back.

Every row of a table is used or counted with the reason why not.
"""

from __future__ import annotations

import numpy as np

from dials.array_family import flex
from dials.util.multi_dataset_handling import (
    renumber_table_id_columns,
    sort_tables_to_experiments_order,
)

from dials_hybrid.io.rejections import Rejections
from dials_hybrid.rocking.measurement import Reflections
from dials_hybrid.rocking.sweep import Sweep

# Not outlier_in_scaling: equivalents that disagree are what dynamical diffraction makes.
_UNUSABLE = ("dont_integrate", "user_excluded_in_scaling", "overloaded")
_TYPES = {  # of columns; the others are double
    "miller_index": flex.miller_index,
    "id": flex.int,
    "xyzcal.px": flex.vec3_double,
    "flags": flex.size_t,
    "bbox": flex.int6,
}
_LARGEST_INDEX = 1000


def intensities(table: flex.reflection_table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Raw intensities and their variances (n_rows,); variance <= 0 where there is none.

    Args:
        column: "profile" (profile-fitted, the summed one where fitting failed) or "sum".

    Raises:
        ValueError: the table has not been integrated.
    """
    value, variance = (_needed(table, f"intensity.sum.{part}") for part in ("value", "variance"))
    _column(table, "flags")
    summed = _flagged(table, "integrated_sum")
    variance = np.where(summed, variance, -1.0)
    if column == "profile" and "intensity.prf.value" in table:
        fitted_value, fitted_variance = (
            _needed(table, f"intensity.prf.{part}") for part in ("value", "variance")
        )
        fitted = _flagged(table, "integrated_prf") & (fitted_variance > 0.0)
        value = np.where(fitted, fitted_value, value)
        variance = np.where(fitted, fitted_variance, variance)
    if not (variance > 0.0).any():
        raise ValueError("the reflection table has no integrated intensities: run dials.integrate first")
    return value, variance


def read_reflections(
    table: flex.reflection_table,
    sweeps: list[Sweep],
    *,
    column: str,
    half_width: list[float],
    min_partiality: float,
    min_zeta: float,
    d_min: float | None,
    d_max: float | None,
) -> tuple[Reflections, Rejections]:
    """The usable reflections of a table.

    Args:
        table: rows of all experiments, `id` counting them as `sweeps` does.
        sweeps: geometry of each experiment.
        column: see `intensities`.
        half_width: half the width of a rocking curve at |zeta| = 1, of each experiment [degree].
        min_partiality: smallest part of the rocking curve inside the scan.
        min_zeta: smallest |zeta|.
        d_min: resolution limits [A].
        d_max: resolution limits [A].

    Raises:
        ValueError: a column is missing or no row is left.
    """
    indices, crystal = _needed(table, "miller_index"), _needed(table, "id").astype(np.int64)
    hkl = indices.round().astype(np.int64)
    z = _needed(table, "xyzcal.px")[:, 2]
    zeta, partiality = np.abs(_needed(table, "zeta")), _needed(table, "partiality")
    value, variance = intensities(table, column)

    rows = Rejections(len(table))
    rows.reject((hkl == 0).all(1), "not indexed")
    rows.reject((abs(hkl) > _LARGEST_INDEX).any(1), "Miller indices too large")
    rows.reject((crystal < 0) | (crystal >= len(sweeps)), "of no experiment")
    finite = np.isfinite(value) & np.isfinite(variance) & np.isfinite(z) & np.isfinite(zeta)
    rows.reject(~finite, "intensity or position is not a number")
    rows.reject(~(variance > 0.0), "not integrated")
    for flag in _UNUSABLE:
        rows.reject(_flagged(table, flag), f"flagged {flag}")
    rows.reject(~(partiality >= min_partiality), "partially recorded")
    rows.reject(~(zeta >= min_zeta), "too close to the rotation axis")
    d = _needed(table, "d") if "d" in table else _d_spacings(rows.kept, sweeps, crystal, hkl, z)
    if d_min is not None:
        rows.reject(~(d >= d_min), "beyond d_min")
    if d_max is not None:
        rows.reject(~(d <= d_max), "beyond d_max")

    safe = np.where((crystal >= 0) & (crystal < len(sweeps)), crystal, 0)
    limits = np.array([sweep.z[[0, -1]] for sweep in sweeps])[safe]
    rows.reject((z < limits[:, 0]) | (z > limits[:, 1]), "outside the scan")
    rows.reject(_repeated(rows.kept, crystal, hkl, z), "listed before")
    if not rows.kept.any():
        raise ValueError(f"no reflection is left of {len(table)}: {rows}")
    kept = np.flatnonzero(rows.kept)
    run = crystal[kept]
    angles = np.array([sweep.angle(0.0) for sweep in sweeps]), np.array([sweep.width for sweep in sweeps])
    reflections = Reflections(
        hkl=hkl[kept],
        intensity=value[kept],
        sigma=np.sqrt(variance[kept]),
        run=run,
        angle=angles[0][run] + angles[1][run] * z[kept],
        half_width=np.array(half_width)[run] / zeta[kept].clip(1e-3),
        row=kept,
        frame=np.full(len(kept), -1),
        share=np.ones(len(kept)),
    )
    return reflections, rows


def _d_spacings(kept: np.ndarray, sweeps: list[Sweep], crystal: np.ndarray, hkl: np.ndarray, z: np.ndarray):
    """(N,) [A], of rows that are kept."""
    d = np.full(len(kept), np.nan)
    for number, sweep in enumerate(sweeps):
        own = kept & (crystal == number)
        d[own] = 1.0 / np.linalg.norm(np.einsum("kij,kj->ki", sweep.basis(z[own]), hkl[own]), axis=-1)
    return d


def _repeated(kept: np.ndarray, crystal: np.ndarray, hkl: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(N,) bool: an earlier row that is kept has the same reflection at the same place of the same scan."""
    key = np.column_stack([crystal, hkl, z.round(3)])[kept]
    _, first = np.unique(key, axis=0, return_index=True)
    repeated = kept.copy()
    repeated[np.flatnonzero(kept)[first]] = False
    return repeated


def _needed(table: flex.reflection_table, name: str) -> np.ndarray:
    """The values of a column that all integrated reflections have."""
    column = _column(table, name)
    return (column.as_vec3_double() if name == "miller_index" else column).as_numpy_array()


def _column(table: flex.reflection_table, name: str):
    if name not in table:
        raise ValueError(f"the reflection table has no column {name}: run dials.integrate first")
    kind = _TYPES.get(name, flex.double)
    try:
        column = table[name]
    except RuntimeError:  # of Boost, where a column has been given another name
        column = None
    if not isinstance(column, kind):
        raise ValueError(f"the reflection table is damaged: its column {name} is not of type {kind.__name__}")
    return column


def _flagged(table: flex.reflection_table, flag: str) -> np.ndarray:
    return table.get_flags(getattr(table.flags, flag)).as_numpy_array()


def output_table(
    table: flex.reflection_table, row: np.ndarray, intensity: np.ndarray, scale: np.ndarray
) -> flex.reflection_table:
    """The input rows with calculated intensities, those of all images of a row together, without shoeboxes.

    Adds `intensity.dyn.value` (on the scale of the data) and `intensity.dyn.scale`, zero where a row
    was not used, and the flags `used_in_refinement` and `excluded_for_refinement`.

    Args:
        row: rows used (M,).
        intensity: calculated intensities (M,).
        scale: their scale (M,).
    """
    table = table.copy()
    if "shoebox" in table:
        del table["shoebox"]
    used = np.zeros(len(table), dtype=bool)
    used[row] = True
    total, factor = np.zeros((2, len(table)))
    np.add.at(total, row, intensity)
    factor[row] = scale
    table["intensity.dyn.value"], table["intensity.dyn.scale"] = flex.double(total), flex.double(factor)
    everything = flex.bool(len(table), True)
    mask = flex.bool(used)
    for flag, rows in (("used_in_refinement", mask), ("excluded_for_refinement", ~mask)):
        bit = getattr(table.flags, flag)
        table.unset_flags(everything, bit)
        table.set_flags(rows, bit)
    return table


def combine_tables(reflections, experiments=None) -> flex.reflection_table:
    """One table from one or several, with `id` counting the experiments.

    With `experiments`, tables are matched to them by their identifiers or, where there are none, by
    their order.

    Raises:
        ValueError: there is no table, it is empty, or it belongs to other experiments.
    """
    if isinstance(reflections, flex.reflection_table):
        reflections = [reflections]
    tables = [table.copy() for table in reflections]
    if len(tables) > 1:
        if experiments is not None:
            tables = sort_tables_to_experiments_order(tables, experiments)
        table = flex.reflection_table.concat(renumber_table_id_columns(tables))
    else:
        table = tables[0] if tables else flex.reflection_table()
    if len(table) == 0:
        raise ValueError("there are no reflections")
    _check_identifiers(table, experiments or ())
    return table


def _check_identifiers(table: flex.reflection_table, experiments) -> None:
    named = dict(table.experiment_identifiers())
    for index, experiment in enumerate(experiments):
        if index in named and experiment.identifier not in ("", named[index]):
            raise ValueError(
                f"the reflections with id {index} belong to experiment {named[index]}, not to "
                f"{experiment.identifier}: give the experiments and reflections of the same run"
            )


def rocking_half_width(table: flex.reflection_table, index: int, width: float) -> float | None:
    """Half the width of a rocking curve at |zeta| = 1 [degree], from the boxes of integration.

    A box holds all images that the curve touches: from n images follows (n - 1) / 2 of half width, on
    average over whole curves. None where the table does not say.

    Args:
        index: of the experiment.
        width: rotation of an image [degree].
    """
    if not all(name in table for name in ("id", "bbox", "zeta", "partiality")):
        return None
    first, last = (edge.as_numpy_array() for edge in _column(table, "bbox").parts()[4:])
    zeta = np.abs(_needed(table, "zeta"))
    whole = (_needed(table, "id") == index) & (_needed(table, "partiality") > 0.99) & (zeta > 0.3)
    images = 0.5 * (last - first - 1)[whole].sum()
    return float(abs(width) * images / (1.0 / zeta[whole]).sum()) if images > 0.0 else None
