"""What goes into a refinement, what steers it, and what a stage hands to the next."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from torch import Tensor

from dials_hybrid.data import AtomicModel
from dials_hybrid.refine.joint_fit import Cycle
from dials_hybrid.refine.thickness_scan import ThicknessScan
from dials_hybrid.rocking.measurement import Measurement

STAGES = ("scan", "orientation", "joint", "neural", "final")


@dataclass(frozen=True)
class Inputs:
    """What is refined against what."""

    measurement: Measurement
    atoms: AtomicModel
    jacobian: Tensor  # (P, 11 n), see `model.crystal.Crystal`
    names: tuple[str, ...]
    origin_shifts: Tensor  # (D, P) directions that no intensity determines


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
    thickness_model: str
    thickness_maximum: float | None  # None: from the scan
    network_hidden: int
    network_terms: int
    network_prior: float
    instability: float
    outlier_cutoff: float | None
    free_fraction: float
    max_cycles: int
    tolerance: float
    seed: int
    nproc: int
    device: str


@dataclass(frozen=True)
class State:
    """All that a stage hands to the next, and all that a checkpoint holds."""

    stage: str  # the last one completed
    scan: ThicknessScan | None
    grid: tuple[float, int]  # maximum [A] and number of nodes of the thickness grid
    thickness_model: str  # the one whose parameters are in `vector`
    thickness_start: list[list[float]]  # of each crystal: its first numbers, or p_0(t) at the nodes
    vector: list[float] | None = None  # None before the first refinement
    history: list[Cycle] = field(default_factory=list)

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
                scan=ThicknessScan(**content["scan"]),
                grid=(float(maximum), int(n_nodes)),
                thickness_model=str(content["thickness_model"]),
                thickness_start=[[float(value) for value in start] for start in content["thickness_start"]],
                vector=None if vector is None else [float(value) for value in vector],
                history=[_cycle(item) for item in content["history"]],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError("the checkpoint is damaged") from error
        if state.stage not in STAGES or not all(map(math.isfinite, state.vector or [])):
            raise ValueError("the checkpoint is damaged")
        return state


def _cycle(content: dict) -> Cycle:
    return Cycle(**{name: math.nan if value is None else value for name, value in content.items()})
