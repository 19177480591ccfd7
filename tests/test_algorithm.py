"""The library: what it promises about repetition, resumption and its inputs.

Cheap settings, but every stage, the network's included.
"""

from __future__ import annotations

import json

import pytest

pytest.importorskip("dials.array_family.flex")

import libtbx.phil

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

import dials_hybrid.running
from dials_hybrid import HybridRefinement
from dials_hybrid.command_line.hybrid_refine import run
from dials_hybrid.io.structure import read_structure
from dials_hybrid.phil import phil_scope

CHEAP = [
    "thickness.model=neural",
    "refinement.max_cycles=1",
    "beams.g_max=1.2",
    "data.d_min=1.0",
    "orientation.mosaic_points=1",
    "nproc=1",
]
STAGES = ["scan", "orientation", "joint", "thickness", "final"]


def parameters(*text):
    return phil_scope.fetch(libtbx.phil.parse("\n".join([*CHEAP, *text]))).extract()


@pytest.fixture(scope="module")
def files(quartz_dials):
    return [
        [str(quartz_dials / "integrated.expt")],
        [str(quartz_dials / "integrated.refl")],
        str(quartz_dials / "quartz_P3221.cif"),
    ]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def refined(files, tmp_path_factory):
    """The result that the other ways of getting it are compared with."""
    params = parameters(f"output.checkpoint={tmp_path_factory.mktemp('refined') / 'checkpoint'}")
    return HybridRefinement.from_files(*files, params).run()


def assert_same(result, expected, tolerance=1e-6):
    for key in ("r1_obs", "r1_all", "wr_all", "r1_free", "goodness_of_fit"):
        assert result.summary[key] == pytest.approx(expected.summary[key], rel=tolerance), key
    for found, atom in zip(
        result.xray_structure.scatterers(), expected.xray_structure.scatterers(), strict=True
    ):
        assert found.site == pytest.approx(atom.site, abs=tolerance)
        assert found.u_star == pytest.approx(atom.u_star, abs=tolerance)
    column = "intensity.dyn.value"
    found, intensity = (r.reflections[column].as_numpy_array() for r in (result, expected))
    assert abs(found - intensity).max() <= tolerance * intensity.max()


def test_the_result_has_what_the_interface_promises(refined):
    assert 0.03 < refined.r1_obs < 0.08
    n = len(refined.constraints.names)
    assert refined.covariance.shape == (n, n)
    assert refined.thickness.model == "neural"
    assert len(refined.experiments) == 1
    assert "intensity.dyn.scale" in refined.reflections
    timed = [stage for stage in refined.summary["seconds"] if stage != "displacements"]  # not always needed
    assert timed == [*STAGES, "hand", "total"]
    assert [cycle["stage"] for cycle in refined.summary["history"]][-1] == "final"


def test_the_command_gives_the_same(files, refined, here):
    (expt,), (refl,), cif = files
    run([expt, refl, cif, *CHEAP])
    summary = json.loads((here / "dials.hybrid_refine.json").read_text())
    for key in ("r1_obs", "r1_all", "wr_all", "thickness_mean", "n_used", "n_parameters"):
        assert summary[key] == pytest.approx(refined.summary[key], rel=1e-6), key
    cif_structure = read_structure("hybrid_refined.cif")
    for found, atom in zip(cif_structure.scatterers(), refined.xray_structure.scatterers(), strict=True):
        assert found.site == pytest.approx(atom.site, abs=6e-4)  # as many digits as the s.u. allows


def test_repeated_with_objects_the_result_is_the_same_and_they_are_left_alone(files, refined, here):
    (expt,), (refl,), cif = files
    experiments = ExperimentList.from_file(expt, check_format=False)
    reflections = flex.reflection_table.from_file(refl)
    structure = read_structure(cif)
    a_before = experiments[0].crystal.get_A()
    columns = set(reflections.keys())
    flags = list(reflections["flags"])
    sites = list(structure.sites_frac())
    assert_same(HybridRefinement(experiments, reflections, structure, parameters()).run(), refined)
    assert experiments[0].crystal.get_A() == a_before
    assert set(reflections.keys()) == columns
    assert list(reflections["flags"]) == flags
    assert list(structure.sites_frac()) == sites
    assert not structure.scatterers()[0].flags.use_u_aniso()


def test_the_number_of_processes_does_not_matter(files, refined, here):
    result = HybridRefinement.from_files(*files, parameters("nproc=2")).run()
    assert_same(result, refined, tolerance=1e-5)  # single precision, added up in another order


@pytest.mark.parametrize("stage", ["scan", "orientation", "joint", "thickness"])
def test_an_interrupted_run_resumes_to_the_same_result(files, refined, here, monkeypatch, stage):
    write_json = dials_hybrid.running.write_json

    def stop_after(filename, content):
        write_json(filename, content)
        if content["stage"] == stage:
            raise KeyboardInterrupt

    monkeypatch.setattr("dials_hybrid.running.write_json", stop_after)
    with pytest.raises(KeyboardInterrupt):
        HybridRefinement.from_files(*files, parameters()).run()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    checkpoint = here / "dials.hybrid_refine.checkpoint"
    assert json.loads(checkpoint.read_text())["stage"] == stage
    resumed = HybridRefinement.from_files(*files, parameters(f"resume={checkpoint}")).run()
    assert_same(resumed, refined)
    stages = [cycle["stage"] for cycle in resumed.summary["history"]]
    assert stages == [cycle["stage"] for cycle in refined.summary["history"]]


def test_a_finished_run_resumes_to_its_result(files, refined, here):
    """It repeats the last stage."""
    HybridRefinement.from_files(*files, parameters()).run()
    params = parameters("resume=dials.hybrid_refine.checkpoint", "output.checkpoint=None")
    resumed = HybridRefinement.from_files(*files, params).run()
    assert_same(resumed, refined)


def test_the_seed_draws_another_free_set(files, refined, here):
    result = HybridRefinement.from_files(*files, parameters("seed=1")).run()
    assert result.summary["r1_free"] != pytest.approx(refined.summary["r1_free"], rel=1e-3)
    assert result.r1_obs == pytest.approx(refined.r1_obs, abs=0.005)


def test_the_free_set_has_the_size_asked_for(refined):
    assert 0.02 < refined.summary["n_free"] / refined.summary["n_used"] < 0.09


def test_without_a_checkpoint_nothing_is_written(files, here):
    HybridRefinement.from_files(*files, parameters("output.checkpoint=None", "max_cycles=0")).run()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("index", [0, 1, 2])
def test_missing_files_are_named(files, index):
    wrong = [*files]
    wrong[index] = ["missing.file"] if index < 2 else "missing.cif"
    with pytest.raises(ValueError, match=r"missing\.(file|cif)"):
        HybridRefinement.from_files(*wrong)


def test_experiments_of_different_wavelengths_are_refused(files):
    experiments = ExperimentList.from_file(files[0][0], check_format=False)
    second = ExperimentList.from_file(files[0][0], check_format=False)
    second[0].identifier = "second"
    second[0].beam.set_wavelength(0.0197)
    experiments.extend(second)
    reflections = flex.reflection_table.from_file(files[1][0])
    with pytest.raises(ValueError, match="different wavelengths"):
        HybridRefinement(experiments, reflections, read_structure(files[2])).run()
