"""Restraints of SHELX files, against the restraints that cctbx makes of the same files."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
import torch
from organic import ATOMS, alcohol

from cctbx import adp_restraints, geometry_restraints
from iotbx.shelx import parse_smtbx_refinement_model

from dials_hybrid.io.start_model import prepare_model
from dials_hybrid.io.structure import read_model
from dials_hybrid.io.tensors import atomic_model
from dials_hybrid.refine.restraints import deviations, restraint_rows

RING = "C1 C2 C3 C4 C5 C6"
IMAGE = "EQIV $1 1-X,1-Y,-Z\n"
KINDS = {
    "dfix": "DFIX 1.45 0.01 C1 C7 C7 C9\nDANG 2.5 C1 C8\n",
    "sadi": "SADI 0.03 C1 C2 C2 C3 C7 C8\nSADI C4 C5 C5 C6\n",
    "flat": f"FLAT 0.05 {RING} C7 C9\n",
    "simu": f"SIMU 0.02 0.05 {RING} C7 C8\n",
    "delu": "DELU 0.02 0.03\n",
    "rigu": "RIGU\n",
    "isor": "ISOR 0.05 C7 C8\n",
}


@pytest.fixture
def prepared(tmp_path):
    """A model whose atoms have been shaken, so that no residual is zero."""

    def read(instructions: str, atoms: str = ATOMS):
        (tmp_path / "model.res").write_text(alcohol(instructions, atoms))
        found = prepare_model(read_model(tmp_path / "model.res"))
        generator = np.random.default_rng(1)
        for scatterer in found.structure.scatterers():
            scatterer.site = tuple(np.add(scatterer.site, generator.normal(size=3) * 0.01))
            if scatterer.flags.use_u_aniso():
                scatterer.u_star = tuple(np.multiply(scatterer.u_star, generator.uniform(0.7, 1.3, size=6)))
        return found

    return read


def by_cctbx(structure, instructions: str, atoms: str = ATOMS) -> float:
    """Sum of weighted squared deviations."""
    builder = parse_smtbx_refinement_model(file=io.StringIO(alcohol(instructions, atoms)))
    cell, sites = structure.unit_cell(), structure.sites_cart()
    scatterers = structure.scatterers()
    displacements = adp_restraints.adp_restraint_params(
        sites_cart=sites,
        u_cart=scatterers.extract_u_cart(cell),
        u_iso=scatterers.extract_u_iso(),
        use_u_aniso=structure.use_u_aniso(),
    )
    total = 0.0
    for name, proxies in builder.proxies().items():
        for proxy in proxies:
            if name == "bond":
                total += geometry_restraints.bond(cell, sites, proxy).residual()
            elif name == "bond_similarity":
                found = geometry_restraints.bond_similarity(cell, sites, proxy)
                total += sum(w * d**2 for w, d in zip(proxy.weights, found.deltas(), strict=True))
            elif name == "planarity":
                total += geometry_restraints.planarity(cell, sites, proxy).residual()
            else:
                found = getattr(adp_restraints, name)(displacements, proxy)
                if name == "rigu":  # which knows no residual
                    total += proxy.weight * (
                        found.delta_33() ** 2 + found.delta_13() ** 2 + found.delta_23() ** 2
                    )
                else:
                    total += found.residual()
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_cctbx(prepared, kind):
    model = prepared(KINDS[kind])
    assert len(getattr(model.restraints, kind)) == len(model.restraints)
    rows = restraint_rows(model.restraints, atomic_model(model.structure))
    expected = by_cctbx(model.structure, KINDS[kind])
    assert expected > 0.01
    assert float((rows.residuals**2).sum()) == pytest.approx(expected, rel=1e-9)


def test_isotropic_and_mixed_pairs(prepared):
    atoms = "C1 1 .1 .2 .3 11 .02\nC2 1 .2 .27 .33 11 .03\nC3 1 .22 .35 .45 11 .02 .03 .04 .001 .002 .003\n"
    model = prepared("SIMU\n", atoms)
    rows = restraint_rows(model.restraints, atomic_model(model.structure))
    assert len(model.restraints.simu) == 2
    assert float((rows.residuals**2).sum()) == pytest.approx(
        by_cctbx(model.structure, "SIMU\n", atoms), rel=1e-7
    )


@pytest.mark.parametrize(
    "instructions, explicit",
    [
        ("FLAT C1 > C6\n", f"FLAT {RING}\n"),
        ("FLAT C6 < C1\n", f"FLAT {RING}\n"),
        ("ISOR $O\n", "ISOR O1\n"),
        ("DEFS 0.05\nDFIX 1.4 C1 C2\n", "DFIX 1.4 0.05 C1 C2\n"),
        ("SIMU C7 > LAST\n", "SIMU C7 C8 C9 O1\n"),
    ],
)
def test_ways_to_name_atoms(prepared, instructions, explicit):
    one, other = (prepared(text) for text in (instructions, explicit))
    sums = [
        float((restraint_rows(m.restraints, atomic_model(m.structure)).residuals ** 2).sum())
        for m in (one, other)
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-12) and sums[0] > 0.0


@pytest.mark.parametrize("line", ["DFIX 5.0 C1 C2_$1", "DFIX 5.0 C2_$1 C1", "SADI C1 C2_$1 C3_$1 C4"])
def test_images_by_symmetry(prepared, line):
    model = prepared(IMAGE + line + "\n")
    rows = restraint_rows(model.restraints, atomic_model(model.structure))
    expected = by_cctbx(model.structure, IMAGE + line + "\n")
    assert float((rows.residuals**2).sum()) == pytest.approx(expected, rel=1e-9)


def test_bonds_to_images_are_rigid_too(prepared):
    """Half a ring about a centre of symmetry: 3 bonds and 3 distances 1-3, in equal pairs."""
    angles = np.radians([0, 60, 120])
    sites = (
        np.array([np.cos(angles), np.sin(angles), 0 * angles]).T * 1.39 @ np.diag([1 / 10.24, 1 / 8.15, 1])
    )
    atoms = "".join(
        f"C{k + 1} 1 {x:.6f} {y:.6f} {z:.6f} 11 0.02 0.03 0.04 0.001 0.002 0.003\n"
        for k, (x, y, z) in enumerate(sites)
    )
    model = prepared("RIGU\n", atoms)
    pairs = [tuple(pair) for pair in model.restraints.rigu.atoms.tolist()]
    assert sorted(pairs) == [(0, 1), (0, 1), (0, 2), (0, 2), (1, 2), (1, 2)]
    images = model.restraints.rigu.rotation[:, 0, 0]
    assert sorted(images.tolist()) == [-1, -1, -1, 1, 1, 1]


def test_deviations_tell_distances(prepared):
    model = prepared(KINDS["dfix"] + KINDS["sadi"])
    atoms = atomic_model(model.structure)
    first, *_ = kept = deviations(model.restraints, atoms)
    sites = {s.label: s.site for s in model.structure.scatterers()}
    distance = model.structure.unit_cell().distance(sites["C1"], sites["C7"])
    assert (first.kind, first.labels, first.target, first.sigma) == ("DFIX", ("C1", "C7"), 1.45, 0.01)
    assert first.value == pytest.approx(distance)
    assert first.in_sigmas == pytest.approx((distance - 1.45) / 0.01)
    same = [each for each in kept if each.kind == "SADI"][3:]
    lengths = [
        model.structure.unit_cell().distance(sites[a], sites[b]) for a, b in (("C4", "C5"), ("C5", "C6"))
    ]
    assert [each.value for each in same] == pytest.approx(lengths)
    assert same[0].target == pytest.approx(np.mean(lengths))


def test_residues(prepared):
    first = "C1 1 .1 .2 .3 11 .02\nC2 1 .2 .27 .33 11 .03\n"
    second = "C1 1 .6 .2 .3 11 .02\nC2 1 .7 .27 .33 11 .03\n"
    atoms = f"RESI 1 ONE\n{first}RESI ONE 2\n{second}RESI 0\n"
    model = prepared("DFIX_ONE 1.5 C1 C2\nDFIX 1.6 C1_1 C2_2\nDFIX_2 1.7 C1 C2\n", atoms)
    assert model.restraints.dfix.atoms.tolist() == [[0, 1], [2, 3], [0, 3], [2, 3]]
    assert model.restraints.dfix.target.tolist() == [1.5, 1.5, 1.6, 1.7]


def test_no_restraints(prepared):
    assert prepared("").restraints is None


@pytest.mark.parametrize("line", ["DFIX 1.5 C1 X9", "DFIX -2.5 C1 C2", "DFIX 21.0 C1 C2"])
def test_left_out_with_a_warning(prepared, caplog, line):
    logger = logging.getLogger("dials.hybrid_refine.io.restraints")
    logger.addHandler(caplog.handler)
    assert prepared(line + "\n").restraints is None
    logger.removeHandler(caplog.handler)
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    "line", ["DFIX C1 C2", "DFIX 1.5 C1", "SADI C1 C1", "FLAT C1 C2 C3", "DFIX 1.5 0 C1 C2", "SIMU -1"]
)
def test_bad_restraints_are_one_sentence_with_their_line(prepared, line):
    with pytest.raises(ValueError, match=f"line 8: this {line[:4]} cannot be understood"):
        prepared(line + "\n")


def test_derivatives_reach_the_independent_parameters(prepared):
    """Riding hydrogen atoms and special positions included: by finite differences of x."""
    model = prepared(KINDS["dfix"] + "DFIX 1.1 H7 C9\n" + KINDS["simu"] + KINDS["rigu"])
    atoms, jacobian = atomic_model(model.structure), model.constraints.jacobian
    by_x = restraint_rows(model.restraints, atoms).by(jacobian)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(len(jacobian), generator=generator, dtype=torch.float64)
    step = (jacobian.T @ direction).reshape(atoms.parameters.shape)
    values = [
        restraint_rows(model.restraints, atoms.with_parameters(atoms.parameters + h * step)).residuals
        for h in (-1e-6, 1e-6)
    ]
    torch.testing.assert_close(by_x @ direction, (values[1] - values[0]) / 2e-6, rtol=1e-6, atol=1e-4)


def test_same_is_sadi_of_bonds_and_further_neighbours(prepared):
    same = ATOMS.replace("\nC4 ", "\nSAME 0.02 0.05 C1 > C3\nC4 ")
    explicit = "SADI 0.02 C1 C2 C4 C5\nSADI 0.02 C2 C3 C5 C6\nSADI 0.05 C1 C3 C4 C6\n"
    one, other = prepared("", same).restraints.sadi, prepared(explicit).restraints.sadi
    for name in ("atoms", "sigma", "group", "rotation", "translation"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    one = prepared("", same.replace("0.02 0.05 ", "")).restraints.sadi
    assert one.sigma.tolist() == pytest.approx([0.02] * 4 + [0.04] * 2)


@pytest.mark.parametrize(
    "before, names, message",
    [("C9", "C1 > C6", "2 atoms follow it and it names 6"), ("C4", "C1 C4", "atoms that it names follow it")],
)
def test_same_needs_another_group_behind_it(prepared, before, names, message):
    with pytest.raises(ValueError, match=f"SAME cannot be understood .*{message}"):
        prepared("", ATOMS.replace(f"\n{before} ", f"\nSAME {names}\n{before} "))
