"""Options of the physics and of the data: from parameters to settings and measurements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("dials.array_family.flex")

from pets_files import PetsFile
from problems import small_problem

import libtbx.phil

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from dials_hybrid.io.pets import read_pets
from dials_hybrid.io.reflections import read_reflections
from dials_hybrid.io.structure import read_structure
from dials_hybrid.model.surface import normals
from dials_hybrid.phil import phil_scope
from dials_hybrid.prepare import all_measured, measured_frames, resolve_settings
from dials_hybrid.presets import PRESETS


def parameters(*text):
    return phil_scope.fetch(libtbx.phil.parse("\n".join(text))).extract()


def settings(*text):
    return resolve_settings(parameters(*text), small_problem().inputs.measurement.dataset(1.0, 1))


def test_absorption_is_off_fixed_or_refined():
    def chosen(*text):
        found = settings(*text)
        return found.absorption, found.absorption_restraint

    assert chosen() == (0.0, None)
    assert chosen("absorption.model=thermal_diffuse") == (1.0, None)
    assert chosen("absorption.model=thermal_diffuse", "absorption.factor=1.4") == (1.4, None)
    assert chosen("absorption.model=thermal_diffuse", "absorption.factor=Auto") == (1.0, 0.5)
    assert chosen("absorption.factor=Auto") == (0.0, None)


def test_surfaces():
    assert settings().surface is None
    assert settings("thickness.surface = 0 0 1").surface == ((0.0, 0.0, 1.0),)
    assert settings("thickness.surface = 0.2,-0.3,2").surface == ((0.2, -0.3, 2.0),)
    steps = small_problem().inputs.measurement.dataset(1.0, 1).steps
    (stage,) = settings("thickness.surface = stage").surface
    n = normals(torch.tensor([stage]).double(), steps, steps.basis)
    middle = int(steps.angle.abs().argmin())
    assert float(n[middle] @ steps.beam[0]) > 0.9999


@pytest.mark.parametrize(
    "text, message",
    [
        ("thickness.surface = 0 1", "neither three Miller indices nor stage"),
        ("thickness.surface = front", "neither three Miller indices nor stage"),
        ("thickness.surface = 0 0 0", "no direction"),
        ("thickness.surface = 0 0 1\nthickness.surface = 0 1 0", "given 2 times for 1 crystals"),
    ],
)
def test_surfaces_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        settings(text)


@pytest.fixture(scope="module")
def quartz(quartz_dials):
    path = str(quartz_dials / "integrated.expt")
    experiments = ExperimentListFactory.from_json_file(path, check_format=False)
    table = flex.reflection_table.from_file(str(quartz_dials / "integrated.refl"))
    return experiments, table, [], read_structure(quartz_dials / "quartz_P3221.cif")


def test_mirrored_images_exchange_h_and_minus_h(quartz):
    plain, flipped = (all_measured(*quartz, parameters(f"data.flip_images={x}")) for x in (False, True))
    assert np.array_equal(flipped.reflections.hkl, -plain.reflections.hkl)
    steps, other = (measurement.dataset(1.0, 1).steps for measurement in (plain, flipped))
    assert torch.equal(other.basis, -steps.basis)
    assert replace(other, basis=steps.basis).angle.equal(steps.angle)


def test_every_row_is_counted(quartz):
    found = all_measured(*quartz, parameters())
    assert found.n_rows == len(quartz[1]) == len(found.reflections) + sum(found.rejected.values())


def test_images_need_rocking_curves(quartz):
    with pytest.raises(ValueError, match="no rocking curves"):
        all_measured(*quartz, parameters("data.intensity=images"))


FRAMES = "data.frame_window=frame"


@pytest.mark.parametrize(
    ("text", "blurred"),
    [
        ([], False),
        ([FRAMES], True),
        ([FRAMES, "orientation.mosaic_directions=across"], False),
        ([FRAMES, "orientation.mosaic_points=1"], False),
        (["data.frame_window=curve", "orientation.mosaic_directions=both"], False),
        (list(PRESETS["jana"]), False),
    ],
)
def test_a_mosaic_spread_blurs_the_ends_of_virtual_frames(tmp_path, text, blurred):
    """Neighbouring frames of this file list the same intensities: by default they are whole curves."""
    (tmp_path / "made.cif_pets").write_text(PetsFile().text())
    data = read_pets(tmp_path / "made.cif_pets")
    (run,) = measured_frames(data, parameters(*text)).runs
    assert run.blurred == blurred
    precession = replace(data, frames=replace(data.frames, precession=True))
    assert not measured_frames(precession, parameters(*text)).runs[0].blurred


@pytest.mark.parametrize(
    ("text", "blurred"), [([], False), (["both"], True), (["across"], False), (["auto"], False)]
)
def test_a_mosaic_spread_blurs_whole_rocking_curves_on_request(quartz, text, blurred):
    text = [f"orientation.mosaic_directions={word}" for word in text]
    measurement = all_measured(*quartz, parameters(*text))
    assert measurement.blurred == blurred
    assert (measurement.dataset(1.0, 1).observations.edges is not None) == blurred


def test_a_mosaic_spread_blurs_single_images(quartz, monkeypatch):
    def read(table, sweeps, **limits):
        return read_reflections(table, sweeps, column="sum", half_width=[0.5], min_partiality=0.99, **limits)

    monkeypatch.setattr("dials_hybrid.prepare.read_rocking_curves", read)
    images = "data.intensity=images"
    assert all_measured(*quartz, parameters(images)).blurred
    assert not all_measured(*quartz, parameters(images, "orientation.mosaic_directions=across")).blurred
