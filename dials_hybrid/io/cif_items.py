"""Items of the core CIF dictionary about crystal, measurement and reflections.

Everything comes from plain arrays, so that it does not matter who measured or integrated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cctbx import miller, xray
from cctbx.array_family import flex
from cctbx.eltbx import tiny_pse
from iotbx.cif import model

_OBSERVED = "I>3\\s(I)"


@dataclass(frozen=True)
class ReflectionList:
    """M observations, each occurrence of a reflection by itself."""

    hkl: np.ndarray  # (M, 3) int
    measured: np.ndarray  # (M,) intensity as integrated
    sigma: np.ndarray  # (M,)
    calculated: np.ndarray  # (M,) on the scale of the measured ones
    observed: np.ndarray  # (M,) bool
    free: np.ndarray  # (M,) bool: held out of every fit
    crystal: np.ndarray  # (M,) int
    frame: np.ndarray  # (M,) int, virtual frame of the crystal; -1 in a sweep
    angle: np.ndarray  # (M,) scan angle [degree]

    def __len__(self) -> int:
        return len(self.hkl)


def crystal_items(structure: xray.structure, z: int | None = None) -> dict[str, object]:
    """Formula, weight, Z and density from the atoms of the cell.

    Args:
        z: formula units in the cell; None: the largest number that divides the content of the cell, where
            that is whole, and the number of its symmetry operations.
    """
    counts: dict[str, float] = {}
    for scatterer in structure.scatterers():
        n = scatterer.occupancy * scatterer.multiplicity()
        counts[scatterer.element_symbol()] = counts.get(scatterer.element_symbol(), 0.0) + n
    whole = [round(n) for n in counts.values() if abs(n - round(n)) < 0.01]
    z = z or math.gcd(*whole, structure.space_group().order_z())
    weight = sum(n / z * tiny_pse.table(element).weight() for element, n in counts.items())
    volume = structure.unit_cell().volume()
    return {
        "_chemical_formula_sum": _formula({element: n / z for element, n in counts.items()}),
        "_chemical_formula_weight": f"{weight:.2f}",
        "_cell_formula_units_Z": z,
        "_exptl_crystal_density_diffrn": f"{weight * z * 1.66053907 / volume:.3f}",
        "_exptl_crystal_density_meas": None,
        "_exptl_crystal_density_method": "not measured",
        "_exptl_crystal_description": "nanocrystal",
        "_exptl_crystal_colour": None,
    }


def _formula(counts: dict[str, float]) -> str:
    """In Hill's order: C, H, then by the alphabet; all by the alphabet without carbon."""
    first = [element for element in ("C", "H") if "C" in counts and element in counts]
    rest = sorted(element for element in counts if element not in first)

    def number(n: float) -> str:
        return "" if abs(n - 1.0) < 0.005 else f"{round(n, 2):g}"

    return " ".join(f"{element}{number(counts[element])}" for element in first + rest)


def reflection_items(
    structure: xray.structure, reflections: ReflectionList, n_rows: int, wavelength: float
) -> dict[str, object]:
    """Numbers, limits and completeness of the reflections used."""
    d = _d_spacings(structure, reflections.hkl)
    theta = np.degrees(np.arcsin(wavelength / (2.0 * d)))
    lowest, highest = reflections.hkl.min(0), reflections.hkl.max(0)
    limits = {
        f"_diffrn_reflns_limit_{axis}_{end}": int(limit[i])
        for i, axis in enumerate("hkl")
        for end, limit in (("min", lowest), ("max", highest))
    }
    fraction = completeness(structure, reflections.hkl)
    return {
        "_diffrn_reflns_number": n_rows,
        **limits,
        "_diffrn_reflns_av_unetI/netI": f"{reflections.sigma.sum() / np.abs(reflections.measured).sum():.4f}",
        "_diffrn_reflns_theta_min": f"{theta.min():.3f}",
        "_diffrn_reflns_theta_max": f"{theta.max():.3f}",
        "_diffrn_reflns_theta_full": f"{theta.max():.3f}",
        "_diffrn_measured_fraction_theta_max": f"{fraction:.3f}",
        "_diffrn_measured_fraction_theta_full": f"{fraction:.3f}",
        "_reflns_number_total": len(reflections),
        "_reflns_number_gt": int(reflections.observed.sum()),
        "_reflns_threshold_expression": _OBSERVED,
        "_reflns_d_resolution_high": f"{d.min():.3f}",
        "_reflns_d_resolution_low": f"{d.max():.3f}",
        "_refine_ls_d_res_high": f"{d.min():.3f}",
        "_refine_ls_d_res_low": f"{d.max():.3f}",
    }


