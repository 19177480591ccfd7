"""The description of a structure, against cctbx's own reading of a CIF made from it."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("dials.array_family.flex")

from simulated_experiments import quartz_structure

from cctbx import adptbx

from dials_hybrid.io.truth import described


def test_numbers_are_those_of_the_structure():
    structure = quartz_structure()
    oxygen = structure.scatterers()[1]
    u_cart = (0.010, 0.020, 0.015, 0.001, -0.002, 0.003)
    oxygen.flags.set_use_u_iso(False)
    oxygen.flags.set_use_u_aniso(True)
    oxygen.u_star = adptbx.u_cart_as_u_star(structure.unit_cell(), u_cart)
    oxygen.u_iso = -1.0
    found = json.loads(json.dumps(described(structure)))
    assert found["cell"] == pytest.approx([4.913, 4.913, 5.405, 90, 90, 120])
    assert found["space_group"] == "P 32 2 1"
    assert [atom["label"] for atom in found["atoms"]] == ["Si1", "O1"]
    assert found["atoms"][0]["u_cart"] == pytest.approx([0.008] * 3 + [0.0] * 3)
    assert found["atoms"][1]["u_cart"] == pytest.approx(u_cart)
    assert found["atoms"][1]["site"] == pytest.approx([0.4135, 0.2669, 0.78577])
    assert found["atoms"][0]["occupancy"] == 1.0
