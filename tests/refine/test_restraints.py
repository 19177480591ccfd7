"""Residuals of restraints: derivatives, and invariance under all that must not matter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import double, triclinic

from dials_hybrid.data import AtomicModel, Restrained, Restraints
from dials_hybrid.refine.restraints import deviations, restraint_rows

IDENTITY = torch.eye(3, dtype=torch.float64)
PAIRS = [(0, 1), (1, 2), (0, 2), (3, 4), (2, 4)]


def restrained(atoms=(), rotation=None, translation=None, target=0.0, sigma=0.1, group=None) -> Restrained:
    atoms = torch.tensor(atoms, dtype=torch.long).reshape(len(atoms), len(atoms[0]) if atoms else 1)
    n = len(atoms)
    return Restrained(
        atoms=atoms,
        rotation=IDENTITY.expand(n, 3, 3) if rotation is None else rotation,
        translation=torch.zeros(n, 3, dtype=torch.float64) if translation is None else translation,
        target=torch.full((n,), target, dtype=torch.float64),
        sigma=torch.linspace(sigma, 2.0 * sigma, n, dtype=torch.float64),
        group=torch.zeros(n, dtype=torch.long) if group is None else torch.tensor(group),
    )


def only(**kinds) -> Restraints:
    names = ("dfix", "sadi", "flat", "simu", "delu", "rigu", "isor")
    return Restraints(**{name: kinds.get(name, restrained()) for name in names})


def images(n: int) -> dict:
    """Images by a twofold axis along a of a cell without symmetry: any operation will do."""
    rotation = torch.diag(double([1.0, -1.0, -1.0])).expand(n, 3, 3).clone()
    rotation[0] = IDENTITY
    return {"rotation": rotation, "translation": double([[0.1, 0.2, 0.3]]).expand(n, 3)}


KINDS = {
    "dfix": only(dfix=restrained(PAIRS, target=1.7, **images(5))),
    "sadi": only(sadi=restrained(PAIRS, group=[0, 0, 1, 1, 0], **images(5))),
    "flat": only(
        flat=restrained([(k,) for k in (0, 1, 2, 3, 0, 2, 3, 4, 1)], group=[0] * 4 + [1] * 5, **images(9))
    ),
    "simu": only(simu=restrained(PAIRS, sigma=0.02, **images(5))),
    "delu": only(delu=restrained(PAIRS, sigma=0.02, **images(5))),
    "rigu": only(rigu=restrained(PAIRS, sigma=0.02, **images(5))),
    "isor": only(isor=restrained([(0,), (2,), (3,)], sigma=0.02)),
}


@pytest.fixture
def atoms() -> AtomicModel:
    """Five atoms, the second one isotropic."""
    model = triclinic()
    more = model.parameters[[0, 2]].clone()
    more[:, :3] += double([[0.31, -0.12, 0.44], [-0.2, 0.33, 0.11]])
    more[:, 4:10] *= double([1.3, 0.8, 1.1, -0.5, 2.0, 0.7])
    return replace(
        model,
        labels=("Si0", "O1", "C2", "Si3", "C4"),
        parameters=torch.cat([model.parameters, more]),
        anisotropic=torch.tensor([True, False, True, True, True]),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives(kind, atoms):
    rows = restraint_rows(KINDS[kind], atoms)
    found, p = rows.derivatives.to_dense(), atoms.parameters
    assert found.abs().max() > 1.0
    h = 1e-6 * torch.where(torch.arange(11) < 3, 1.0, 0.01)
    for i in range(p.numel()):
        step = torch.zeros(p.numel(), dtype=torch.float64)
        step[i] = h[i % 11]
        ends = [
            restraint_rows(KINDS[kind], atoms.with_parameters(p + s * step.view_as(p))).residuals
            for s in (-1, 1)
        ]
        expected = (ends[1] - ends[0]) / (2.0 * h[i % 11])
        torch.testing.assert_close(found[:, i], expected, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_moving_everything_changes_nothing(kind, atoms):
    """By a lattice vector, and by inversion."""
    before = restraint_rows(KINDS[kind], atoms).residuals
    inverted = atoms.parameters.clone()
    inverted[:, :3] *= -1.0
    after = restraint_rows(KINDS[kind].inverted(), atoms.with_parameters(inverted)).residuals
    torch.testing.assert_close(after.abs(), before.abs(), rtol=1e-9, atol=1e-9)


def test_heights_are_those_of_the_best_plane(atoms):
    """By singular values of the centred points; derivatives exist where two moments are equal, too."""
    turns = torch.arange(6, dtype=torch.float64) * torch.pi / 3.0
    hexagon = torch.stack([torch.cos(turns), torch.sin(turns), 0.0 * turns], dim=1)
    cell = double([10.0, 10.0, 10.0, 90.0, 90.0, 90.0])
    parameters = torch.zeros(6, 11, dtype=torch.float64)
    parameters[:, :3] = 0.139 * hexagon + 0.01 * double(
        [[0, 0, 1], [0, 0, 0], [0, 0, -1], [0, 0, 2], [0, 0, 0], [0, 0, 1]]
    )
    six = replace(
        atoms,
        labels=tuple("ABCDEF"),
        cell=cell,
        parameters=parameters,
        anisotropic=torch.zeros(6, dtype=torch.bool),
    )
    plane = only(flat=restrained([(k,) for k in range(6)]))
    sites = 10.0 * parameters[:, :3]
    _, _, axes = torch.linalg.svd(sites - sites.mean(0))
    expected = (sites - sites.mean(0)) @ axes[2] / plane.flat.sigma
    found = restraint_rows(plane, six).residuals
    torch.testing.assert_close(found.abs(), expected.abs())
    parameters[:, :3] = 0.139 * hexagon
    rows = restraint_rows(plane, six.with_parameters(parameters))
    assert rows.residuals.abs().max() < 1e-12
    assert torch.isfinite(rows.derivatives.values()).all()


def test_a_distance_and_its_deviation(atoms):
    kept = only(dfix=restrained([(0, 1)], target=1.7, sigma=0.02))
    a = torch.linalg.cholesky(metric(atoms)).mT
    d = float((a @ (atoms.parameters[1, :3] - atoms.parameters[0, :3])).norm())
    (found,) = deviations(kept, atoms)
    assert found.value == pytest.approx(d) and found.in_sigmas == pytest.approx((d - 1.7) / 0.02)
    assert found.labels == ("Si0", "O1")


def metric(atoms):
    a, b, c, *angles = atoms.cell.tolist()
    cos = torch.cos(torch.deg2rad(double(angles))).tolist()
    return double(
        [
            [a * a, a * b * cos[2], a * c * cos[1]],
            [a * b * cos[2], b * b, b * c * cos[0]],
            [a * c * cos[1], b * c * cos[0], c * c],
        ]
    )