def _miller_set(structure: xray.structure, hkl: np.ndarray) -> miller.set:
    return miller.set(structure, flex.miller_index(hkl.tolist()), anomalous_flag=False)


def _d_spacings(structure: xray.structure, hkl: np.ndarray) -> np.ndarray:
    return _miller_set(structure, hkl).d_spacings().data().as_numpy_array()


def completeness(structure: xray.structure, hkl: np.ndarray) -> float:
    """Part of the unique reflections to the resolution of hkl (M, 3), Friedel mates as one, that it holds."""
    d_min = float(_d_spacings(structure, hkl).min())
    found = _miller_set(structure, hkl).remove_systematic_absences().unique_under_symmetry()
    return found.size() / found.complete_set(d_min=d_min * (1.0 - 1e-9)).size()


def reflection_blocks(
    structure: xray.structure, reflections: ReflectionList
) -> tuple[model.block, model.block]:
    """All observations, in the order of the scan: intensities, and where they were measured.

    A data block for each, since cctbx takes no block with two lists of Miller indices.

    Measured and calculated intensities are those that were compared: unmerged, without Lorentz
    correction, on the scale of the integration. Scale groups are crystals, or the virtual frames of
    all crystals. The free set is `excl` in _refln_refinement_status.
    """
    order = np.lexsort((reflections.angle, reflections.crystal))
    hkl = reflections.hkl[order]
    crystal = [str(i + 1) for i in reflections.crystal[order]]
    places = np.column_stack([reflections.crystal, reflections.frame])[order]
    groups, number = np.unique(places, axis=0, return_inverse=True)

    def indices(category: str) -> dict[str, list[str]]:
        return {f"_{category}_index_{axis}": _text(hkl[:, i], "d") for i, axis in enumerate("hkl")}

    def status(mask: np.ndarray, yes: str, no: str) -> list[str]:
        return np.where(mask[order], yes, no).tolist()

    def blank() -> model.block:
        block = structure.crystal_symmetry().as_cif_block(format="coreCIF")
        drop_old_names(block)
        block.add_loop(model.loop(data={"_exptl_crystal_id": sorted(set(crystal), key=int)}))
        return block

    intensities, positions = blank(), blank()
    codes = [str(i + 1) for i in range(len(groups))]
    intensities.add_loop(model.loop(data={"_reflns_scale_group_code": codes}))
    if (reflections.frame >= 0).any():
        lines = [
            f"scale group {code}: crystal {i + 1}, virtual frame {frame + 1}"
            for code, (i, frame) in zip(codes, groups.tolist(), strict=True)
            if frame >= 0
        ]
        intensities["_reflns_special_details"] = "\n".join(lines)
    refln = {
        **indices("refln"),
        "_refln_F_squared_calc": _text(reflections.calculated[order], ".6g"),
        "_refln_F_squared_meas": _text(reflections.measured[order], ".6g"),
        "_refln_F_squared_sigma": _text(reflections.sigma[order], ".4g"),
        "_refln_include_status": status(reflections.observed, "o", "<"),
        "_refln_refinement_status": status(reflections.free, "excl", "incl"),
        "_refln_crystal_id": crystal,
        "_refln_scale_group_code": [codes[i] for i in number.ravel()],
    }
    intensities.add_loop(model.loop(data=refln))
    angles = {
        **indices("diffrn_refln"),
        "_diffrn_refln_angle_omega": _text(reflections.angle[order], ".4f"),
        "_diffrn_refln_crystal_id": crystal,
    }
    positions.add_loop(model.loop(data=angles))
    return intensities, positions


def drop_old_names(block: model.block) -> None:
    """Remove, in place, the names of symmetry items that the dictionary has replaced."""
    for name in list(block.keys()):
        if name.startswith("_symmetry_"):
            del block[name]


def _text(values: np.ndarray, form: str) -> list[str]:
    return [format(value, form) for value in values.tolist()]
