"""A small organic molecule with riding hydrogen atoms and restraints, from a .res file to a fit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from simulated import SETTINGS, Scan, simulate

from dials_hybrid.data import Restraints
from dials_hybrid.io.plain import from_plain, to_plain
from dials_hybrid.io.start_model import prepare_model
from dials_hybrid.io.structure import read_model
from dials_hybrid.io.tensors import atomic_model, updated_structure
from dials_hybrid.model.simulation import silent
from dials_hybrid.model.thickness import Wedge
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.joint_fit import JointFit
from dials_hybrid.refine.restraints import deviations
from dials_hybrid.refine.state import Inputs, State
from dials_hybrid.refine.target import Weighting

RES = """\
TITL ethanol, made up
CELL 0.0251 5.1 4.6 5.4 82 97 106
LATT -1
SFAC C H O
UNIT 2 6 1
RESTRAINTS
FVAR 1.0
C1   1  0.31511 0.22359 0.18773 11.0 0.02
AFIX 137
H1A  2  0.18947 0.10209 0.30422 11.0 -1.5
H1B  2  0.24459 0.38781 0.10336 11.0 -1.5
H1C  2  0.33690 0.09979 0.06650 11.0 -1.5
AFIX 0
C2   1  0.59079 0.35178 0.32861 11.0 0.02
AFIX 23
H2A  2  0.57044 0.47865 0.45042 11.0 -1.2
H2B  2  0.71826 0.47634 0.21209 11.0 -1.2
AFIX 0
O3   3  0.69375 0.10530 0.45344 11.0 0.02
AFIX 147
H3   2  0.84257 0.17294 0.52988 11.0 -1.5
AFIX 0
HKLF 4
END
"""
GRID = (500.0, 16)


@pytest.fixture
def read(tmp_path):
    def read(restraints: str = "", text: str = RES):
        (tmp_path / "model.res").write_text(text.replace("RESTRAINTS\n", restraints))
        return prepare_model(read_model(tmp_path / "model.res"), adp="isotropic")

    return read


@pytest.fixture
def measured(read):
    """The scan of the true crystal, and its intensities."""
    truth = atomic_model(read().structure)
    scan = Scan(truth, (0.3, -0.5, 0.2), 25.0)
    return scan, simulate(scan, Wedge(ThicknessGrid(*GRID), 300.0))


def fit(model, measured) -> tuple[JointFit, object]:
    scan, (intensity, sigma) = measured

    def dataset(step: float, mosaic_points: int, mosaic_tilts: str):
        data = scan.dataset(step, mosaic_points, mosaic_tilts)
        observations = replace(data.observations, intensity=intensity, sigma=sigma)
        return replace(data, observations=observations)

    free = model.constraints
    inputs = Inputs(
        SimpleNamespace(dataset=dataset),
        atomic_model(model.structure),
        free.jacobian,
        free.names,
        free.origin_shifts,
        model.restraints,
    )
    build = Builder(inputs, SETTINGS, silent)
    hybrid = build.hybrid(build.dataset(GRID[0], 1), State("scan", None, GRID, "wedge", [[280.0]]))
    weighting = Weighting({"gain": 1.0, "instability": 0.0, "floor": 0.0}, None)
    joint = JointFit(hybrid, weighting, inputs.origin_shifts, inputs.restraints)
    joint.set_scale()
    return joint, joint.refine(stage="joint", max_cycles=8, tolerance=1e-4, on_cycle=lambda cycle: None)


def displaced(model):
    """The atoms moved by 0.05 A, hydrogen with its pivots."""
    structure, free = model.structure, model.constraints
    generator = torch.Generator().manual_seed(3)
    sites = torch.tensor([name[-2:] in (".x", ".y", ".z") for name in free.names])
    x = torch.randn(len(free.names), generator=generator, dtype=torch.float64) * sites * 0.01
    x = x - free.origin_shifts.T @ (free.origin_shifts @ x)
    table = atomic_model(structure).parameters
    return replace(
        model, structure=updated_structure(structure, table + (free.jacobian.T @ x).reshape(table.shape))
    )


def test_recovered(read, measured):
    """Sites, hydrogen included, from 0.05 A away: what says most is how far a hydroxyl group is turned."""
    model = displaced(read("DFIX 1.52 0.02 C1 C2\nSADI C1 H1A C1 H1B\n"))
    joint, result = fit(model, measured)
    errors = {}
    for name, structure in (
        ("before", model.structure),
        ("after", updated_structure(model.structure, joint.hybrid.crystal.atoms().parameters)),
    ):
        for scatterer, site in zip(structure.scatterers(), measured[0].atoms.parameters[:, :3], strict=True):
            distance = structure.unit_cell().distance(scatterer.site, tuple(site.tolist()))
            errors[name, scatterer.label] = distance
    assert max(errors["before", label] for label in ("C1", "C2", "O3")) > 0.04
    assert max(errors["after", label] for label in ("C1", "C2", "O3")) < 0.006
    assert max(error for (when, _), error in errors.items() if when == "after") < 0.03
    assert 0.8 < result.goodness_of_fit < 1.2


def test_a_wrong_restraint_pulls(read, measured):
    """Tightly held at 1.40 A, a bond of 1.52 A ends there; with a wide s.u. it follows the data."""
    lengths = {}
    for sigma in (0.0005, 0.5):
        model = read(f"DFIX 1.40 {sigma} C1 C2\n")
        joint, _ = fit(model, measured)
        (kept,) = deviations(model.restraints, joint.hybrid.crystal.atoms())
        lengths[sigma] = kept.value
    assert lengths[0.0005] == pytest.approx(1.40, abs=0.01)
    assert lengths[0.5] == pytest.approx(1.52, abs=0.01)


def test_restraints_count_in_the_normal_matrix(read, measured):
    """A restraint lowers the s.u.s of the coordinates that it holds, and the number of parameters."""
    results = {}
    for text in ("", "DFIX 1.52 0.0002 C1 C2\n"):
        model = read(text)
        joint, result = fit(model, measured)
        names = model.constraints.names
        variance = result.covariance.diagonal()[joint.hybrid.slices()["crystal"]]
        results[text] = float(variance[names.index("C2.x")]), result.n_parameters
    (free, n), (held, m) = results.values()
    assert held < 0.7 * free and 0.3 < n - m < 1.1


def test_restraints_survive_a_problem_file(read):
    restraints = read("DFIX 1.52 C1 C2\nRIGU\nISOR\n").restraints
    arrays = {}
    again = from_plain(to_plain(restraints, arrays, "restraints"), arrays, Restraints)
    for kind, kept in vars(restraints).items():
        for name, values in vars(kept).items():
            assert torch.equal(getattr(getattr(again, kind), name), values)
