"""Real virtual frames: their geometry, and R values that an independent prototype reached, unrefined.

The prototype took 2575 of the rows of `quartz_pets`, 1127 of them observed, by the distance of g from the
rotation axis and not by its part across the beam: a handful of rows at the limit are others.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("dials.array_family.flex")

from dials_hybrid.io.constraints import constraints
from dials_hybrid.io.pets import read_pets, usable_reflections
from dials_hybrid.io.structure import prepare_structure, read_structure
from dials_hybrid.io.tensors import atomic_model
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.simulation import BeamPolicy, Simulation
from dials_hybrid.model.thickness import Normal
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.refine.rvalues import amplitude_weights, observed, r_values
from dials_hybrid.rocking.measurement import Measurement

FILES = {
    "quartz_pets": ("quartz.cif_pets", 99, 100.3, 1.0),
    "quartz_dials": ("dials_dyn.cif_pets", 99, 100.0, 1.0),
    "cspbbr3_pets": ("cspbbr3_dyn.cif_pets", 59, 120.0, 1.5),
}


@pytest.mark.parametrize("name", FILES)
def test_geometry_of_real_files(name, request):
    filename, n_frames, scan, semi_angle = FILES[name]
    data = read_pets(request.getfixturevalue(name) / filename)
    assert len(data.frames) == n_frames
    assert data.frames.range == pytest.approx(scan, abs=0.1)
    assert (data.frames.semi_angle == semi_angle).all()
    # K = +z instead of -z lets hardly any of the listed reflections cross the Ewald sphere
    crossing = {}
    for sign in (1, -1):
        s_g, swept = data.frames.excitation(data.frame, sign * data.hkl, data.wavelength)
        crossing[sign] = (np.abs(s_g) < swept).mean()
    assert crossing[1] > 2.0 * crossing[-1]


@pytest.mark.parametrize("name", FILES)
def test_frames_list_the_same_intensity_again(name, request):
    """Why rows share a measurement: a reflection has one intensity, whichever of two frames lists it."""
    data = read_pets(request.getfixturevalue(name) / FILES[name][0])
    reflections, _ = usable_reflections(data, rsg=0.9, dsg=0.0, d_min=None, d_max=None)
    again = reflections.select(reflections.share < 1.0)
    order = np.lexsort((again.frame, *again.hkl.T))
    same = (np.diff(again.hkl[order], axis=0) == 0).all(1) & (np.diff(again.frame[order]) == 1)
    assert same.sum() > 1000
    assert (np.diff(again.intensity[order])[same] == 0.0).all()


def sums(folder, model, rsg=0.9):
    """Observations and rocking sums (M, T) of a model as it stands: 42 midpoint steps a frame."""
    data = read_pets(folder / "quartz.cif_pets")
    reflections, _ = usable_reflections(data, rsg=rsg, dsg=0.0015, d_min=0.5, d_max=None)
    dataset = Measurement((data.frames,), reflections, data.wavelength, len(data)).dataset(2.0 / 42.0, 1)
    structure = prepare_structure(read_structure(model), adp="as_is")
    atoms, free = atomic_model(structure), constraints(structure)
    crystal = Crystal(atoms, free.jacobian, free.names)
    origin = torch.zeros(1, 3, dtype=torch.long)
    simulation = Simulation(
        dataset,
        atoms,
        dataset.steps.basis,
        BeamPolicy(g_max=2.0, sg_max=0.01),
        mean_inner_potential=float(crystal.potential(origin, data.wavelength, False).u.real),
        dtype=torch.float32,
    )
    grid = ThicknessGrid(1500.0, 48)
    potential = crystal.potential(simulation.table.hkl, data.wavelength, False)
    return dataset.observations, grid, simulation.run(potential, dataset.steps.basis, grid.nodes).intensity


def r1_obs(observations, calculated, per_frame: bool) -> float:
    """With scales by weighted least squares on F over the observed reflections."""
    i, sigma = observations.intensity, observations.sigma
    w = amplitude_weights(i, sigma) * observed(i, sigma)
    f_o, f_c = i.clamp(min=0.0).sqrt(), calculated.sqrt()
    group = observations.frame if per_frame else torch.zeros_like(observations.frame)
    empty = torch.zeros(int(group.max()) + 1, dtype=w.dtype)
    scale = empty.index_add(0, group, w * f_o * f_c) / empty.index_add(0, group, w * f_c**2)
    return r_values(i, sigma, scale[group] ** 2 * calculated).r1_obs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "plate", "normal"),
    [
        ("quartz_P3221.cif", (0.083, 0.105), (0.071, 0.089)),
        ("quartz_P3121.cif", (None, 0.120), (0.087, 0.103)),
    ],
)
def test_published_r_of_unrefined_quartz(quartz_pets, quartz_dials, model, plate, normal):
    observations, grid, intensity = sums(quartz_pets, quartz_dials / model)
    assert len(observations) == pytest.approx(2575, abs=6)
    assert int(observed(observations.intensity, observations.sigma).sum()) == pytest.approx(1127, abs=3)
    with torch.no_grad():
        weights = Normal(grid, 100.0, 600.0)(torch.zeros(4, dtype=torch.float64))
    plates = {t: intensity @ grid.at(torch.tensor(float(t))) for t in range(400, 1000, 25)}
    for expected, found, per_frame in zip(plate, normal, (True, False), strict=True):
        assert r1_obs(observations, intensity @ weights, per_frame) == pytest.approx(found, abs=0.002)
        if expected is not None:
            best = min(r1_obs(observations, calculated, per_frame) for calculated in plates.values())
            assert best == pytest.approx(expected, abs=0.005)
