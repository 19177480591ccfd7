"""The observations of virtual frames with calculated intensities, as a table that anything reads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from dials_hybrid.data import Observations
from dials_hybrid.io.atomic import atomic_write
from dials_hybrid.io.pets import PetsData

COLUMNS = (
    "file", "frame", "h", "k", "l", "intensity", "sigma", "calculated", "scale", "share", "free"
)  # fmt: skip


def observation_rows(
    data: Sequence[PetsData], first_crystal: int, observations: Observations, calculated, scale
) -> list[tuple]:
    """A row for each observation of the files, with the values of COLUMNS.

    Args:
        data: the files.
        first_crystal: number of the crystal of the first one; the others follow.
        observations: of all crystals.
        calculated: intensities (M,) on the scale of the data.
        scale: (M,).
    """
    rows = []
    columns = zip(
        observations.crystal.tolist(),
        observations.frame.tolist(),
        observations.hkl.tolist(),
        observations.intensity.tolist(),
        observations.sigma.tolist(),
        calculated.tolist(),
        scale.tolist(),
        observations.share.tolist(),
        observations.free.tolist(),
        strict=True,
    )
    for crystal, frame, hkl, intensity, sigma, own, factor, share, free in columns:
        if crystal >= first_crystal:
            source = data[crystal - first_crystal]
            numbers = (intensity, sigma, round(own, 3), float(f"{factor:.6g}"), round(share, 4), int(free))
            rows.append((Path(source.filename).name, source.names[frame], *hkl, *numbers))
    return rows


def write_observations(filename: str | Path, rows: Sequence[tuple]) -> None:
    """Write CSV with a heading.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(filename) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
