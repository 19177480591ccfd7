"""How much memory a cycle of least squares may hold, and what fits into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 2**30
_DOUBLE, _COMPLEX = 8, 16  # bytes
_USEFUL_WORKSPACE = 2**22  # complex numbers of a process: with more, nothing is faster
_COPIES = 8  # arrays of the size of the workspace that derivatives of a segment hold at once
_AMPLITUDES = 4  # arrays of amplitudes


@dataclass(frozen=True)
class Plan:
    """What one sum over the segments may use."""

    nproc: int
    workspace: int  # complex numbers in one array of a process


def quarter_of_machine(device: str) -> float:
    """A quarter of the memory of the device, or of the part of the machine that this process has [GiB]."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[1] / GIB / 4.0
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min([machine, *control_group_limits()]) / ranks / GIB / 4.0


def control_group_limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Limits [byte] that containers and batch systems set to this process (Linux, both versions)."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        folder, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        place = folder / path.lstrip("/")
        for group in [place, *place.parents]:
            if group == folder.parent:
                break
            try:
                limits.append(int((group / name).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return limits


def plan(
    memory: float,
    *,
    n_observations: int,
    n_parameters: int,
    n_thickness: int,
    smallest: int,
    amplitudes: int,
    nproc: int,
) -> Plan:
    """Processes and their workspace, such that a cycle holds at most `memory` [GiB].

    Least squares keeps two states, each with a Jacobian, the same with weights and the derivatives it was
    made from, while a third is made; and for each the intensities and weights at all thicknesses. Each
    process has its sums, and a copy on the way to the first process, which receives one at a time.

    Args:
        smallest: complex numbers without which the largest segment cannot be differentiated.
        amplitudes: of all its beams wanted, steps and thicknesses; a few such arrays are held at once.
        nproc: processes wanted; there are fewer where only fewer fit.

    Raises:
        ValueError: one process alone needs more.
    """
    kept = _DOUBLE * n_observations * (7 * n_parameters + 12 * n_thickness)
    sums = 2 * _DOUBLE * n_observations * (n_parameters + n_thickness)
    room = memory * GIB - kept - sums  # for the processes
    own = sums + _AMPLITUDES * _COMPLEX * amplitudes
    least = own + _COPIES * _COMPLEX * smallest  # for each of them
    if room < least:
        raise ValueError(
            f"a cycle of least squares with {n_observations} observations, {n_parameters} parameters and "
            f"{n_thickness} thicknesses takes {(kept + sums + least) / GIB:.2g} GiB, and memory={memory:.2g} "
            "is less: raise memory=, or refine fewer parameters"
        )
    nproc = int(min(nproc, room // least))
    workspace = (room / nproc - own) / (_COPIES * _COMPLEX)
    return Plan(nproc, int(min(_USEFUL_WORKSPACE, workspace)))
