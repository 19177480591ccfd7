"""A refinement from its inputs to its outcome, with log and checkpoints; needs neither DIALS nor cctbx."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dials_hybrid.io.checkpoint import read_checkpoint, write_json
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.simulation import Progress, silent
from dials_hybrid.refine.joint_fit import Cycle
from dials_hybrid.refine.protocol import Outcome, Protocol
from dials_hybrid.refine.state import Inputs, Settings, State
from dials_hybrid.refine.thickness_choice import Candidate
from dials_hybrid.report import tables

logger = logging.getLogger("dials.hybrid_refine.running")

_CHECKPOINT_FORMAT = "dials.hybrid_refine checkpoint"
# Settings that give a checkpoint's numbers their meaning, and the parameters behind them.
_SAME_ON_RESUME = {
    "tilt_nodes": "orientation.tilt_nodes",
    "mosaic_points": "orientation.mosaic_points",
    "mosaic_tilts": "orientation.mosaic_tilts",
    "scale_nodes": "scale.nodes",
    "frame_tilt_restraint": "orientation.frame_restraint",
    "frame_scale_restraint": "scale.frame_restraint",
    "network_hidden": "thickness.network.hidden",
    "network_terms": "thickness.network.terms",
    "free_fraction": "data.free_fraction",
    "seed": "seed",
    "thickness_model": "thickness.model",
    "absorption_restraint": "absorption.factor",
    "n_displacements": "structure.overall_displacements",
}
_STAGE_TITLES = {
    "scan": "Thickness scan",
    "orientation": "Orientation, mosaicity, thickness and scale",
    "joint": "Structure, orientation, thickness and scale",
    "mosaicity": "Once more, from the mosaic spread of the start, if that fits better",
    "displacements": "Once more, displacements that were not positive made isotropic, if that fits better",
    "thickness": "Distribution of thickness",
    "final": "Everything, in fine rocking steps",
    "given": "The structure as given again, since R1_free rose",
    "hand": "The other hand of the structure",
}


def run_protocol(
    inputs: Inputs,
    settings: Settings,
    *,
    checkpoint: str | Path | None = None,
    resume: str | Path | None = None,
    progress: Progress = silent,
) -> tuple[Outcome, dict[str, float]]:
    """Refine; say in the log how it goes.

    Args:
        checkpoint: file that is written after each stage.
        resume: checkpoint of an interrupted run to continue.
        progress: wraps long loops, to show them.

    Returns:
        The refined model and the seconds each stage took.

    Raises:
        ValueError: `resume` does not belong to this refinement, or the data do not fit the model at all.
    """
    identity = _identity(inputs, settings)
    seconds: dict[str, float] = {}
    clock: dict[str, Any] = {"stage": "", "since": time.time(), "header": "", "grid": None}

    def close_stage() -> None:
        if clock["stage"]:
            before = seconds.get(clock["stage"], 0.0)
            seconds[clock["stage"]] = before + time.time() - clock["since"]

    def on_stage(stage: str) -> None:
        close_stage()
        clock.update(stage=stage, since=time.time())
        logger.info(f"\n{_STAGE_TITLES[stage]}")

    def on_cycle(cycle: Cycle) -> None:
        if clock["header"] != clock["stage"]:
            clock["header"] = clock["stage"]
            logger.info(tables.CYCLE_HEADER)
        logger.info(tables.cycle_line(cycle))

    def on_comparison(candidates: list[Candidate]) -> None:
        logger.info(tables.comparison_table([asdict(candidate) for candidate in candidates]))

    def on_checkpoint(state: State) -> None:
        if state.stage == "scan":
            assert state.scan is not None
            logger.info(tables.scan_table(state.scan.best, state.scan.best_chi_squared))
        if state.grid != clock["grid"]:
            clock["grid"] = state.grid
            logger.info(f"Thickness considered: up to {state.grid[0]:.0f} A")
        if checkpoint:
            write_json(checkpoint, {**identity, **state.as_dict()})

    protocol = Protocol(
        inputs,
        settings,
        on_stage=on_stage,
        on_model=_log_model,
        on_cycle=on_cycle,
        on_comparison=on_comparison,
        on_checkpoint=on_checkpoint,
        progress=progress,
    )
    start = _resumed(resume, identity, settings) if resume else None
    outcome = protocol.run(start)
    close_stage()
    if outcome.hands:
        _log_hands(outcome.hands.as_dict())
    return outcome, seconds


def _log_model(hybrid: Hybrid) -> None:
    simulation, policy = hybrid.simulation, hybrid.policy
    n_beams = simulation.n_beams
    logger.info(
        f"{len(hybrid.dataset.steps)} rocking steps, {sum(n_beams) / len(n_beams):.0f} beams on average "
        f"and {max(n_beams)} at most (|g| < {policy.g_max:.2f}, |S_g| < {policy.sg_max:g} 1/A), "
        f"{len(hybrid.grid)} thicknesses"
    )
    nproc = simulation.plan.nproc
    logger.info(
        f"Derivatives of {len(hybrid.dataset.observations)} intensities by {len(hybrid.vector())} parameters "
        f"take about {hybrid.expected_seconds():.2g} s and at most {simulation.plan.memory:.2g} GiB"
        + (", and a file" if simulation.plan.in_file else "")
    )
    if nproc < hybrid.nproc:
        logger.warning(f"Only {nproc} of {hybrid.nproc} processes fit into memory={hybrid.memory:.2g} GiB")
    missed = int((~simulation.covered()).sum())
    if missed:
        logger.warning(
            f"{missed} observations are never among the beams and count as calculated zero: "
            "raise beams.sg_max or beams.g_max"
        )


def _log_hands(hands: dict) -> None:
    figures = (
        f"R1_obs {hands['r1_obs']:.2%} against {hands['r1_obs_other']:.2%}, z-score of "
        f"observed reflections {hands['z_score_observed']:.1f} "
        f"({hands['z_score_observed_noise_adjusted']:.1f} without those that noise decides), "
        f"of all {hands['z_score']:.1f}, probability {hands['probability']:.4f}"
    )
    if not hands["determined"]:
        logger.warning(f"\nThe data cannot tell the two hands of the structure apart: {figures}")
    elif hands["hand"] == "as given":
        logger.info(f"\nThe data prefer the hand given: {figures}")
    else:
        logger.warning(f"\nThe data prefer the other hand: invert the start model; {figures}")


def _identity(inputs: Inputs, settings: Settings) -> dict:
    """What a checkpoint and the run that resumes it must have in common."""
    return {
        "format": _CHECKPOINT_FORMAT,
        "names": list(inputs.names),
        "start": inputs.start().tolist(),
        "n_observations": len(inputs.measurement.dataset(1.0, 1).observations),
        "settings": {name: getattr(settings, name) for name in _SAME_ON_RESUME},
    }


def _same_numbers(found: Any, expected: list[float]) -> bool:
    return (
        isinstance(found, list)
        and len(found) == len(expected)
        and all(
            isinstance(x, float) and math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-8)
            for x, y in zip(found, expected, strict=True)
        )
    )


def _resumed(filename: str | Path, identity: dict, settings: Settings) -> State:
    content = read_checkpoint(filename)
    try:
        if not isinstance(content.get("settings"), dict):
            raise ValueError("the checkpoint is damaged")
        state = State.from_dict(content)
    except ValueError as error:
        raise ValueError(f"{filename}: {error}") from error
    if content.get("names") != identity["names"]:
        raise ValueError(f"{filename} belongs to a refinement of another structure")
    if not _same_numbers(content.get("start"), identity["start"]):
        raise ValueError(f"{filename} belongs to a refinement from another start model or orientation")
    if content.get("n_observations") != identity["n_observations"]:
        raise ValueError(f"{filename} belongs to a refinement against other reflections")
    for name, parameter in _SAME_ON_RESUME.items():
        before = content["settings"].get(name)
        if before != identity["settings"][name]:
            raise ValueError(f"{filename} was written with {parameter}={str(before)[:40]}: use it again")
    logger.info(f"Continuing after stage '{state.stage}' of {filename}")
    return state
