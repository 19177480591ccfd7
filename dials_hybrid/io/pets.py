"""Virtual frames from PETS (.cif_pets), also as DIALS exports them.

In the middle of a frame a reflection h lies, in the laboratory with the beam along -z, at

    r = Rz(omega) Rx(alpha) Ry(beta) UB h;

the rotation axis lies in the plane of the images, at the azimuth that the header gives. PETS has that
azimuth in omega as well, which is taken where the header gives none; where all omega are zero, the axis
is x. The zone axis [uvw] of a frame must lie along the beam, which is checked. A zero means "not given",
except for angles.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dials_hybrid.io.cif_text import Block, number, numbers, read_blocks
from dials_hybrid.io.rejections import Rejections
from dials_hybrid.rocking.frames import VirtualFrames, shares
from dials_hybrid.rocking.measurement import Reflections

logger = logging.getLogger("dials.hybrid_refine.io.pets")

_ZONE = "_diffrn_zone_axis_"
_CELL = [f"_cell_{name}" for name in ("length_a", "length_b", "length_c")] + [
    f"_cell_angle_{name}" for name in ("alpha", "beta", "gamma")
]
_INTENSITY = ("_refln_intensity_meas", "_refln_f_squared_meas")
_SIGMA = ("_refln_intensity_sigma", "_refln_f_squared_sigma", "_refln_intensity_meas_su")
_BEAM = np.array([0.0, 0.0, -1.0])
_LONGEST_WAVE = 0.09  # [A], see `experiments.check_experiment`
_CELL_TOLERANCE = 0.03  # between UB and the cell, relative
_ZONE_TOLERANCE = 0.5  # between [uvw] and the beam [degree]


@dataclass(frozen=True)
class PetsData:
    """What a file holds: frames and the N rows of its reflection list."""

    filename: str
    cell: tuple[float, ...]  # [A], [degree]
    wavelength: float  # [A]
    frames: VirtualFrames
    names: tuple[str, ...]  # of the frames
    hkl: np.ndarray  # (N, 3) int
    intensity: np.ndarray  # (N,) nan where it is not a number
    sigma: np.ndarray  # (N,)
    frame: np.ndarray  # (N,) int, -1 where the frame is unknown

    def __len__(self) -> int:
        return len(self.intensity)

    @property
    def whole_curves(self) -> bool:
        """The intensities are those of whole rocking curves: neighbouring frames list the same ones."""
        order = np.lexsort((self.frame, *self.hkl.T))
        same = (np.diff(self.hkl[order], axis=0) == 0).all(1) & (np.diff(self.frame[order]) == 1)
        return bool(same.any() and (np.diff(self.intensity[order])[same] == 0.0).mean() > 0.9)


def read_pets(filename: str | Path) -> PetsData:
    """Read a .cif_pets file.

    Raises:
        ValueError: it cannot be read or lacks what a refinement needs; one sentence names the file.
    """
    found = [(block, block.loop(f"{_ZONE}id")) for block in read_blocks(filename)]
    blocks = [(block, frames) for block, frames in found if frames]
    try:
        if not blocks:
            raise ValueError("it has no virtual frames (_diffrn_zone_axis_id): give the _dyn.cif_pets")
        if len(blocks) > 1:
            raise ValueError(f"it holds {len(blocks)} data blocks with frames: give each as a file")
        return _pets_data(str(filename), *blocks[0])
    except ValueError as error:
        raise ValueError(f"cannot use {filename}: {error}") from error


def _pets_data(filename: str, block: Block, listed_frames: dict[str, list[str]]) -> PetsData:
    cell = tuple(_needed(block, name) for name in _CELL)
    wavelength = _needed(block, "_diffrn_radiation_wavelength")
    if not 0.0 < wavelength < _LONGEST_WAVE:
        raise ValueError(f"a wavelength of {wavelength:g} A is not that of an electron microscope")
    frames, names = _frames(block, listed_frames, cell)
    loop = block.loop("_refln_index_h")
    if loop is None or not loop["_refln_index_h"]:
        raise ValueError("it has no reflections (_refln_index_h)")
    indices = np.stack([numbers(_column(loop, f"_refln_index_{i}")) for i in "hkl"], axis=1)
    if not (np.isfinite(indices).all() and (indices == indices.round()).all()):
        raise ValueError(
            f"reflection {1 + int(np.argmax((indices != indices.round()).any(1)))} of its list "
            "has Miller indices that are not integers"
        )
    place = {name: index for index, name in enumerate(names)}
    listed = [place.get(_name(text), -1) for text in _column(loop, "_refln_zone_axis_id")]
    return PetsData(
        filename=filename,
        cell=cell,
        wavelength=wavelength,
        frames=frames,
        names=names,
        hkl=indices.astype(np.int64),
        intensity=numbers(_column(loop, *_INTENSITY)),
        sigma=numbers(_column(loop, *_SIGMA)),
        frame=np.array(listed, dtype=np.int64),
    )


def _needed(block: Block, name: str) -> float:
    value = number(block.items.get(name))
    if value is None or not np.isfinite(value):
        raise ValueError(f"it has no number {name}")
    return value


def _column(loop: dict[str, list[str]], *names: str) -> list[str]:
    """The first of these columns that there is."""
    for name in names:
        if name in loop:
            return loop[name]
    raise ValueError(f"it has no column {names[0]}")


def _name(text: str) -> str:
    """The identifier of a frame: "1", "01" and "1.0" are the same."""
    value = number(text)
    return str(round(value)) if value is not None and value.is_integer() else text


# ------------------------------------------------------------------------------------- frames


def _frames(
    block: Block, loop: dict[str, list[str]], cell: tuple[float, ...]
) -> tuple[VirtualFrames, tuple[str, ...]]:
    """The frames by scan angle, and their names."""
    names = [_name(text) for text in loop[f"{_ZONE}id"]]
    if not names:
        raise ValueError("its list of frames is empty")
    if len(set(names)) < len(names):
        raise ValueError("it lists a frame twice")
    columns = {name: _angles(loop, name) for name in ("u", "v", "w", "precession_angle", "alpha", "beta")}
    omega = _angles(loop, "omega") if f"{_ZONE}omega" in loop else np.zeros(len(names))
    semi_angle = columns["precession_angle"]
    for name, angle in zip(names, semi_angle.tolist(), strict=True):
        if not 0.0 < angle < 45.0:
            raise ValueError(f"frame {name} has a semi-angle of {angle:g} degree")
    ub = _orientation_matrix(block, cell)
    turn = Rotation.from_euler("ZXY", np.stack([omega, columns["alpha"], columns["beta"]], 1), degrees=True)
    basis = turn.as_matrix() @ ub
    _check_zone_axes(names, basis, np.stack([columns[name] for name in "uvw"], 1))
    details = block.items.get("_diffrn_measurement_details", "")
    azimuth = np.radians(_axis_azimuth(details, omega))
    order = np.argsort(columns["alpha"], kind="stable")
    frames = VirtualFrames(
        basis=basis[order],
        angle=columns["alpha"][order],
        semi_angle=semi_angle[order],
        beam=_BEAM,
        rotation_axis=np.array([np.cos(azimuth), np.sin(azimuth), 0.0]),
        precession=_is_precession(details),
    )
    return frames, tuple(names[i] for i in order)


def _angles(loop: dict[str, list[str]], name: str) -> np.ndarray:
    values = numbers(_column(loop, _ZONE + name))
    if not np.isfinite(values).all():
        raise ValueError(f"{_ZONE}{name} of frame {1 + int(np.argmin(np.isfinite(values)))} is not a number")
    return values


def _orientation_matrix(block: Block, cell: tuple[float, ...]) -> np.ndarray:
    """UB [1/A], after a comparison with the cell."""
    names = [[f"_diffrn_orient_matrix_ub_{i}{j}" for j in "123"] for i in "123"]
    ub = np.array([[_needed(block, name) for name in row] for row in names])
    if not abs(np.linalg.det(ub)) > 1e-9:
        raise ValueError("its orientation matrix has no inverse")
    direct = np.linalg.inv(ub)  # rows a, b, c
    lengths = np.linalg.norm(direct, axis=1)
    if np.abs(lengths / cell[:3] - 1.0).max() > _CELL_TOLERANCE:
        found = " ".join(f"{length:.3f}" for length in lengths)
        listed = " ".join(f"{length:.3f}" for length in cell[:3])
        raise ValueError(f"its orientation matrix has the axes {found} A, its cell {listed} A")
    return ub


def _check_zone_axes(names: list[str], basis: np.ndarray, uvw: np.ndarray) -> None:
    direct = np.linalg.inv(basis).transpose(0, 2, 1)  # columns a, b, c
    axis = np.einsum("fij,fj->fi", direct, uvw)
    given = np.linalg.norm(axis, axis=1) > 0.0
    cosine = np.abs(axis[given, 2]) / np.linalg.norm(axis[given], axis=1)
    angle = np.degrees(np.arccos(np.clip(cosine, 0.0, 1.0)))
    if (angle > _ZONE_TOLERANCE).any():
        name = np.array(names)[given][angle.argmax()]
        raise ValueError(
            f"the zone axis of frame {name} lies {angle.max():.2f} degree away from the beam: its angles "
            "do not belong to its orientation matrix"
        )


def _is_precession(details: str) -> bool:
    match = re.search(r"data collection geometry\s*:\s*(.*)", details, re.IGNORECASE)
    geometry = match[1].strip().lower() if match else ""
    if "precession" in geometry:
        return True
    if geometry and "rotation" not in geometry:
        raise ValueError(f"the data collection geometry is {geometry!r}, neither rotation nor precession")
    return False


def _axis_azimuth(details: str, omega: np.ndarray) -> float:
    """[degree]; that of the header, or of the frames (F,) where it gives none."""
    if not omega.any():
        return 0.0
    match = re.search(r"(?:rotation|tilt)\s+axis\s+position\s*:\s*(\S+)", details, re.IGNORECASE)
    azimuth = number(match[1]) if match else None
    if azimuth is None:
        azimuth = float(np.median(omega))
        logger.warning(
            f"The header gives no rotation axis position: that of omega is taken, {azimuth:.3f} degree"
        )
    return azimuth


# -------------------------------------------------------------------------------- reflections


def usable_reflections(
    data: PetsData,
    *,
    rsg: float,
    dsg: float,
    d_min: float | None,
    d_max: float | None,
    frames: frozenset[str] | None = None,
) -> tuple[Reflections, Rejections]:
    """The reflections that cross the Ewald sphere inside their frame, of run 0.

    |S_g| < rsg D_g and D_g - |S_g| > dsg, see `rocking.frames` (Palatinus et al. 2015; Klar et al. 2023).

    Args:
        rsg: largest |S_g| / D_g.
        dsg: smallest distance from where the rotation ends [1/A].
        d_min: resolution limits [A].
        d_max: resolution limits [A].
        frames: names of those wanted; None for all.

    Raises:
        ValueError: no row is left.
    """
    run = data.frames
    rows = Rejections(len(data))
    rows.reject(data.frame < 0, "of a frame that is not listed")
    rows.reject((data.hkl == 0).all(1), "not indexed")
    rows.reject(~(np.isfinite(data.intensity) & np.isfinite(data.sigma)), "intensity is not a number")
    rows.reject(~(data.sigma > 0.0), "sigma is not positive")
    rows.reject(_repeated(data), "listed before in the same frame")
    if frames is not None:
        unwanted = np.array([name not in frames for name in data.names])
        rows.reject(unwanted[data.frame], "of a frame left out by data.frames")
    frame = np.maximum(data.frame, 0)
    g = np.linalg.norm(np.einsum("mij,mj->mi", run.basis[frame], data.hkl.astype(float)), axis=1)
    if d_min is not None:
        rows.reject(g * d_min > 1.0, "beyond d_min")
    if d_max is not None:
        rows.reject(g * d_max < 1.0, "beyond d_max")
    s_g, swept = run.excitation(frame, data.hkl, data.wavelength)
    inside = (np.abs(s_g) < rsg * swept) & (swept - np.abs(s_g) > dsg)
    rows.reject(~inside, "not crossing the Ewald sphere well inside the frame")
    kept = np.flatnonzero(rows.kept)
    if not len(kept):
        raise ValueError(f"no reflection is left of {len(data)} in {data.filename}: {rows}")
    frame = data.frame[kept]
    reflections = Reflections(
        hkl=data.hkl[kept],
        intensity=data.intensity[kept],
        sigma=data.sigma[kept],
        run=np.zeros(len(kept), dtype=np.int64),
        angle=run.angle[frame],
        half_width=run.semi_angle[frame],
        row=kept,
        frame=frame,
        share=shares(run, data.hkl[kept], frame),
    )
    return reflections, rows


def _repeated(data: PetsData) -> np.ndarray:
    """(N,) bool: an earlier row has the same reflection in the same frame."""
    key = np.column_stack([data.frame, data.hkl])
    _, first = np.unique(key, axis=0, return_index=True)
    repeated = np.ones(len(data), dtype=bool)
    repeated[first] = False
    return repeated
