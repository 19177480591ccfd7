"""A start model, ready for refinement: atoms, which of their parameters are free, and restraints.

What decides, in this order: the file (SHELX says what is fixed, tied and rides; of the other formats
everything is refined but occupancies), the treatment of hydrogen, then the user's selections.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cctbx import xray

from dials_hybrid.data import Restraints
from dials_hybrid.io.constraints import Constraints, constraints
from dials_hybrid.io.hydrogens import (
    axis_of,
    is_hydrogen,
    let_ride,
    rotation_modes,
    set_nuclear_distance,
    stretch_mode,
)
from dials_hybrid.io.neighbours import Neighbour, bonded
from dials_hybrid.io.selection import selected
from dials_hybrid.io.shelx_model import Afix, ShelxModel
from dials_hybrid.io.shelx_restraints import restraints
from dials_hybrid.io.structure import StartModel, prepare_structure
from dials_hybrid.io.ties import RigidGroup, Ties

logger = logging.getLogger("dials.hybrid_refine.io.start_model")

HYDROGENS = ("auto", "fixed", "riding", "refined")
_SITE = ("x", "y", "z")
_LONGEST_REASON = 300  # characters


@dataclass(frozen=True)
class PreparedModel:
    """What a refinement needs to know of a structure."""

    structure: xray.structure
    constraints: Constraints
    restraints: Restraints | None


def prepare_model(
    start: StartModel | xray.structure,
    adp: str = "auto",
    ions: str = "refuse",
    hydrogens: str = "auto",
    refine_occupancies: bool = False,
    refine: Sequence[str] = (),
    fix: Sequence[str] = (),
) -> PreparedModel:
    """A copy of a start model, ready to be refined.

    Args:
        start: left as it is.
        adp: see `prepare_structure`; "auto": as_is for SHELX files, else anisotropic.
        ions: see `prepare_structure`.
        hydrogens: "fixed", "riding" or "refined"; "auto": as a SHELX file says, else riding. Hydrogen
            atoms that have no clear pivot are fixed.
        refine_occupancies: refine all occupancies.
        refine: selections (`dials_hybrid.io.selection`) to refine beside the rest.
        fix: selections to hold.

    Raises:
        ValueError: see `prepare_structure`; a selection or an instruction cannot be understood.
    """
    if hydrogens not in HYDROGENS:
        raise ValueError(f"hydrogens is one of {', '.join(HYDROGENS)}, not {hydrogens!r}")
    if not isinstance(start, StartModel):
        start = StartModel(start)
    try:
        return _prepared(start, adp, ions, hydrogens, refine_occupancies, refine, fix)
    except (ArithmeticError, RuntimeError) as error:  # of cctbx, on symmetry or distances that cannot be
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise ValueError(f"the start model makes no sense: {reason}") from error


def _selected(structure: xray.structure, parameter: str, expression: str):
    try:
        return selected(structure, expression)
    except ValueError as error:
        raise ValueError(f"structure.{parameter}: {error}") from error


def _prepared(
    start: StartModel,
    adp: str,
    ions: str,
    hydrogens: str,
    refine_occupancies: bool,
    refine: Sequence[str],
    fix: Sequence[str],
) -> PreparedModel:
    model = start.shelx
    if adp == "auto":
        adp = "as_is" if model else "anisotropic"
    structure = prepare_structure(start.structure, adp, ions, "refined", refine_occupancies)
    ties = model.ties if model else Ties()
    if model:
        ties = replace(ties, fixed=_follow_file(structure, model, refine_occupancies))
    ties = _with_hydrogens(structure, start, ties, hydrogens, refine_occupancies)
    for expression in refine:
        ties = _released(structure, ties, *_selected(structure, "refine", expression))
    for expression in fix:
        ties = _held(structure, ties, *_selected(structure, "fix", expression))
    _start_followers(structure, ties)
    scatterers = structure.scatterers()
    riding = sorted(i for i in ties.followers()[0] if is_hydrogen(scatterers[i]))
    labels = tuple(scatterers[i].label for i in riding)
    free = replace(constraints(structure, ties), riding=labels, parts=start.parts)
    return PreparedModel(structure, free, restraints(model, structure) if model else None)


def _follow_file(
    structure: xray.structure, model: ShelxModel, refine_occupancies: bool
) -> tuple[tuple[int, str], ...]:
    """Set the flags of refinement as a file says, in place; gives single parameters that it fixes."""
    fixed = []
    for atom, (scatterer, free) in enumerate(zip(structure.scatterers(), model.refined, strict=True)):
        flags = scatterer.flags
        own_u = [f"u{ij}" for ij in (11, 22, 33, 12, 13, 23)] if flags.use_u_aniso() else ["uiso"]
        refined_u = [name for name in free if name.startswith("u")]
        flags.set_grad_site(any(name in free for name in _SITE))
        _set_grad_u(scatterer, bool(refined_u))
        flags.set_grad_occupancy(refine_occupancies or "occ" in free)
        if flags.grad_site():
            fixed += [(atom, name) for name in _SITE if name not in free]
        if set(refined_u) <= set(own_u) and refined_u:  # else the kind of U has been changed
            fixed += [(atom, name) for name in own_u if name not in refined_u]
    return tuple(fixed)


def _set_grad_u(scatterer, refined: bool) -> None:
    flags = scatterer.flags
    flags.set_grad_u_iso(refined and flags.use_u_iso())
    flags.set_grad_u_aniso(refined and flags.use_u_aniso())


# hydrogen ---------------------------------------------------------------------------------------


def _with_hydrogens(
    structure: xray.structure, start: StartModel, ties: Ties, mode: str, occupancies: bool
) -> Ties:
    """Ties with rigid and riding groups; moves riding atoms to their nuclear distances, in place."""
    scatterers = structure.scatterers()
    everyone = [i for i, scatterer in enumerate(scatterers) if is_hydrogen(scatterer)]
    afix = start.shelx.afix if start.shelx else ()
    neighbours = bonded(structure, start.parts) if everyone or afix else []
    rigid = tuple(_rigid_group(structure, group) for group in afix if not group.rides)
    if mode in ("fixed", "refined"):
        for i in everyone:
            _set_flags(scatterers[i], mode == "refined")
        return replace(_without(ties, everyone), groups=rigid)
    before = structure.sites_cart()
    of_file = tuple(_riding_group(structure, neighbours, group) for group in afix if group.rides)
    done = {i for group in of_file for i in group.atoms}
    others = [i for i in everyone if i not in done] if mode == "riding" or not start.shelx else []
    found = let_ride(structure, neighbours, others)
    ties = replace(
        _without(ties, others),
        groups=(*rigid, *of_file, *found.groups),
        fixed=tuple(each for each in ties.fixed if each[0] not in done | set(others)),
    )
    ties = replace(ties, u_follows=(*ties.u_follows, *found.u_follows))
    if occupancies:
        ties = replace(ties, free_variables=(*ties.free_variables, *_occupancies(structure, found.groups)))
    for i in found.left:
        _set_flags(scatterers[i], False)
    riders = sorted(i for group in (*of_file, *found.groups) for i in group.atoms)
    for i in riders:
        scatterers[i].flags.set_grad_site(False)
    for i, _, _ in ties.u_follows:
        scatterers[i].flags.set_grad_u_iso(False)
    _report(structure, riders, found.left, before)
    return ties


def _without(ties: Ties, atoms: Sequence[int]) -> Ties:
    """Ties that leave these atoms alone."""
    gone = set(atoms)
    return replace(
        ties,
        fixed=tuple(each for each in ties.fixed if each[0] not in gone),
        free_variables=tuple(
            tuple(each for each in variable if each[0] not in gone) for variable in ties.free_variables
        ),
        u_follows=tuple(each for each in ties.u_follows if each[0] not in gone),
        same_site=tuple(pair for pair in ties.same_site if not gone & set(pair)),
        same_u=tuple(pair for pair in ties.same_u if not gone & set(pair)),
    )


def _set_flags(scatterer, refined: bool) -> None:
    scatterer.flags.set_grad_site(refined)
    _set_grad_u(scatterer, refined)
    if not refined:
        scatterer.flags.set_grad_occupancy(False)


def _riding_group(structure: xray.structure, neighbours: list[list[Neighbour]], group: Afix) -> RigidGroup:
    """AFIX m3, m4, m7 and m8: riding, with the distance refined, turning about a bond, or both."""
    set_nuclear_distance(structure, neighbours, group.pivot, group.atoms, group.distance)
    modes, names = [np.zeros((0, len(group.atoms), 3))], []
    axis = axis_of(structure, neighbours, group.pivot, group.atoms) if group.n in (7, 8) else None
    if axis is not None:
        modes.append(rotation_modes(structure, group.pivot, group.atoms, axis[None]))
        names.append("turn")
    if group.n in (4, 8):
        modes.append(stretch_mode(structure, group.pivot, group.atoms, unit=True))
        names.append("stretch")
    return RigidGroup(group.pivot, group.atoms, np.concatenate(modes), tuple(names))


def _rigid_group(structure: xray.structure, group: Afix) -> RigidGroup:
    """AFIX m6 and m9: turns about the first atom; with m9 also a change of size."""
    modes = rotation_modes(structure, group.pivot, group.atoms, np.eye(3))
    names = ["turn_x", "turn_y", "turn_z"]
    if group.n == 9:
        modes = np.concatenate([modes, stretch_mode(structure, group.pivot, group.atoms, unit=False)])
        names.append("size")
    return RigidGroup(group.pivot, group.atoms, modes, tuple(names))


def _occupancies(structure: xray.structure, groups: Sequence[RigidGroup]):
    """Free variables that keep the occupancies of riding atoms in proportion to those of their pivots."""
    for group in groups:
        members = (group.pivot, *group.atoms)
        yield tuple((i, "occ", structure.scatterers()[i].occupancy) for i in members)


def _report(structure: xray.structure, riders: list[int], left: Sequence[int], before) -> None:
    labels = structure.scatterers().extract_labels()
    if riders:
        moved = (structure.sites_cart() - before).norms()
        farthest = max(moved[i] for i in riders)
        logger.info(
            f"{len(riders)} hydrogen atoms ride on their pivots at nuclear distances, to which they were "
            f"moved by at most {farthest:.2f} A"
        )
    if left:
        logger.warning(
            f"Hydrogen atoms without a clear pivot are fixed: {', '.join(labels[i] for i in left)}"
        )


def _start_followers(structure: xray.structure, ties: Ties) -> None:
    """U_iso of the atoms that follow others, in place."""
    scatterers, cell = structure.scatterers(), structure.unit_cell()
    for atom, other, factor in ties.u_follows:
        if scatterers[atom].flags.use_u_iso():
            scatterers[atom].u_iso = factor * scatterers[other].u_iso_or_equiv(cell)


# selections -------------------------------------------------------------------------------------


def _released(structure: xray.structure, ties: Ties, parameters: tuple[str, ...], mask: list[bool]) -> Ties:
    """Refine these parameters by themselves; sets flags in place."""
    _flag(structure, parameters, mask, True)

    def named(atom: int, name: str) -> bool:
        kind = "xyz" if name in _SITE else "occ" if name == "occ" else "u"
        return mask[atom] and kind in parameters

    ties = replace(
        _followers_freed(ties, parameters, mask),
        fixed=tuple(each for each in ties.fixed if not named(*each)),
        free_variables=tuple(
            tuple(each for each in variable if not named(*each[:2])) for variable in ties.free_variables
        ),
    )
    if "xyz" in parameters:
        ties = replace(ties, same_site=tuple(pair for pair in ties.same_site if not mask[pair[1]]))
    if "u" in parameters:
        ties = replace(ties, same_u=tuple(pair for pair in ties.same_u if not mask[pair[1]]))
    return ties


def _held(structure: xray.structure, ties: Ties, parameters: tuple[str, ...], mask: list[bool]) -> Ties:
    """Hold these parameters, and with them those of which they are multiples; clears flags in place."""
    _flag(structure, parameters, mask, False)
    return _followers_freed(ties, parameters, mask)


def _flag(structure: xray.structure, parameters: tuple[str, ...], mask: list[bool], refined: bool) -> None:
    for scatterer, chosen in zip(structure.scatterers(), mask, strict=True):
        if chosen and "xyz" in parameters:
            scatterer.flags.set_grad_site(refined)
        if chosen and "u" in parameters:
            _set_grad_u(scatterer, refined)
        if chosen and "occ" in parameters:
            scatterer.flags.set_grad_occupancy(refined)


def _followers_freed(ties: Ties, parameters: tuple[str, ...], mask: list[bool]) -> Ties:
    """Ties in which these atoms follow no other."""
    if "xyz" in parameters:
        groups = tuple(_smaller(group, mask) for group in ties.groups)
        ties = replace(ties, groups=tuple(group for group in groups if group.atoms))
    if "u" in parameters:
        ties = replace(ties, u_follows=tuple(each for each in ties.u_follows if not mask[each[0]]))
    return ties


def _smaller(group: RigidGroup, mask: list[bool]) -> RigidGroup:
    """A group without the atoms of a mask."""
    kept = [k for k, atom in enumerate(group.atoms) if not mask[atom]]
    return replace(group, atoms=tuple(group.atoms[k] for k in kept), modes=group.modes[:, kept])
