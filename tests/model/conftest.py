"""Two synthetic data sets and the joint model of each."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from synthetic import dataset, fourfold, free_parameters, sweep, triclinic, turned, upright

from dials_hybrid.data import ATOM_PARAMETERS, AtomicModel, Dataset
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy
from dials_hybrid.model.thickness import Flat, Gamma, Normal, Wedge
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.model.thickness_network import Histogram, Neural

THICKNESS_MODELS = {
    "flat": lambda grid: Flat(grid, 210.0),
    "wedge": lambda grid: Wedge(grid, 390.0),
    "normal": lambda grid: Normal(grid, mean=200.0, width=120.0),
    "gamma": lambda grid: Gamma(grid, mean=220.0, width=130.0),
    "histogram": lambda grid: Histogram(grid, 200.0, 120.0, terms=6, strength=1.0, thin=60.0),
    "neural": lambda grid: Neural(grid, 200.0, 120.0, hidden=3, terms=2, strength=1.0, thin=60.0, seed=0),
}


@dataclass(frozen=True)
class Synthetic:
    dataset: Dataset
    atoms: AtomicModel
    refined: tuple[str, ...]  # names of the atomic parameters that the data depend on


def two_crystals() -> Synthetic:
    """Two crystals in general orientations."""
    atoms = triclinic()
    bases = turned(atoms, 0.3, -0.5, 0.2), turned(atoms, 0.9, 0.4, -0.2)
    sweeps = [sweep(basis, n=11, width=0.1, crystal=i) for i, basis in enumerate(bases)]
    return Synthetic(dataset(atoms, sweeps), atoms, ATOM_PARAMETERS)


def zone_axis() -> Synthetic:
    """A crystal whose middle step looks exactly along a fourfold axis; all beams are h k 0."""
    atoms = fourfold()
    data = dataset(atoms, [sweep(upright(atoms), n=5, width=0.02)], half=3)
    return Synthetic(data, atoms, ("x", "y", "uiso", "u11", "u22", "u12", "occ"))


DATASETS = {"two_crystals": two_crystals, "zone_axis": zone_axis}


@pytest.fixture(params=DATASETS)
def synthetic(request) -> Synthetic:
    return DATASETS[request.param]()


@pytest.fixture(params=THICKNESS_MODELS)
def thickness_model(request):
    """Function of a grid."""
    return THICKNESS_MODELS[request.param]


@pytest.fixture
def hybrid(synthetic):
    """Function of the name of a thickness model that gives the joint model of `synthetic`.

    All parameters have values that leave no derivative zero.
    """
    data, atoms = synthetic.dataset, synthetic.atoms

    def build(thickness: str = "normal", **options) -> Hybrid:
        crystals = data.steps.n_crystals
        grid = ThicknessGrid(600.0, 24)
        model = Hybrid(
            data,
            Crystal(atoms, *free_parameters(atoms, synthetic.refined)),
            Orientation(data.steps, n_nodes=2, mosaic_spread=0.03, restraint=0.1),
            [THICKNESS_MODELS[thickness](grid) for _ in range(crystals)],
            Scale(data.observations, crystals, 2),
            BeamPolicy(g_max=1.2, sg_max=0.02, segment_length=4),
            **options,
        )
        generator = torch.Generator().manual_seed(0)
        of_thickness = (parameter for each in model.thickness for parameter in each.parameters())
        for parameter in (*of_thickness, model.scale.log_scale):
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.data += 0.5 * noise
        return model

    return build
