from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import small_problem

from dials_hybrid.io.archive import read_archive, write_archive
from dials_hybrid.machine import versions
from dials_hybrid.problem import PROBLEM, read_problem, read_result, write_problem, write_result
from dials_hybrid.refine.figures import figures, thickness_result
from dials_hybrid.refine.finished import Finished
from dials_hybrid.rocking.frames import VirtualFrames
from dials_hybrid.running import run_protocol


@pytest.fixture
def problem():
    return small_problem()


@pytest.fixture
def file(problem, tmp_path):
    path = tmp_path / "problem.npz"
    write_problem(path, problem)
    return path


@pytest.fixture(scope="module")
def outcome():
    problem = small_problem()
    return run_protocol(problem.inputs, problem.settings)[0]


@pytest.fixture
def result_file(outcome, problem, tmp_path):
    path = tmp_path / "result.npz"
    finished = Finished.of(
        outcome,
        problem.inputs,
        settings=problem.settings,
        seconds={"total": 1.5},
        versions=versions(),
        figures={},
    )
    write_result(path, finished)
    return path


def test_a_problem_comes_back_and_gives_the_same_refinement(file, problem, outcome):
    back = read_problem(file)
    assert back.settings == problem.settings
    assert back.inputs.names == problem.inputs.names
    assert back.inputs.measurement.rejected == {"too weak": 7}
    again = run_protocol(back.inputs, back.settings)[0]
    assert again.state == outcome.state
    assert torch.equal(again.fit.evaluation.intensity, outcome.fit.evaluation.intensity)


def test_virtual_frames_are_written_too(problem, tmp_path):
    frames = VirtualFrames(
        basis=problem.inputs.measurement.runs[0].basis(np.array([10.0, 12.0])),
        angle=np.array([-5.0, -3.0]),
        semi_angle=np.array([1.2, 1.2]),
        beam=np.array([0.0, 0.0, -1.0]),
        rotation_axis=np.array([1.0, 0.0, 0.0]),
        precession=False,
    )
    m = len(problem.inputs.measurement.reflections)
    reflections = replace(problem.inputs.measurement.reflections, frame=np.arange(m) % 2)
    measurement = replace(problem.inputs.measurement, runs=(frames,), reflections=reflections)
    path = tmp_path / "frames.npz"
    write_problem(path, replace(problem, inputs=replace(problem.inputs, measurement=measurement)))
    (back,) = read_problem(path).inputs.measurement.runs
    assert type(back) is VirtualFrames
    np.testing.assert_array_equal(back.basis, frames.basis)


def test_a_result_comes_back_as_the_same_outcome(result_file, problem, outcome):
    back, finished = read_result(result_file, problem.inputs)
    assert back.state == outcome.state and finished.seconds == {"total": 1.5}
    assert torch.equal(back.hybrid.vector(), outcome.hybrid.vector())
    assert torch.equal(back.fit.covariance, outcome.fit.covariance)
    assert finished.versions["dials_hybrid"]
    found, expected = (figures(o, thickness_result(o)) for o in (back, outcome))
    assert found == expected


def test_a_result_for_another_structure(result_file, problem):
    others = tuple(f"{name}'" for name in problem.inputs.names)
    with pytest.raises(ValueError, match="result for another structure: give the files and parameters"):
        read_result(result_file, replace(problem.inputs, names=others))


def test_a_result_for_other_reflections(result_file, problem):
    measurement = problem.inputs.measurement
    fewer = measurement.reflections.select(np.arange(40))
    inputs = replace(problem.inputs, measurement=replace(measurement, reflections=fewer))
    with pytest.raises(ValueError, match="result for other reflections"):
        read_result(result_file, inputs)


def test_a_problem_is_no_result(file, problem):
    with pytest.raises(ValueError, match="problem.npz is damaged, or not a dials.hybrid_refine result"):
        read_result(file, problem.inputs)


def test_another_version_says_so(file):
    header, arrays = read_archive(file, PROBLEM)
    write_archive(file, {**header, "version": 7}, arrays)
    with pytest.raises(ValueError, match="is version 7 of a .* and this program knows 1"):
        read_problem(file)


def settings(**changes):
    return lambda problem: replace(problem, settings=replace(problem.settings, **changes))


def atoms(**changes):
    def change(problem):
        inputs = problem.inputs
        changed = {name: value(getattr(inputs.atoms, name)) for name, value in changes.items()}
        return replace(problem, inputs=replace(inputs, atoms=replace(inputs.atoms, **changed)))

    return change


