"""CIF of a refined structure, with standard uncertainties (core CIF dictionary)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cctbx import xray
from cctbx.array_family import flex
from iotbx.cif import model
from libtbx.utils import format_float_with_standard_uncertainty

from dials_hybrid.data import ATOM_PARAMETERS
from dials_hybrid.io.atomic import atomic_write
from dials_hybrid.io.cif_items import drop_old_names
from dials_hybrid.io.constraints import Constraints
from dials_hybrid.io.geometry_tables import Geometry, geometry_loops

SCATTERING_SOURCES = {
    "peng": "Peng, Ren, Dudarev & Whelan (1996), Acta Cryst. A52, 257-276 "
    "(International Tables Vol. C, Table 4.3.2.2)",
    "lobato": "Lobato & Van Dyck (2014), Acta Cryst. A70, 636-649",
    "ion": "Peng (1998), Acta Cryst. A54, 481-485",
}

_SMALLEST_CELL_SU = 1e-6  # [A] or [degree]; what rounding makes of angles that symmetry fixes is not one
_WIDTH = len(ATOM_PARAMETERS)
# The first column of the parameter table and the number of columns of each entry of cctbx's
# parameter map.
_COLUMNS = {
    "site": (0, 3),
    "u_iso": (ATOM_PARAMETERS.index("uiso"), 1),
    "u_aniso": (ATOM_PARAMETERS.index("u11"), 6),
    "occupancy": (ATOM_PARAMETERS.index("occ"), 1),
}


def structure_cif_block(
    structure: xray.structure,
    covariance: np.ndarray,
    constraints: Constraints,
    cell_su: tuple[float, ...] | None = None,
    form_factors: str = "peng",
) -> model.block:
    """Cell, symmetry, atoms, bonds and angles of a refined structure.

    Values that are refined carry an s.u., values fixed by symmetry or by choice do not; the s.u. of
    U_eq is propagated from the U_ij with their correlations.

    Args:
        structure: Refined, with the refinement flags of `prepare_structure`.
        covariance: Variance-covariance matrix (n_independent, n_independent) of the independent
            parameters.
        constraints: The constraints under which they were refined.
        cell_su: Standard uncertainties of the cell parameters [A, degree]; None: unknown.
        form_factors: Those of neutral atoms, see SCATTERING_SOURCES.

    Raises:
        ValueError: The covariance has another shape or is not finite.
    """
    n = len(constraints.names)
    if covariance.shape != (n, n) or not np.isfinite(covariance).all():
        raise ValueError(f"the covariance must be a finite matrix of {n} x {n} numbers")
    block = structure.as_cif_block(
        covariance_matrix=_cctbx_covariance(structure, covariance, constraints),
        format="coreCIF",
    )
    drop_old_names(block)
    _write_cell(block, structure, cell_su or (0.0,) * 6)
    _shorten_fixed_coordinates(block)
    _flag_riding(block, constraints.riding)
    if constraints.parts:
        groups = [str(n) if n else "." for n in constraints.parts]
        block.get_loop("_atom_site").add_column("_atom_site_disorder_group", groups)
    _replace_atom_types(block, structure, form_factors)
    for loop in geometry_loops(Geometry(structure, covariance, constraints, cell_su)):
        block.add_loop(loop)
    return block


def _cctbx_covariance(
    structure: xray.structure, covariance: np.ndarray, constraints: Constraints
) -> flex.double:
    """The covariance of the parameters flagged as refined, in cctbx's order (packed upper)."""
    columns = _refined_columns(structure)
    # J^T C J as a sum of squares: rounding must not leave a variance below zero, as it may where
    # a free origin is projected out.
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    root = constraints.jacobian.numpy()[:, columns].T @ (vectors * np.sqrt(values.clip(min=0)))
    return flex.double(root @ root.T).matrix_symmetric_as_packed_u()


def _refined_columns(structure: xray.structure) -> list[int]:
    """Column of the flattened parameter table for each parameter of cctbx's parameter map."""
    parameter_map = structure.parameter_map()
    columns = [0] * parameter_map.n_parameters
    for i in range(structure.scatterers().size()):
        for name, (first, width) in _COLUMNS.items():
            start = getattr(parameter_map[i], name)
            if start >= 0:  # else not refined
                column = _WIDTH * i + first
                columns[start : start + width] = range(column, column + width)
    return columns


