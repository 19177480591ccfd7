"""Inclined surfaces against an integration of the forward-scattering equations along the normal."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from synthetic import double, sweep, triclinic, turned

from dials_hybrid.bloch.scattering import potential_scale, structure_factors
from dials_hybrid.model.surface import normals, stage_normal


def in_crystal(model, crystal: int, direction):
    """A laboratory direction in units of the reciprocal axes of a crystal in its middle step."""
    steps = model.dataset.steps
    own = (steps.crystal == crystal).nonzero().flatten()
    return torch.linalg.solve(steps.basis[own[len(own) // 2]], double(direction))


def slanted(model):
    """Normals 35 and 60 degree from the beam in the middle of the two sweeps."""
    beam = model.dataset.steps.beam
    across = torch.linalg.cross(beam, double([[0.2, 0.9, 0.3]] * 2))
    across = across / across.norm(dim=1, keepdim=True)
    angles = torch.deg2rad(double([35.0, 60.0]))[:, None]
    n = torch.cos(angles) * beam + torch.sin(angles) * across
    return torch.stack([in_crystal(model, i, n[i].tolist()) for i in range(2)])


def forward_scattering(model, observation: int, thickness: float) -> float:
    """sum_k w_k (K_n + g_n) / K_n |psi_g|^2 with (K_n + g_n) dpsi_g/dz = i pi sum_h [...] psi_h.

    Not symmetrised: the plain equations of slowly varying amplitudes, and the flux through the surface.
    """
    data, atoms, simulation = model.dataset, model.crystal.atoms(), model.simulation
    steps, seen = data.steps, data.observations
    n = normals(model.surface, steps, steps.basis)
    scale = potential_scale(atoms.cell, data.wavelength)
    total = 0.0
    for share in simulation.shares:
        for task in share:
            if observation not in task.rows.tolist():
                continue
            hkl = task.segment.hkl
            at = int((hkl == seen.hkl[observation]).all(1).nonzero()[0])
            difference = (hkl[:, None] - hkl[None]).reshape(-1, 3)
            u = scale * structure_factors(atoms, difference).reshape(len(hkl), len(hkl))
            u.fill_diagonal_(0.0)
            k = simulation.wave_number
            for step in range(task.segment.first, task.segment.last):
                if not seen.first[observation] <= step < seen.last[observation]:
                    continue
                beam = k * steps.beam[steps.crystal[step]]
                g = hkl.double() @ steps.basis[step].T
                mismatch = k**2 - ((beam + g) ** 2).sum(1)
                along = (beam + g) @ n[step]
                m = (u + torch.diag(mismatch).to(u)) / along[:, None]
                psi = torch.linalg.matrix_exp(1j * math.pi * thickness * m)[:, 0]
                total += float(steps.weight[step] * psi[at].abs() ** 2 * along[at] / along[0])
    return total


@pytest.mark.parametrize("synthetic", ["two_crystals"], indirect=True)
def test_intensities_behind_an_inclined_plate(hybrid):
    model = hybrid()
    with torch.no_grad():
        model.orientation.mosaic[:] = 0.0
    flat = model.evaluate().sums.intensity
    model.surface = slanted(model)
    model.policy = replace(model.policy, segment_length=1)  # M_g is that of the middle of a segment
    model.update_beams()
    found = model.evaluate().sums.intensity
    grid = model.grid.nodes
    for observation in range(0, len(found), 5):
        for t in (7, 15):
            expected = forward_scattering(model, observation, float(grid[t]))
            assert float(found[observation, t]) == pytest.approx(expected, rel=1e-6)
    assert (found / flat - 1.0).abs().max() > 0.1


@pytest.mark.parametrize("synthetic", ["two_crystals"], indirect=True)
def test_the_jacobian_follows_an_inclined_plate(hybrid):
    model = hybrid()
    model.surface = slanted(model)
    model.update_beams()
    simulation = model.simulation
    x, part = model.vector(), model.structure
    jacobian = model.evaluate(derivatives=True).jacobian[:][:, part]
    for index in (0, 3):
        shifted = []
        for sign in (-1.0, 1.0):
            y = x.clone()
            y[index] += sign * 1e-5
            model.load_vector(y)
            shifted.append(model.evaluate().intensity)
        expected = (shifted[1] - shifted[0]) / 2e-5
        assert (jacobian[:, index] - expected).abs().max() < 1e-5 * expected.abs().max()
    assert model.simulation is simulation


def test_a_surface_along_the_beam_changes_nothing(hybrid):
    """Within the small scans of these crystals: the way through the plate and M_g stay as they are."""
    model = hybrid()
    expected = model.evaluate().sums.intensity
    beams = model.dataset.steps.beam.tolist()
    model.surface = torch.stack([in_crystal(model, i, beam) for i, beam in enumerate(beams)])
    model.update_beams()
    torch.testing.assert_close(model.evaluate().sums.intensity, expected, rtol=1e-3, atol=1e-9)


def test_stage_normal_lies_along_the_beam_at_scan_angle_zero():
    atoms = triclinic()
    steps = sweep(turned(atoms, 0.3, -0.5, 0.2), n=61, width=1.0)
    h = stage_normal(steps, 0)
    n = normals(h[None], steps, steps.basis)
    cosine = (n * steps.beam[0]).sum(1)
    # A turn by phi about an axis e takes n off the beam: cos = cos(phi) + (1 - cos(phi)) (e.beam)^2.
    along = float(steps.rotation_axis[0] @ steps.beam[0]) ** 2
    phi = torch.deg2rad(steps.angle)
    torch.testing.assert_close(cosine, torch.cos(phi) + (1.0 - torch.cos(phi)) * along, rtol=0, atol=1e-9)
    assert steps.angle.abs().max() > 20.0


def test_a_plate_seen_edge_on_is_refused():
    atoms = triclinic()
    steps = sweep(turned(atoms, 0.3, -0.5, 0.2), n=5, width=1.0)
    n = torch.linalg.cross(steps.beam[0], double([0.3, 0.5, 0.2]))
    with pytest.raises(ValueError, match="beam runs along the surface of crystal 1"):
        normals(torch.linalg.solve(steps.basis[2], n)[None], steps, steps.basis)