def measured(**changes):
    def change(problem):
        measurement = problem.inputs.measurement
        values = {name: value(getattr(measurement.reflections, name)) for name, value in changes.items()}
        reflections = replace(measurement.reflections, **values)
        inputs = replace(problem.inputs, measurement=replace(measurement, reflections=reflections))
        return replace(problem, inputs=inputs)

    return change


def run(**changes):
    def change(problem):
        measurement = problem.inputs.measurement
        runs = (replace(measurement.runs[0], **changes),)
        inputs = replace(problem.inputs, measurement=replace(measurement, runs=runs))
        return replace(problem, inputs=inputs)

    return change


NONSENSE = {
    "more beams than memory": settings(g_max=19.0, rocking_step=0.1),
    "no beams": settings(g_max=-1.0),
    "not a number": settings(sg_max=float("nan")),
    "more steps than memory": settings(rocking_step=1e-9),
    "more mosaic points than memory": settings(mosaic_points=10**6),
    "a step for no thickness": settings(thickness_maximum=1e-300),
    "no such tilts": settings(mosaic_tilts="modes"),
    "no such thickness model": settings(thickness_model="onion"),
    "a cell of nothing": atoms(cell=lambda cell: 0.0 * cell),
    "a huge cell": atoms(cell=lambda cell: 1e8 * cell),
    "an atom too few": atoms(parameters=lambda p: p[1:]),
    "parameters not finite": atoms(parameters=lambda p: p / 0.0),
    "no such form factor": atoms(form_factor_type=lambda t: t + 5),
    "negative form factor": atoms(form_factor_type=lambda t: t - 3),
    "no operations": atoms(rotations=lambda r: r[:0], translations=lambda t: t[:0]),
    "a column too short": measured(sigma=lambda s: s[1:]),
    "sigma zero": measured(sigma=lambda s: 0.0 * s),
    "a run that is not there": measured(run=lambda r: r + 1),
    "no width": measured(half_width=lambda w: w * 1e-12),
    "indices of two": measured(hkl=lambda hkl: hkl[:, :2]),
    "outside the table": measured(row=lambda row: row - 10),
    "an endless scan": run(width=1e12),
    "a scan without points": run(z=np.zeros(0)),
    "points without matrices": run(rotations=np.zeros((3, 3, 3))),
    "a beam that is none": run(beam=np.full(3, np.inf)),
    "matrices of nothing": run(b=np.full((31, 3, 3), np.nan)),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_refused_in_one_sentence(tmp_path, nonsense):
    path = tmp_path / "nonsense.npz"
    write_problem(path, NONSENSE[nonsense](small_problem()))
    with pytest.raises(ValueError, match="damaged, or not a dials.hybrid_refine problem") as refusal:
        read_problem(path)
    assert "\n" not in str(refusal.value)


def change(tree, path, value):
    for key in path[:-1]:
        tree = tree["fields"][key]
    tree["fields"][path[-1]] = value


@pytest.mark.parametrize(
    "path, value",
    [
        (("state", "grid"), {"tuple": [600.0, 10**12]}),
        (("state", "grid"), {"tuple": [1e300, 24]}),
        (("state", "vector"), [0.0]),
        (("state", "vector"), None),
        (("state", "stage"), "somewhere"),
        (("state", "thickness_model"), "onion"),
        (("state", "thickness_start"), []),
        (("settings", "mosaic_points"), 10**9),
        (("settings", "tilt_nodes"), 10**6),
        (("fit", "covariance"), {"tensor": "content.fit.evaluation.scale"}),
        (("fit", "goodness_of_fit"), "good"),
    ],
)
def test_results_that_make_no_sense(result_file, problem, path, value):
    kind = "dials.hybrid_refine result"
    header, arrays = read_archive(result_file, kind)
    change(header["content"], path, value)
    write_archive(result_file, header, arrays)
    with pytest.raises(ValueError, match=f"damaged, or not a {kind}"):
        read_result(result_file, problem.inputs)


@pytest.mark.parametrize("edge", [-3.0, -math.inf, math.nan])
def test_edges_of_windows_are_numbers_or_infinite(outcome, problem, tmp_path, edge):
    finished = Finished.of(
        outcome, problem.inputs, settings=problem.settings, seconds={}, versions=versions(), figures={}
    )
    edges = torch.full((len(finished.observations), 2), edge, dtype=torch.float64)
    path = tmp_path / "result.npz"
    write_result(path, replace(finished, observations=replace(finished.observations, edges=edges)))
    if math.isnan(edge):
        with pytest.raises(ValueError, match="damaged"):
            read_result(path, problem.inputs)
    else:
        assert torch.equal(read_result(path, problem.inputs)[1].observations.edges, edges)
