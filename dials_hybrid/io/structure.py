"""Crystal structures: from a file to a `cctbx.xray.structure` that is ready to be refined.

`read_structure` -> `prepare_structure` is the way in; `tensors.py` goes on from there.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

import iotbx.cif
import iotbx.pdb
from cctbx import adptbx, crystal, xray
from cctbx.array_family import flex
from cctbx.eltbx import e_scattering
from iotbx.cif import builders, model
from libtbx.utils import Sorry

from dials_hybrid.io.shelx import read_shelx
from dials_hybrid.io.shelx_model import ShelxModel

logger = logging.getLogger("dials.hybrid_refine.io.structure")

DEFAULT_U = 0.01  # [A^2], given to atoms whose displacement parameters are missing or not positive
_MOVED = 0.01  # [A], a larger move onto a special position is worth a message
# Numbers beyond these are a damaged file, on which cctbx may calculate for ever.
_FARTHEST = 1000.0  # fractional coordinate
_LARGEST_U = 100.0  # [A^2]
_MOST = 100.0  # occupancy
_LONGEST_AXIS = 1e4  # [A]
_LONGEST_REASON = 300  # characters
_SMALLEST = 1.0  # [A^3] of the cell an atom; the densest crystals have 5


# ---------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class StartModel:
    """What a file holds of a structure."""

    structure: xray.structure
    shelx: ShelxModel | None = None  # what a SHELX file says about its refinement
    formula_units: int | None = None  # in the cell, where the file says
    parts: tuple[int, ...] = ()  # of each atom, the alternative that it belongs to; see `neighbours.bonded`


def read_structure(filename: str | Path, min_distance_sym_equiv: float = 0.5) -> xray.structure:
    """The structure of `read_model`, without what a SHELX file says about its refinement."""
    return read_model(filename, min_distance_sym_equiv).structure


def read_model(filename: str | Path, min_distance_sym_equiv: float = 0.5) -> StartModel:
    """Read a structure from CIF, SHELX (.ins, .res) or PDB.

    Args:
        filename: The file; its ending says what it is. Of a CIF with several data blocks the
            first one with atoms is taken.
        min_distance_sym_equiv: Atoms closer than this to their own image [A] are moved onto the
            special position between them.

    Raises:
        ValueError: The file is missing, unreadable, or has no atoms, cell or space group. The
            message is one sentence that names the file.
    """
    path = Path(filename)
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"{path}: a structure file ends in {', '.join(sorted(_READERS))}")
    if not path.is_file():
        raise ValueError(f"{path}: {'it is a folder' if path.is_dir() else 'no such file'}")
    try:
        model = _READERS[path.suffix.lower()](path, min_distance_sym_equiv)
        _check(model.structure)
    except Exception as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        # iotbx explains some faults; on other damaged files its parsers just fall over.
        if not isinstance(error, (ValueError, RuntimeError, Sorry)):
            reason = f"it is damaged or of an unknown kind ({type(error).__name__} {reason})"
        raise ValueError(f"cannot read a structure from {path}: {reason}") from error
    return model


def _ascii(path: Path) -> str:
    """The text of a file with "?" for every byte that iotbx cannot digest."""
    return path.read_text(encoding="latin-1").encode("ascii", errors="replace").decode("ascii")


def _read_cif(path: Path, min_distance_sym_equiv: float) -> StartModel:
    blocks = iotbx.cif.reader(input_string=_safe_cif(_ascii(path))).model()
    with_atoms = [name for name in blocks if "_atom_site_fract_x" in blocks[name]]
    if not with_atoms:
        raise ValueError("no data block with atoms (_atom_site_fract_x)")
    if len(with_atoms) > 1:
        logger.warning(f"{path} holds {len(with_atoms)} structures: taking the first, data_{with_atoms[0]}")
    block = blocks[with_atoms[0]]
    _correct(block)
    found = builders.crystal_structure_builder(block).structure
    sites = flex.vec3_double(*(flex.double(block[f"_atom_site_fract_{i}"]) for i in "xyz"))
    scatterers = found.scatterers()
    scatterers.set_sites(sites)
    structure = xray.structure(
        special_position_settings=crystal.special_position_settings(
            found.crystal_symmetry(), min_distance_sym_equiv=min_distance_sym_equiv
        ),
        scatterers=scatterers,
    )
    _report_moved_sites(structure, sites)
    formula_units = _formula_units(block.get("_cell_formula_units_Z", ""))
    return StartModel(structure, formula_units=formula_units, parts=_parts(block))


def _parts(block: model.block) -> tuple[int, ...]:
    """`_atom_site_disorder_group`, of which SHELX makes PART and which are numbers then."""
    groups = block.get_loop("_atom_site").get("_atom_site_disorder_group", ())  # as long as that of atoms
    parts = tuple(int(group) if re.fullmatch(r"-?\d{1,3}", group) else 0 for group in groups)
    return parts if any(parts) else ()


def _formula_units(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[1-9]\d{0,3}", text) else None


def _safe_cif(text: str) -> str:
    """CIF text on which the parser of iotbx, given a malformed loop, does not crash."""
    bare = re.sub(r"^;.*?^;|(?<!\S)#[^\n]*", "", text, flags=re.MULTILINE | re.DOTALL)
    if re.search(r"^;", bare, re.MULTILINE):
        raise ValueError("a text field has no end")
    if re.search(r"(?<!\S)loop_(?!\s+_\S)", bare, re.IGNORECASE):
        raise ValueError("a loop has no data names")
    return text + "\ndata__end_of_input\n"  # nor may the input end inside the header of a loop


def _correct(block: model.block) -> None:
    """Settle, in place, what `crystal_structure_builder` would silently get wrong.

    It replaces a space group symbol by the standard setting of the number beside it (P b n m ->
    P n m a), and forgets a whole column where a single value is unknown.
    """
    for number in ("_space_group_IT_number", "_symmetry_Int_Tables_number"):
        if number in block:
            del block[number]
    unknown = (".", "?")
    for name, default in (
        ("_atom_site_occupancy", "1"),
        ("_atom_site_U_iso_or_equiv", "0"),
        ("_atom_site_B_iso_or_equiv", "0"),
    ):
        values = block.get(name, ())
        if not all(value in unknown for value in values):
            filled = [default if value in unknown else value for value in values]
            block.get_loop("_atom_site")[name] = flex.std_string(filled)


def _read_pdb(path: Path, min_distance_sym_equiv: float) -> StartModel:
    source = iotbx.pdb.input(source_info=path.name, lines=_ascii(path).splitlines())
    symmetry = source.crystal_symmetry()
    # Without these checks iotbx invents a cell in P1.
    if symmetry is None or symmetry.unit_cell() is None:
        raise ValueError("no cell (no CRYST1 record)")
    if symmetry.space_group() is None:
        raise ValueError("no space group (in the CRYST1 record)")
    structure = source.xray_structure_simple(min_distance_sym_equiv=min_distance_sym_equiv)
    for scatterer in structure.scatterers():  # 'pdb=" CA  ALA A   1 "' -> 'CA_ALA_A_1'
        scatterer.label = "_".join(scatterer.label.removeprefix("pdb=").strip('"').split())
    return StartModel(structure)


def _read_shelx(path: Path, min_distance_sym_equiv: float) -> StartModel:
    text = _ascii(path)
    model = read_shelx(text, min_distance_sym_equiv)
    found = re.search(r"^ZERR[ \t]+(\d+)", text, re.MULTILINE | re.IGNORECASE)
    return StartModel(model.structure, model, _formula_units(found[1]) if found else None, model.parts)


_READERS = {".cif": _read_cif, ".ins": _read_shelx, ".res": _read_shelx, ".pdb": _read_pdb}


def _check(structure: xray.structure) -> None:
    if structure.unit_cell() is None:
        raise ValueError("no cell")
    if structure.space_group() is None:
        raise ValueError("no space group")
    if structure.scatterers().size() == 0:
        raise ValueError("no atoms")
    lengths = structure.unit_cell().parameters()[:3]
    if not 0.1 < min(lengths) <= max(lengths) < _LONGEST_AXIS:
        raise ValueError(f"a cell of {' by '.join(f'{length:.4g}' for length in lengths)} A")
    for scatterer in structure.scatterers():
        site, u = max(map(abs, scatterer.site)), _largest_u(structure, scatterer)
        numbers = (*scatterer.site, scatterer.u_iso, *scatterer.u_star, scatterer.occupancy)
        usable = site <= _FARTHEST and u <= _LARGEST_U and abs(scatterer.occupancy) <= _MOST
        if not (usable and all(map(math.isfinite, numbers))):
            raise ValueError(f"atom {scatterer.label} has parameters that are not usable numbers")
    atoms = sum(s.occupancy * s.multiplicity() for s in structure.scatterers())
    volume = structure.unit_cell().volume()
    if volume < _SMALLEST * atoms:
        raise ValueError(f"a cell of {volume:.4g} A^3 is too small for its {atoms:.4g} atoms")


def _largest_u(structure: xray.structure, scatterer) -> float:
    """[A^2]"""
    if scatterer.flags.use_u_aniso():
        return max(map(abs, adptbx.u_star_as_u_cart(structure.unit_cell(), scatterer.u_star)))
    return abs(scatterer.u_iso)


def _report_moved_sites(structure: xray.structure, sites: flex.vec3_double) -> None:
    for scatterer, site in zip(structure.scatterers(), sites, strict=True):
        distance = structure.unit_cell().distance(scatterer.site, site)
        if distance > _MOVED:
            logger.warning(f"Atom {scatterer.label} was moved by {distance:.3f} A onto a special position")


# -------------------------------------------------------------------------------- preparing


def prepare_structure(
    structure: xray.structure,
    adp: str = "anisotropic",
    ions: str = "refuse",
    hydrogens: str = "fixed",
    refine_occupancies: bool = False,
) -> xray.structure:
    """A copy of `structure`, ready to be refined against electron diffraction data.

    Deuterium becomes hydrogen. Repeated labels are numbered and displacement parameters that are
    not positive are reset, with a warning.

    Args:
        structure: Left as it is.
        adp: Displacement parameters of the atoms other than hydrogen: "anisotropic", "isotropic"
            or "as_is". Hydrogen atoms are isotropic unless "as_is".
        ions: What to do about charged scattering types: "refuse", take the "neutral" atom, or keep them
            for scattering factors that are "ionic".
        hydrogens: "fixed", or "refined" like any other atom.
        refine_occupancies: Refine all occupancies.

    Raises:
        ValueError: A scattering type is an ion and `ions` is "refuse", or is unknown; the structure
            is empty or has values that are not numbers.
    """
    _check_choice("adp", adp, ("anisotropic", "isotropic", "as_is"))
    _check_choice("ions", ions, ("refuse", "neutral", "ionic"))
    _check_choice("hydrogens", hydrogens, ("fixed", "refined"))
    _check(structure)
    prepared = structure.deep_copy_scatterers()
    _set_elements(prepared, ions)
    _number_repeated_labels(prepared)
    _reset_bad_displacements(prepared)
    _convert_displacements(prepared, adp)
    _set_refinement_flags(prepared, hydrogens, refine_occupancies)
    register(prepared)
    return prepared


def register(structure: xray.structure):
    """Give all atoms the electron scattering factors of the neutral ones, which cctbx has."""
    types = set(structure.scatterers().extract_scattering_types())
    of_ions = {
        name: e_scattering.ito_vol_c_2011_table_4_3_2_2_entry_as_gaussian(label=_element(name)[0])
        for name in types
        if name[-1] in "+-"
    }
    structure.discard_scattering_type_registry()
    return structure.scattering_type_registry(custom_dict=of_ions, table="electron")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")


def _set_elements(structure: xray.structure, ions: str) -> None:
    """Reduce scattering types ("Si4+", "D", "SI", "O1") to element symbols, in place."""
    neutralised = set()
    for scatterer in structure.scatterers():
        element, charged = _element(scatterer.scattering_type)
        if element is None:
            raise ValueError(
                f"atom {scatterer.label} has the type {scatterer.scattering_type!r}, for which "
                "there are no electron scattering factors: correct it or remove the atom"
            )
        if charged and ions == "refuse":
            raise ValueError(
                f"atom {scatterer.label} is the ion {scatterer.scattering_type}: structure.ions=neutral "
                "takes the scattering factor of the neutral atom, structure.ions=ionic that of the ion"
            )
        if charged and ions == "neutral":
            neutralised.add(scatterer.scattering_type)
        sign = re.sub(r"[^0-9+-]", "", scatterer.scattering_type) if charged and ions == "ionic" else ""
        scatterer.scattering_type = element + sign
        scatterer.fp = scatterer.fdp = 0  # X-ray dispersion
    structure.discard_scattering_type_registry()
    if neutralised:
        logger.warning(f"Electron scattering factors of neutral atoms stand in for {_join(neutralised)}")


def _element(scattering_type: str) -> tuple[str | None, bool]:
    """Element symbol, None if unknown to the electron table, and whether the type is charged."""
    match = re.fullmatch(r"([A-Za-z]{1,2})(val|\d*[+-]?\d*)", scattering_type.strip())
    if match is None:
        return None, False
    symbol, suffix = match[1].capitalize(), match[2]
    element = "H" if symbol in ("D", "T") else symbol
    known = element in e_scattering.ito_vol_c_2011_table_4_3_2_2_elements()
    charged = suffix.strip("0123456789") in ("+", "-") and suffix.strip("+-") != "0"
    return (element if known else None), charged


def _number_repeated_labels(structure: xray.structure) -> None:
    """Make labels unique, in place: a CIF assigns U's and s.u.s to atoms by label."""
    seen, renamed = set(), []
    for scatterer in structure.scatterers():
        label, n = scatterer.label, 1
        while scatterer.label in seen:
            n += 1
            scatterer.label = f"{label}_{n}"
        if n > 1:
            renamed.append(scatterer.label)
        seen.add(scatterer.label)
    if renamed:
        logger.warning(f"Repeated atom labels were changed to {_join(renamed)}")


