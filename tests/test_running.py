"""What a run says, times and leaves behind; `command_line` has what it refuses to go on from."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from problems import small_problem

from dials_hybrid.running import run_protocol


@pytest.fixture
def problem():
    problem = small_problem()
    return problem.inputs, replace(problem.settings, max_cycles=1)


def test_stages_are_said_and_timed(problem, caplog):
    with caplog.at_level(logging.INFO):
        _, seconds = run_protocol(*problem)
    said = [record.getMessage().strip() for record in caplog.records]
    # In so few cycles a displacement becomes negative.
    titles = [
        "Thickness scan",
        "Orientation, mosaicity",
        "Structure, orientation",
        "Once more, displacements",
        "Everything, in fine",
    ]
    places = [next(i for i, line in enumerate(said) if line.startswith(title)) for title in titles]
    assert places == sorted(places)
    assert list(seconds)[:5] == ["scan", "orientation", "joint", "displacements", "final"]
    assert all(value > 0.0 for value in seconds.values())
    assert said.count("Thickness considered: up to 600 A") == 1
    assert sum(line.startswith("cycle") for line in said) == 4  # one header a stage with cycles


def test_the_checkpoint_goes_on_where_it_was_written(problem, tmp_path):
    filename = tmp_path / "checkpoint"
    whole, _ = run_protocol(*problem, checkpoint=filename)
    content = json.loads(filename.read_text())
    assert content["stage"] == "joint"
    again, seconds = run_protocol(*problem, resume=filename)
    assert "joint" not in seconds and "final" in seconds
    assert again.hybrid.vector().tolist() == whole.hybrid.vector().tolist()


def test_a_checkpoint_of_something_else_is_refused(problem, tmp_path):
    filename = tmp_path / "checkpoint"
    filename.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(ValueError, match="checkpoint"):
        run_protocol(*problem, resume=filename)


def test_a_checkpoint_from_another_start_is_refused(problem, tmp_path):
    """Its numbers are shifts."""
    inputs, settings = problem
    filename = tmp_path / "checkpoint"
    run_protocol(inputs, settings, checkpoint=filename)
    parameters = inputs.atoms.parameters.clone()
    parameters[0, 0] += 1e-4
    moved = replace(inputs, atoms=inputs.atoms.with_parameters(parameters))
    with pytest.raises(ValueError, match="belongs to a refinement from another start model or orientation"):
        run_protocol(moved, settings, resume=filename)
    filename.write_text(json.dumps(json.loads(filename.read_text()) | {"start": ["0.1"]}))
    with pytest.raises(ValueError, match="another start model"):
        run_protocol(inputs, settings, resume=filename)
