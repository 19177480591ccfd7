"""Which atoms of a structure are bonded, images by symmetry included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import smtbx.utils
from cctbx import sgtbx, xray
from cctbx.array_family import flex

SHARED = 0.5  # [A]: atoms that are nearer share a site, and are no neighbours


@dataclass(frozen=True)
class Neighbour:
    """The image of an atom at rt_mx x_j, and the vector to it from the atom whose neighbour it is."""

    j: int
    rt_mx: sgtbx.rt_mx
    vector: np.ndarray  # (3,) Cartesian [A]

    @property
    def distance(self) -> float:
        return float(np.linalg.norm(self.vector))


def bonded(structure: xray.structure, parts: Sequence[int] = ()) -> list[list[Neighbour]]:
    """The neighbours of each atom to which smtbx's connectivity table gives a bond, nearest first.

    Args:
        parts: number of the alternative (PART) of each atom, 0 for all; atoms of two different ones are
            not bonded, nor those of a negative one with their own images. Empty: there are none.
    """
    return _neighbours(structure, bond_table(structure, parts))


def bond_table(structure: xray.structure, parts: Sequence[int] = ()):
    """smtbx's connectivity table (covalent radii and 0.5 A) as pair_asu_table; see `bonded`."""
    options = {
        name: flex.size_t([max(0, sign * n) for n in parts])
        for name, sign in (("conformer_indices", 1), ("sym_excl_indices", -1))
        if any(sign * n > 0 for n in parts)
    }
    return smtbx.utils.connectivity_table(structure, **options).pair_asu_table


def within(structure: xray.structure, distance: float) -> list[list[Neighbour]]:
    """The neighbours of each atom up to `distance` [A], nearest first."""
    return _neighbours(structure, structure.pair_asu_table(distance_cutoff=distance))


def _neighbours(structure: xray.structure, table) -> list[list[Neighbour]]:
    mappings, cell = table.asu_mappings(), structure.unit_cell()
    sites = structure.sites_frac()
    result = []
    for i, group in enumerate(table.table()):
        back = mappings.get_rt_mx(i, 0).inverse()
        own = []
        for j, images in group.items():
            for k in (k for image in images for k in image):
                rt_mx = back.multiply(mappings.get_rt_mx(j, k))
                delta = np.subtract(rt_mx * sites[j], sites[i])
                own.append(Neighbour(j, rt_mx, np.array(cell.orthogonalize(tuple(delta)))))
        own = [v for v in own if v.distance > SHARED]
        result.append(sorted(own, key=lambda v: (round(v.distance, 6), v.j)))
    return result