def _reset_bad_displacements(structure: xray.structure) -> None:
    cell = structure.unit_cell()
    reset = []
    for scatterer in structure.scatterers():
        if scatterer.flags.use_u_aniso():
            u_cart = adptbx.u_star_as_u_cart(cell, scatterer.u_star)
            if min(adptbx.eigenvalues(u_cart)) <= 0:
                u_iso = adptbx.u_cart_as_u_iso(u_cart)
                scatterer.u_star = adptbx.u_iso_as_u_star(cell, u_iso if u_iso > 0 else DEFAULT_U)
                reset.append(scatterer.label)
        elif scatterer.u_iso <= 0:
            scatterer.u_iso = DEFAULT_U
            reset.append(scatterer.label)
    if reset:
        logger.warning(
            "Displacement parameters that are missing or not positive were replaced by the "
            f"equivalent isotropic one or {DEFAULT_U} A^2: {_join(reset)}"
        )


def _convert_displacements(structure: xray.structure, adp: str) -> None:
    if adp == "isotropic":
        structure.convert_to_isotropic()
    elif adp == "anisotropic":
        hydrogen = structure.element_selection("H")
        structure.convert_to_isotropic(selection=hydrogen.iselection())
        structure.convert_to_anisotropic(selection=~hydrogen)


def _set_refinement_flags(structure: xray.structure, hydrogens: str, occupancies: bool) -> None:
    for scatterer in structure.scatterers():
        flags = scatterer.flags
        refined = hydrogens == "refined" or scatterer.scattering_type != "H"
        flags.set_use(True)
        flags.set_use_fp_fdp(False)
        flags.set_grad_site(refined)
        flags.set_grad_u_iso(refined and flags.use_u_iso())
        flags.set_grad_u_aniso(refined and flags.use_u_aniso())
        flags.set_grad_occupancy(refined and occupancies)
        flags.set_grad_fp(False)
        flags.set_grad_fdp(False)


def _join(labels) -> str:
    return ", ".join(sorted(labels))
