"""How much memory a cycle of least squares may hold, and what fits into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

GIB = 2**30
_DOUBLE = 8  # bytes
_USEFUL_WORKSPACE = (
    2**24
)  # complex numbers of a process with segments one by one: with more, nothing is faster
_USEFUL_TOGETHER = 2**27  # where they are propagated together: several hundred of a hundred beams
_COPIES = 3  # arrays of the size of the workspace that derivatives of a segment hold at once
_AMPLITUDES = 4  # arrays of amplitudes
_MATRICES = 12  # (P, P) of least squares
_BLOCKS = 7 * 2**20  # numbers in blocks of rows of the Jacobian
_FREED = 3 * 2**25  # bytes that the C library may keep of what a process freed: seen to differ by 80 MiB


@dataclass(frozen=True)
class Sizes:
    """What a cycle of least squares needs room for."""

    n_observations: int
    n_parameters: int
    n_propagated: int  # those parameters whose derivatives are sums over steps
    n_thickness: int
    smallest: int  # complex numbers without which the largest segment cannot be differentiated
    amplitudes: int  # of all its beams wanted, steps and thicknesses
    table: int  # derivatives of U_g
    smallest_table: int  # those that the largest segment needs
    complex_bytes: int  # of a complex number of the derivatives
    together: bool = False  # segments are propagated together if there is room
    in_turn: bool = False  # sums of each crystal are made in turn and added

    @property
    def kept(self) -> int:
        """Bytes that are there whatever is done to save memory.

        Three states of least squares each have intensities and weights at all thicknesses, and their
        derivatives by parameters that need no sums over steps.
        """
        others = self.n_parameters - self.n_propagated
        numbers = self.n_observations * (12 * self.n_thickness + 4 * others)
        return _DOUBLE * (numbers + _MATRICES * self.n_parameters**2 + _BLOCKS)

    @property
    def jacobian(self) -> int:
        """Bytes of the derivatives that are sums over steps."""
        return _DOUBLE * self.n_observations * self.n_propagated

    @property
    def process(self) -> int:
        """Bytes of a process that has no more than it cannot do without."""
        numbers = _COPIES * self.smallest + _AMPLITUDES * self.amplitudes + self.smallest_table
        return self.complex_bytes * numbers + _DOUBLE * self.n_observations * self.n_thickness + _FREED


@dataclass(frozen=True)
class Plan:
    """What one sum over the segments may use."""

    nproc: int
    workspace: int  # complex numbers in one array of a process
    table: int  # derivatives of U_g that are held at once: all of them, or so many in a process
    in_file: bool  # whether the Jacobian is kept in files
    memory: float = 0.0  # [GiB] that a cycle is expected to hold


def quarter_of_machine(device: str) -> float:
    """A quarter of the memory of the device, or of the part of the machine that this process has [GiB].

    At most what is free on the device.
    """
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(free, total / 4.0) / GIB
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


def plan(memory: float, sizes: Sizes, nproc: int) -> Plan:
    """Such that a cycle holds at most `memory` [GiB], with as many of `nproc` processes as that allows.

    Least squares keeps one Jacobian while each process adds up its part of the next, for crystals in turn
    beside that of the crystals before; where there is no room for them they are kept in files. Where there
    is no room for all derivatives of U_g, each process makes those that it needs next.

    Raises:
        ValueError: one process alone needs more.
    """
    for n, in_file, whole in product(range(nproc, 0, -1), (False, True), (True, False)):
        held = sizes.kept + (0 if in_file else (1 + sizes.in_turn + n) * sizes.jacobian) + n * sizes.process
        if whole:
            held += sizes.complex_bytes * (sizes.table - n * sizes.smallest_table)
        spare = (memory * GIB - held) / n / sizes.complex_bytes
        if spare < 0:
            continue
        useful = _USEFUL_TOGETHER if sizes.together else _USEFUL_WORKSPACE
        workspace = min(useful, sizes.smallest + spare / 2 / _COPIES)
        table = sizes.table if whole else sizes.smallest_table + spare / 2
        extra = _COPIES * (workspace - sizes.smallest) + (0 if whole else table - sizes.smallest_table)
        expected = (held + n * sizes.complex_bytes * extra) / GIB
        return Plan(n, int(workspace), int(table), in_file, expected)
    least = (sizes.kept + sizes.process) / GIB
    raise ValueError(
        f"a cycle of least squares with {sizes.n_observations} observations, {sizes.n_parameters} parameters "
        f"and {sizes.n_thickness} thicknesses takes {least:.2g} GiB, and memory={memory:.2g} is less: "
        "raise memory=, refine fewer parameters, or take fewer beams by beams.g_max"
    )
