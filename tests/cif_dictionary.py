"""A check of CIF blocks against the data names of the core dictionary (`io/cif_core_items.csv`)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

# Of version 3.3 of the core dictionary, for electron diffraction: without an older form of the name.
ELECTRON_DIFFRACTION = {
    "_refine.diffraction_theory",
    "_refine.diffraction_theory_details",
    "_refine_ls.sample_thickness",
    "_refine_ls.sample_shape_expression",
    "_refine_ls.sample_shape_details",
    "_refine_ls.abs_structure_z-score",
    "_refine_diff.potential_max",
    "_refine_diff.potential_min",
    "_refine_diff.potential_RMS",
    "_diffrn_measurement.rotation_mode",
    "_diffrn_measurement.method_precession",
    "_exptl_crystal.mosaicity",
    "_exptl_crystal.mosaic_method",
    "_chemical.absolute_configuration",
}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:\(\d+\))?")


def definitions() -> dict[str, dict[str, str]]:
    path = Path(__file__).parent / "io" / "cif_core_items.csv"
    with open(path, newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {row["name"]: row for row in rows}


def faults(block) -> list[str]:
    """What an iotbx.cif block has that the dictionary does not allow."""
    known, found = definitions(), []
    looped = {name for loop in block.loops.values() for name in loop.keys()}
    for name, value in block.items():
        if name in ELECTRON_DIFFRACTION:
            continue
        if name not in known:
            found.append(f"{name} is not in the dictionary")
            continue
        definition = known[name]
        if definition["list"] == ("no" if name in looped else "yes"):
            found.append(f"{name} {'must not' if name in looped else 'must'} be in a loop")
        values = [value] if isinstance(value, str) else list(value)
        for text in values:
            fault = _fault(text.strip(), definition)
            if fault:
                found.append(f"{name}: {text!r} {fault}")
    return found


def _fault(text: str, definition: dict[str, str]) -> str | None:
    if text in ("?", "."):
        return None
    if definition["type"] == "numb":
        match = _NUMBER.fullmatch(text)
        if not match:
            return "is not a number"
        lowest, _, highest = definition["range"].partition(":")
        if lowest and float(match[1]) < float(lowest) or highest and float(match[1]) > float(highest):
            return f"is not in {definition['range']}"
    elif definition["values"] and text not in definition["values"].split():
        return f"is not one of {definition['values']}"
    return None