def _write_cell(block: model.block, structure: xray.structure, cell_su: tuple[float, ...]) -> None:
    """Write the cell, without s.u.s with enough digits for the U_ij to be read back."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    for name, value, su in zip(names, structure.unit_cell().parameters(), cell_su, strict=True):
        with_su = su > _SMALLEST_CELL_SU
        text = format_float_with_standard_uncertainty(value, su) if with_su else f"{value:.5f}"
        block[f"_cell_{name}"] = text


def _shorten_fixed_coordinates(block: model.block) -> None:
    """Print coordinates without s.u. as 0.666667, not as 0.6666666666666666."""
    loop = block.get_loop("_atom_site")
    for name in ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"):
        loop[name] = flex.std_string(value if "(" in value else f"{float(value):.6f}" for value in loop[name])


def _flag_riding(block: model.block, riding: tuple[str, ...]) -> None:
    loop = block.get_loop("_atom_site")
    rides = [label in riding for label in loop["_atom_site_label"]]
    loop["_atom_site_calc_flag"] = flex.std_string("calc" if each else "d" for each in rides)
    loop["_atom_site_refinement_flags_posn"] = flex.std_string("R" if each else "." for each in rides)


def _replace_atom_types(block: model.block, structure: xray.structure, form_factors: str) -> None:
    """cctbx gives electron scattering factors an X-ray reference, or leaves the loop out."""
    if block.get_loop("_atom_type") is not None:
        del block["_atom_type"]
    elements = sorted(set(structure.scatterers().extract_scattering_types()))
    block.add_loop(
        model.loop(
            data={
                "_atom_type_symbol": elements,
                "_atom_type_scat_source": [
                    SCATTERING_SOURCES["ion" if element[-1] in "+-" else form_factors] for element in elements
                ],
            }
        )
    )


def refinement_items(block: model.block, items: Mapping[str, object]) -> None:
    """Add single items to a block, in place: {"_refine_ls_R_factor_gt": 0.0831, ...}.

    None is written as "?" (unknown). Floats are written with six significant digits: give a string
    for any other format.

    Raises:
        ValueError: A key is not a data name.
    """
    for name, value in items.items():
        if not re.fullmatch(r"_[!-~]+", name):
            raise ValueError(f"{name!r} is not a CIF data name")
        block[name] = _item(value)


def _item(value: object) -> str:
    if value is None or value != value:  # nan
        return "?"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).encode("ascii", errors="replace").decode("ascii").strip()


def _quoted(text: str) -> str:
    """A value as it must stand in the file; iotbx quotes less than is needed."""
    reserved = re.match(r"(data|save|loop|stop|global)_", text, re.IGNORECASE)
    if re.fullmatch(r"[\w.()+*/<?,-][^\s]*", text) and text[0] != "_" and not reserved:
        return text
    if "\n" not in text:
        for quote in "'\"":
            if quote not in text:
                return quote + text + quote
    # A text field ends at a line that starts with a semicolon.
    return "\n;\n" + text.replace("\n;", "\n ;") + "\n;\n"


def _printable(block: model.block) -> model.block:
    """A copy of a block with all its values quoted."""
    copy = model.block()
    for name, value in block.items():
        if isinstance(value, str):
            copy[name] = _quoted(value)
    for loop in block.loops.values():
        copy.add_loop(
            model.loop(data={name: [_quoted(value) for value in column] for name, column in loop.items()})
        )
    return copy


def write_cif(filename: str | Path, blocks: Mapping[str, model.block]) -> None:
    """Write data blocks {name: block} to a file, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    names = {name: re.sub(r"[^\w.-]", "_", name, flags=re.ASCII) or "structure" for name in blocks}
    cif = model.cif({names[name]: _printable(block) for name, block in blocks.items()})
    with atomic_write(filename) as path:
        path.write_text(str(cif), encoding="ascii")
