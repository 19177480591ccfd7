"""The structure as the page draws it: atoms with ellipsoids, bonds and cell edges."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from dials_hybrid.report.data import Structure

PROBABILITY_50 = 1.5382  # radius in standard deviations that holds half of a 3D normal distribution
_MOST_IN_CELL = 60  # atoms: a fuller cell is drawn as its asymmetric unit
_TOLERANCE = 0.4  # [A] a bond may be longer than the sum of radii by this
_SHORTEST = 0.5  # [A] closer atoms are alternatives of one another, not bonded
_BORDER = 0.02  # an atom so close to a face of the cell is drawn on both sides
_COLOURS = {
    "H": "#e6e6e6",
    "C": "#868e96",
    "N": "#4c6ef5",
    "O": "#e03131",
    "F": "#74b816",
    "Si": "#d9a441",
    "P": "#f08c00",
    "S": "#e6c700",
    "Cl": "#37b24d",
    "Br": "#a0522d",
    "I": "#862e9c",
}


def drawing(structure: Structure) -> dict:
    """Atoms, bonds and cell edges, centred, for `structure.js`.

    The unit cell, or the asymmetric unit where that would be crowded or break molecules (there is carbon),
    and the atoms bonded to it. Each atom has its position and the three half axes of its 50 % ellipsoid,
    cartesian [A]. In an asymmetric unit atoms other than hydrogen are named.
    """
    to_cartesian, elements = structure.orthogonalisation, np.array(structure.elements)
    images = [_images(structure, i) for i in range(len(elements))]
    is_cell = "C" not in elements and sum(len(sites) for sites, _ in images) <= _MOST_IN_CELL
    if not is_cell:
        images = [(site[None], np.eye(3)[None]) for site in structure.sites]
    atom, sites, rotation = _with_neighbours(structure, images)
    positions = sites @ to_cartesian.T
    turn = to_cartesian @ rotation @ np.linalg.inv(to_cartesian)  # the operations, cartesian
    axes, positive = half_axes(turn @ structure.u_cart[atom] @ turn.transpose(0, 2, 1))
    corners = np.array(list(product((0.0, 1.0), repeat=3)))
    edges = [(a, b) for a, b in combinations(range(8), 2) if np.count_nonzero(corners[a] != corners[b]) == 1]
    corners = corners @ to_cartesian.T
    centre = corners.mean(0) if is_cell else positions.mean(0)
    if not is_cell:
        face = _face(positions - centre)
        positions, axes, centre = positions @ face.T, axes @ face.T, face @ centre
    colours = _colours(structure.elements)
    return {
        "atoms": [
            {
                "label": structure.labels[i],
                "position": np.round(positions[k] - centre, 4).tolist(),
                "axes": np.round(axes[k], 4).tolist(),
                "positive": bool(positive[k]),
                "named": not is_cell and k < len(elements) and elements[i] != "H",
                "colour": colours[structure.elements[i]],
            }
            for k, i in enumerate(atom)
        ],
        "bonds": [
            np.round(_between_surfaces(positions[[i, j]], axes[[i, j]]) - centre, 4).tolist()
            for i, j in bonds(positions, structure.radii[atom], elements[atom] == "H")
        ],
        "cell": [np.round(corners[list(edge)] - centre, 4).tolist() for edge in edges] if is_cell else [],
        "elements": colours,
    }


def _face(positions: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) that shows centred positions (n, 3) from where they are broadest."""
    axes = np.linalg.svd(positions)[2]
    return axes * np.sign(np.linalg.det(axes))


def _images(structure: Structure, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Sites (m, 3) of atom i in the unit cell, faces included, and their rotations (m, 3, 3)."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for rotation, translation in zip(structure.rotations, structure.translations, strict=True):
        site = rotation @ structure.sites[i] + translation
        for shift in product((-1, 0, 1), repeat=3):
            copy = site - np.floor(site) + shift
            inside = ((copy > -_BORDER) & (copy < 1.0 + _BORDER)).all()
            if inside and all(abs(copy - other).max() > 1e-3 for other, _ in found):
                found.append((copy, rotation))
    return np.array([site for site, _ in found]), np.array([rotation for _, rotation in found])


def _with_neighbours(structure: Structure, images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The atoms given and every image of an atom that is bonded to one: number, site and rotation."""
    atom = [i for i, (sites, _) in enumerate(images) for _ in sites]
    sites = [site for own, _ in images for site in own]
    rotation = [matrix for _, own in images for matrix in own]
    moved = np.einsum("sij,nj->nsi", structure.rotations, structure.sites) + structure.translations
    shifts = np.array(list(product((-1, 0, 1), repeat=3)))
    for i, start in list(zip(atom, sites, strict=True)):
        away = moved - start
        away = (away - np.round(away))[:, :, None] + shifts  # (n, S, 27, 3)
        distance = np.linalg.norm(away @ structure.orthogonalisation.T, axis=-1)
        reach = structure.radii[i] + structure.radii[:, None, None] + _TOLERANCE
        for j, s, k in np.argwhere((distance > _SHORTEST) & (distance < reach)):
            site = start + away[j, s, k]
            if structure.elements[i] == structure.elements[j] == "H":
                continue
            if all(abs(site - other).max() > 1e-3 for other in sites):
                atom.append(j)
                sites.append(site)
                rotation.append(structure.rotations[s])
    return np.array(atom), np.array(sites), np.array(rotation)


def half_axes(u_cart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half axes (n, 3, 3), one a row [A], of the 50 % ellipsoids of U (n, 3, 3), and whether U > 0.

    Where it is not, the axis is drawn as a very short one.
    """
    values, vectors = np.linalg.eigh(u_cart)
    lengths = PROBABILITY_50 * np.sqrt(values.clip(min=1e-4))
    return (vectors * lengths[:, None, :]).transpose(0, 2, 1), (values > 0.0).all(1)


def bonds(positions: np.ndarray, radii: np.ndarray, hydrogen: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of atoms closer than the sum of their radii and a tolerance; never two hydrogens."""
    pairs = []
    for i in range(len(positions)):
        distance = np.linalg.norm(positions[i + 1 :] - positions[i], axis=1)
        near = (distance > _SHORTEST) & (distance < radii[i] + radii[i + 1 :] + _TOLERANCE)
        near &= ~(hydrogen[i] & hydrogen[i + 1 :])
        pairs += [(i, i + 1 + int(k)) for k in np.flatnonzero(near)]
    return pairs


def _between_surfaces(positions: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """The part (2, 3) of the line between two atoms (2, 3) that is outside of both ellipsoids.

    x = r u is on the surface with half axes a_i where sum_i (r u.a_i / a_i^2)^2 = 1.
    """
    u = positions[1] - positions[0]
    u = u / np.linalg.norm(u)
    r = 1.0 / np.linalg.norm((axes @ u) / (axes**2).sum(2), axis=1)
    return positions + np.outer([r[0], -r[1]], u)


def _colours(elements) -> dict[str, str]:
    """Customary colours; other elements get hues far from one another."""
    others = [element for element in dict.fromkeys(elements) if element not in _COLOURS]
    hues = {element: f"hsl({(280 + 137 * i) % 360}, 45%, 58%)" for i, element in enumerate(others)}
    return {element: {**_COLOURS, **hues}[element] for element in dict.fromkeys(elements)}
