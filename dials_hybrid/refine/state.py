"""What goes into a refinement, what steers it, and what a stage hands to the next."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from dials_hybrid.data import AtomicModel, Restraints
from dials_hybrid.model.thickness import PARAMETRIC
from dials_hybrid.refine.joint_fit import Cycle
from dials_hybrid.refine.thickness_choice import Candidate
from dials_hybrid.refine.thickness_scan import ThicknessScan
from dials_hybrid.rocking.measurement import Measurement

STAGES = ("scan", "orientation", "joint", "thickness", "final")
MODELS = (*PARAMETRIC, "histogram", "neural")
_THICKEST, _MOST_NODES = 1e6, 10**4  # [A], of a grid: beyond, a checkpoint is damaged


@dataclass(frozen=True)
class Inputs:
    """What is refined against what."""

    measurement: Measurement
    atoms: AtomicModel
    jacobian: Tensor  # (P, 11 n), see `model.crystal.Crystal`
    names: tuple[str, ...]
    origin_shifts: Tensor  # (D, P) directions that no intensity determines
    restraints: Restraints | None = None

    def start(self) -> Tensor:
        """Numbers that tell whether refined parameters, which are shifts, are relative to these inputs.

        Of the axes (9,), the cell (6,), the parameters of the atoms (11 n,), and how these follow the
        independent ones (11 n,).
        """
        basis = self.measurement.dataset(1.0, 1).steps.basis.mean(0)
        rows = torch.linspace(1.0, 2.0, len(self.jacobian), dtype=self.jacobian.dtype) @ self.jacobian
        return torch.cat([basis.flatten(), self.atoms.cell, self.atoms.parameters.flatten(), rows])


@dataclass(frozen=True)
class Settings:
    """What the user decides; lengths in Angstrom, angles in degree."""

    g_max: float
    sg_max: float
    segment_length: int
    rocking_step: float | None  # None: from thickness and g_max
    mosaic_points: int
    mosaic_spread: float
    tilt_nodes: int
    tilt_restraint: float
    scale_nodes: int
    thickness_model: str  # auto, or the name of a model
    thickness_maximum: float | None  # None: from the scan
    network_hidden: int
    network_terms: int
    network_prior: float | None  # None: the most likely one
    gain: float | None  # None: refined, as the next two
    instability: float | None
    floor: float | None
    outlier_cutoff: float | None
    free_fraction: float
    max_cycles: int
    tolerance: float
    seed: int
    nproc: int
    memory: float  # [GiB] that a cycle of least squares may hold
    device: str
    frame_tilt_restraint: float | None = None  # None: virtual frames have the smooth tilt alone
    frame_scale_restraint: float | None = None  # None: virtual frames have the smooth scale alone
    weak_sg_max: float = 0.0  # [1/A]; beams beyond sg_max act up to here by perturbation
    surface: tuple[tuple[float, ...], ...] | None = None  # normal of each crystal's in reciprocal axes
    form_factors: str = "peng"  # those of neutral atoms, see `bloch.form_factors`
    absorption: float = 0.0  # factor on the absorptive potential; 0: none
    absorption_restraint: float | None = None  # standard deviation of the prior on it; None: it is held
    absolute_structure: bool = False  # whether both hands of a chiral structure are refined
    mosaic_tilts: str = "means"  # or "medians", see `rocking.mosaic`
    n_displacements: int = 0  # crystals, all but the first or none, with an overall displacement of their own
    crystal_weights: tuple[float, ...] = ()  # on the squares of each crystal's residuals; none: all alike


@dataclass(frozen=True)
class State:
    """All that a stage hands to the next, and all that a checkpoint holds."""

    stage: str  # the last one completed
    scan: ThicknessScan | None
    grid: tuple[float, int]  # maximum [A] and number of nodes of the thickness grid
    thickness_model: str  # the one whose parameters are in `vector`
    thickness_start: list[list[float]]  # of each crystal: the first numbers of the model, or of its p_0(t)
    vector: list[float] | None = None  # None before the first refinement
    history: list[Cycle] = field(default_factory=list)
    comparison: list[Candidate] = field(default_factory=list)  # of thickness models, if made
    given: State | None = None  # after "orientation", before the structure was refined
    scale_prior: float = 0.3  # standard deviations of priors: on the smooth scale,
    network_prior: float = 0.3  # and on what shapes the thickness distribution
    reach: float | None = None  # thickness [A] that sets the steps of the last stage, see `Hybrid.reach`
    chosen_again: bool = False  # whether the refined structure was asked for the thickness model

    @property
    def thickest(self) -> float:
        """The thickness [A] that steps must be fine enough for."""
        return self.grid[0] if self.reach is None else self.reach

    def as_dict(self) -> dict:
        """Plain numbers, strings, lists and dictionaries."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> State:
        """The inverse of `as_dict`; missing figures (null) become nan.

        Raises:
            ValueError: the content is not that of a state.
        """
        try:
            maximum, n_nodes = content["grid"]
            vector = content["vector"]
            state = cls(
                stage=content["stage"],
                scan=_scan(content["scan"]),
                grid=(float(maximum), int(n_nodes)),
                thickness_model=str(content["thickness_model"]),
                thickness_start=[[float(value) for value in start] for start in content["thickness_start"]],
                vector=None if vector is None else [float(value) for value in vector],
                history=[_cycle(item) for item in content["history"]],
                comparison=[Candidate(**item) for item in content["comparison"]],
                given=cls.from_dict(content["given"]) if content["given"] else None,
                scale_prior=float(content["scale_prior"]),
                network_prior=float(content["network_prior"]),
                reach=None if content["reach"] is None else float(content["reach"]),
                chosen_again=bool(content["chosen_again"]),
            )
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError("the checkpoint is damaged") from error
        positive = *state.grid, state.scale_prior, state.network_prior, state.thickest
        numbers = [*positive, *(state.vector or []), *itertools.chain(*state.thickness_start)]
        known = state.stage in STAGES and state.thickness_model in MODELS
        sizes = min(positive) > 0 and maximum < _THICKEST and n_nodes <= _MOST_NODES
        if not (known and sizes and all(map(math.isfinite, numbers))):
            raise ValueError("the checkpoint is damaged")
        return state


def _scan(content: dict) -> ThicknessScan:
    scan = ThicknessScan(**content)
    for name in PARAMETRIC:
        for numbers in (scan.best[name], *scan.minima[name]):
            if not all(math.isfinite(value) for value in numbers):
                raise ValueError("a thickness that is not finite")
    return scan


def _cycle(content: dict) -> Cycle:
    numbers: dict[str, Any] = {n: math.nan if value is None else value for n, value in content.items()}
    return Cycle(**numbers)
