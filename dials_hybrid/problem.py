"""Refinement problems and their results as files, for machines without DIALS and cctbx.

    dials.hybrid_refine ... output.problem=FILE     here: files -> problem
    python -m dials_hybrid.refine FILE              there: problem -> result
    dials.hybrid_refine ... result=FILE             here: result -> CIF, experiments, reflections

Both are .npz files; `io.archive` and `io.plain` protect the reader of them, and what is read is checked
before anything is calculated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.data import Restraints
from dials_hybrid.io.archive import damaged, read_archive, write_archive
from dials_hybrid.io.plain import from_plain, to_plain
from dials_hybrid.refine.finished import Finished
from dials_hybrid.refine.protocol import Outcome
from dials_hybrid.refine.state import MODELS, STAGES, Inputs, Settings
from dials_hybrid.rocking.measurement import Measurement

PROBLEM, RESULT = "dials.hybrid_refine problem", "dials.hybrid_refine result"
_VERSION = 1
# What no measurement needs and no memory holds.
_MOST_STEPS, _MOST_BEAMS, _MOST_DEGREES, _MOST_THICKNESSES = 10**7, 10**6, 1e5, 10**4
# Arrays that hold no floating-point numbers, and the bytes of a number.
_WHOLE = frozenset("hkl run row first last crystal frame atoms group form_factor_type".split())
_BOOLEAN = frozenset(("anisotropic", "free"))
_BYTES = {"b": 1, "i": 8, "f": 8}
_NONSENSE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Problem:
    """What is refined against what, and how."""

    inputs: Inputs
    settings: Settings


def write_problem(filename: str | Path, problem: Problem) -> None:
    """Raises OSError if the file cannot be written."""
    _write(filename, PROBLEM, problem)


def read_problem(filename: str | Path) -> Problem:
    """What `write_problem` wrote.

    Raises:
        ValueError: the file is missing, damaged, another kind of file or makes no sense.
    """
    problem = _read(filename, PROBLEM, Problem)
    try:
        _check_structure(problem.inputs)
        _check_settings(problem.settings)
        _check_measurement(problem.inputs.measurement, problem.settings, problem.settings.thickness_maximum)
        _check_beams(problem.inputs, problem.settings)
    except _NONSENSE as error:
        raise damaged(filename, PROBLEM) from error
    return problem


def write_result(filename: str | Path, finished: Finished) -> None:
    """Raises OSError if the file cannot be written."""
    _write(filename, RESULT, finished)


def read_result(filename: str | Path, inputs: Inputs) -> tuple[Outcome, Finished]:
    """What `write_result` wrote after a refinement of `inputs`.

    Raises:
        ValueError: the file is missing, damaged or another kind of file, or belongs to other inputs.
    """
    finished = _read(filename, RESULT, Finished)
    try:
        _check_finished(finished, inputs)
        difference = finished.differs_from(inputs)
        if not difference:
            return finished.outcome(inputs), finished
    except _NONSENSE as error:
        raise damaged(filename, RESULT) from error
    raise ValueError(
        f"{filename} is the result for {difference}: give the files and parameters that made its problem"
    )


def _write(filename: str | Path, kind: str, content) -> None:
    arrays: dict[str, np.ndarray] = {}
    tree = to_plain(content, arrays, "content")
    write_archive(filename, {"format": kind, "version": _VERSION, "content": tree}, arrays)


def _read(filename: str | Path, kind: str, root: type):
    header, arrays = read_archive(filename, kind)
    if header.get("version") != _VERSION:
        raise ValueError(
            f"{filename} is version {header.get('version')} of a {kind}, and this program knows {_VERSION}"
        )
    try:
        return from_plain(header["content"], arrays, root)
    except _NONSENSE as error:
        raise damaged(filename, kind) from error


def _check_structure(inputs: Inputs) -> None:
    atoms = inputs.atoms
    n, p, s = atoms.n_atoms, len(inputs.names), len(atoms.rotations)
    _require(n > 0 and s > 0 and len(atoms.elements) == n, "no atoms")
    form_factors = tuple(atoms.form_factor_a.shape)
    shapes = {
        "cell": (6,),
        "parameters": (n, 11),
        "anisotropic": (n,),
        "multiplicity": (n,),
        "form_factor_type": (n,),
        "form_factor_a": form_factors,
        "form_factor_b": form_factors,
        "rotations": (s, 3, 3),
        "translations": (s, 3),
    }
    for name, shape in shapes.items():
        _numbers(getattr(atoms, name), shape, name)
    _numbers(inputs.jacobian, (p, 11 * n))
    _numbers(inputs.origin_shifts, (len(inputs.origin_shifts), p))
    if inputs.restraints:
        _check_restraints(inputs.restraints, n)
    _within(atoms.form_factor_type, 0, form_factors[0] - 1)
    _within(atoms.cell[:3], 0.1, 1e4)
    _within(atoms.cell[3:], 1.0, 179.0)


def _check_restraints(restraints: Restraints, n: int) -> None:
    for kind, restrained in vars(restraints).items():
        q = len(restrained)
        own = {"rotation": (3, 3), "translation": (3,), "target": (), "sigma": (), "group": ()}
        for name, shape in {"atoms": (1,) if kind in ("flat", "isor") else (2,), **own}.items():
            _numbers(getattr(restrained, name), (q, *shape), name)
        if q:
            _within(restrained.atoms, 0, n - 1)
            _within(restrained.group, 0, q - 1)
            _require(bool((restrained.sigma > 0.0).all()), "no standard deviation")


def _check_settings(settings: Settings) -> None:
    """Numbers that decide how much is allocated, and that all are numbers."""
    for name, value in vars(settings).items():
        if isinstance(value, (int, float)) and name != "seed":
            _require(math.isfinite(value) and abs(value) <= 1e6, name)
    for name, value in (("g_max", settings.g_max), ("sg_max", settings.sg_max)):
        _require(0.0 < value <= 20.0, name)
    _require(settings.segment_length >= 1 and 1 <= settings.mosaic_points <= 100, "no steps")
    for value, least in ((settings.rocking_step, 1e-6), (settings.thickness_maximum, 1.0)):
        _require(value is None or value >= least, "no step")
    _require(0 <= settings.n_displacements <= 1000, "displacements")
    _require(all(1e-3 <= weight <= 1e6 for weight in settings.crystal_weights), "crystal weights")
    _require(settings.mosaic_tilts in ("means", "medians"), "mosaic tilts")
    _require(settings.thickness_model in ("auto", *MODELS), "thickness model")


def _check_measurement(measurement: Measurement, settings: Settings, thickness: float | None) -> None:
    reflections = measurement.reflections
    m = len(reflections)
    _require(m > 0 and len(measurement.runs) > 0, "nothing was measured")
    _require(0.001 < measurement.wavelength < 1.0, "no electrons")
    _numbers(reflections.hkl, (m, 3), "hkl")
    for name in ("intensity", "sigma", "run", "angle", "row"):
        _numbers(getattr(reflections, name), (m,), name)
    _within(reflections.run, 0, len(measurement.runs) - 1)
    _within(reflections.row, 0, measurement.n_rows - 1)
    _require(reflections.half_width.shape == (m,) and bool((reflections.half_width > 0.0).all()), "no width")
    _require(bool((reflections.sigma > 0.0).all()), "no sigma")
    _check_steps(measurement, settings, thickness)
    dataset = measurement.dataset(1.0, 1)
    for name in ("basis", "weight", "angle", "beam", "rotation_axis"):
        values = getattr(dataset.steps, name)
        _numbers(values, tuple(values.shape), name)
    _within(dataset.observations.last, 0, len(dataset.steps))


def _check_steps(measurement: Measurement, settings: Settings, thickness: float | None) -> None:
    """Rocking steps for crystals up to `thickness` [A], as `refine.build.Builder` cuts them."""
    _require(measurement.longest_range < _MOST_DEGREES, "too long a scan")
    path = math.pi * sum(float(run.cut(2.0 * _MOST_DEGREES).weight.sum()) for run in measurement.runs)
    step = settings.rocking_step or math.degrees(1.0 / ((thickness or 4000.0) * settings.g_max))
    step = min(step / settings.mosaic_points, float(measurement.reflections.half_width.min()) / 4.0)
    _require(path / step < _MOST_STEPS, "too many rocking steps")


def _check_beams(inputs: Inputs, settings: Settings) -> None:
    volume = float(metric_tensor(inputs.atoms.cell).det().sqrt())
    _require(4.0 / 3.0 * math.pi * settings.g_max**3 * volume < _MOST_BEAMS, "too many beams")


def _check_finished(finished: Finished, inputs: Inputs) -> None:
    _check_settings(finished.settings)
    state, fit, m = finished.state, finished.fit, len(finished.observations)
    maximum, n_nodes = state.grid
    _require(state.stage in STAGES and state.vector is not None, "not finished")
    _require(0.0 < maximum < 1e6 and 2 <= n_nodes <= _MOST_THICKNESSES, "thickness")
    _check_steps(inputs.measurement, finished.settings, maximum)
    _check_beams(inputs, finished.settings)
    p = len(state.vector or ())
    _numbers(fit.covariance, (p, p))
    _numbers(fit.evaluation.intensity, (m,))
    _numbers(fit.evaluation.scale, (m,))
    _numbers(np.asarray(state.vector), (p,))
    for name, values in vars(finished.observations).items():
        if name == "edges":  # infinite where windows are sharp
            _require(values is None or (values.shape == (m, 2) and not values.isnan().any()), name)
            continue
        _numbers(values, (m, 3) if name == "hkl" else (m,), name)
    for name in ("intensity", "sigma", "share", "emphasis", "robust_weight"):
        _numbers(getattr(fit.target, name), (m,))
    _numbers(fit.evaluation.thickness_weights, (m, n_nodes))


def _numbers(values: Tensor | np.ndarray, shape: tuple[int, ...], name: str = "") -> None:
    values = np.asarray(values)
    kind = "b" if name in _BOOLEAN else "i" if name in _WHOLE else "f"
    _require(values.dtype.kind == kind and values.dtype.itemsize == _BYTES[kind], "of another type")
    _require(values.shape == shape and bool(np.isfinite(values).all()), f"not finite, or not {shape}")


def _within(values: Tensor | np.ndarray, low: float, high: float) -> None:
    _require(low <= float(values.min()) and float(values.max()) <= high, "out of bounds")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)
