"""Displacements that are not positive."""

from __future__ import annotations

import pytest
import torch
from synthetic import free_parameters, quartz, triclinic

from dials_hybrid.model.crystal import Crystal
from dials_hybrid.refine.displacements import isotropic_instead, principal_displacements

U_STAR = slice(4, 10)


def crystal(atoms, **changed) -> Crystal:
    """All parameters free; U* of an atom, by label, replaced."""
    parameters = atoms.parameters.clone()
    for label, values in changed.items():
        columns = 3 if isinstance(values, float) else U_STAR
        parameters[atoms.labels.index(label), columns] = torch.tensor(values, dtype=torch.float64)
    return Crystal(atoms.with_parameters(parameters), *free_parameters(atoms))


def test_principal_displacements_are_those_of_cctbx():
    adptbx = pytest.importorskip("cctbx.adptbx")
    from cctbx import uctbx

    atoms = triclinic()
    cell = uctbx.unit_cell(tuple(atoms.cell.tolist()))
    found = principal_displacements(atoms)
    for i in atoms.anisotropic.nonzero().flatten().tolist():
        u_cart = adptbx.u_star_as_u_cart(cell, tuple(atoms.parameters[i, U_STAR].tolist()))
        assert found[i].tolist() == pytest.approx(sorted(adptbx.eigenvalues(u_cart)), rel=1e-9)
    assert torch.equal(found[1], atoms.parameters[1, 3].expand(3))


def test_what_is_not_positive_becomes_as_the_others():
    u = (4e-4, 5e-4, -3e-4, 1e-4, -5e-5, 8e-5)
    model = crystal(triclinic(), Si0=u)
    before = model.atoms().parameters
    with torch.no_grad():
        model.shifts.copy_(isotropic_instead(model))
    after = principal_displacements(model.atoms())
    others = principal_displacements(crystal(triclinic()).atoms())[1:].mean(-1)
    torch.testing.assert_close(after[0], others.median().expand(3), rtol=1e-9, atol=0.0)
    changed = (model.atoms().parameters - before).abs() > 1e-12
    assert changed[0, U_STAR].any() and not changed[1:].any() and not changed[0, :4].any()


def test_an_isotropic_one_too():
    model = crystal(triclinic(), O1=-0.002)
    with torch.no_grad():
        model.shifts.copy_(isotropic_instead(model))
    others = principal_displacements(model.atoms())[[0, 2]].mean(-1)
    assert model.atoms().parameters[1, 3].item() == pytest.approx(others.median().item())


def test_one_parameter_of_two_elements_of_a_tensor():
    """U11 = U22 = 2 U12 of an atom on an axis: the isotropic tensor is among those that are allowed."""
    atoms = quartz()
    jacobian = torch.zeros(2, 22, dtype=torch.float64)
    jacobian[0, 11 + 4], jacobian[0, 11 + 5], jacobian[0, 11 + 7] = 1.0, 1.0, 0.5
    jacobian[1, 11 + 6] = 1.0
    start = atoms.parameters.clone()
    start[1, U_STAR] = torch.tensor([9e-4, 9e-4, -4e-4, 4.5e-4, 0.0, 0.0], dtype=torch.float64)
    model = Crystal(atoms.with_parameters(start), jacobian, ("u11", "u33"))
    with torch.no_grad():
        model.shifts.copy_(isotropic_instead(model))
    torch.testing.assert_close(principal_displacements(model.atoms())[1], torch.full((3,), 0.008).double())


def test_nothing_to_do():
    atoms, negative = triclinic(), (-4e-4, 5e-4, 3e-4, 0.0, 0.0, 0.0)
    assert isotropic_instead(crystal(atoms)) is None  # all are positive
    assert isotropic_instead(crystal(atoms, Si0=negative, O1=-0.01, C2=negative)) is None  # none is
    held = crystal(atoms, Si0=negative)
    sites = Crystal(held.start, *free_parameters(atoms, ("x", "y", "z")))
    assert isotropic_instead(sites) is None  # not refined
    nothing = Crystal(held.start, *free_parameters(atoms, ()))
    assert isotropic_instead(nothing) is None
