"""Made-up measurements of a known crystal, as a library: `simulate`."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from libtbx import Auto

from dials.array_family import flex
from dials.util import progress

from dials_hybrid.data import AtomicModel
from dials_hybrid.io.experiments import read_sweep
from dials_hybrid.io.prediction import (
    blank,
    check_predictable,
    predicted,
    with_intensities,
    with_rocking_width,
)
from dials_hybrid.io.reflections import combine_tables, read_reflections
from dials_hybrid.io.structure import prepare_structure
from dials_hybrid.io.tensors import atomic_model
from dials_hybrid.io.truth import described
from dials_hybrid.io.virtual_frames import (
    MergedImages,
    merged_images,
    on_images,
    reflections_of_frames,
    write_pets,
)
from dials_hybrid.machine import one_thread
from dials_hybrid.model.parallel import number_of_processors
from dials_hybrid.phil import check_values
from dials_hybrid.phil_simulate import phil_scope
from dials_hybrid.refine.rvalues import r_values
from dials_hybrid.refine.simulate import (
    Counting,
    Numerics,
    convergence,
    counted,
    ideal_intensities,
    scaled_angle,
    scan_limits,
    thickness_nodes,
)
from dials_hybrid.refine.specimen import Misorientation, Specimen, StatedThickness
from dials_hybrid.rocking.measurement import Measurement

logger = logging.getLogger("dials.hybrid_simulate.synthesis")

_CURVE_POINTS = 101  # of thickness and tilt against scan angle, for each crystal
_STEP = 0.125  # rocking step times thickness and g_max [radian]; intensities have no period below 1
_MANY_STEPS = 3e5


def simulate(experiments, structure, params=None, reflections=None):
    """Experiments and reflections that a known crystal would give, and the truth about it.

    Example::

        params = dials_hybrid.phil_simulate.phil_scope.extract()
        params.thickness.mean = 800
        experiments, reflections, truth = simulate(experiments, structure, params)

    Args:
        experiments: dxtbx ExperimentList: beam, detector, scan and the indexed orientation.
        structure: cctbx xray.structure, the truth.
        params: extract of `dials_hybrid.phil_simulate.phil_scope`; None for its defaults.
        reflections: reflection table, or a list of them, whose rows are simulated; None: all that DIALS
            predicts to be fully recorded.

    Returns:
        The experiments (with a profile model of the rocking width), a reflection table, whose column
        `intensity.true.value` has the counts expected without noise, and a dictionary with the truth.

    Raises:
        ValueError: the input cannot be simulated; the message says why, in one sentence.
    """
    return Synthesis(experiments, structure, params or phil_scope.extract(), reflections).run()


@dataclass(frozen=True)
class _Ideal:
    """What a simulation without noise gives."""

    counts: np.ndarray  # (M,)
    scale: float  # counts a degree
    tail: float


class Synthesis:
    """A simulation in its parts; see `simulate` for the arguments."""

    def __init__(self, experiments, structure, params, reflections=None):
        check_values(params, phil_scope)
        check_predictable(experiments, structure)
        self.params = params
        width = None if params.rocking_width is Auto else params.rocking_width
        self.experiments = with_rocking_width(experiments, width)
        # Hydrogens and displacement parameters stay as they are: this is the truth.
        self.structure = prepare_structure(structure, adp="as_is", ions=params.ions)
        self.atoms: AtomicModel = atomic_model(self.structure)
        self.table = self._table(reflections)
        self.measurement = self._measurement()
        self.specimen = _specimen(params)
        self.numerics = self._numerics()
        self.nproc = number_of_processors() if params.nproc is Auto else params.nproc
        self.counting = Counting(params.counts.background, params.counts.gain, params.counts.noise)
        self._ideal: _Ideal | None = None

    def run(self):
        """Experiments, reflections and truth."""
        sweep = self.ideal()
        reflections = self.measurement.reflections
        background = self.counting.background * 2.0 * reflections.half_width
        generator = np.random.default_rng(self.params.seed)
        measured = counted(sweep.counts, background, self.counting, generator)
        table = self.table.select(flex.size_t(reflections.row.tolist()))
        table = with_intensities(table, *measured)
        table["intensity.true.value"] = flex.double(np.ascontiguousarray(sweep.counts))
        table["background.sum.value"] = flex.double(np.ascontiguousarray(background))
        table["background.sum.variance"] = flex.double(np.ascontiguousarray(background * self.counting.gain))
        return self.experiments, table, self._truth(*measured)

    @one_thread()
    def ideal(self) -> _Ideal:
        """The sweep without noise, calculated once."""
        if self._ideal is None:
            numerics = self.numerics
            weak = f" (by perturbation {numerics.weak_sg_max:g} 1/A)" if numerics.weak_sg_max else ""
            logger.info(
                f"Simulating {len(self.measurement.reflections)} reflections: |g| < "
                f"{numerics.g_max:.2f} 1/A, |S_g| < {numerics.sg_max:g} 1/A{weak}, "
                f"{numerics.nodes} thicknesses up to {self.specimen.thickness.largest:.0f} A"
            )
            intensity, tail = self._intensities(self.measurement)
            if not intensity.mean() > 0.0:
                raise ValueError("the crystal scatters nothing into these reflections")
            scale = self.params.counts.mean / float(intensity.mean())
            self._ideal = _Ideal(scale * intensity, scale, tail)
        return self._ideal

    @one_thread()
    def write_pets(self, filename: str) -> dict:
        """Write the same crystal in virtual frames, with noise of its own; their number and R of truth.

        Raises:
            ValueError: there are several experiments, or no whole frame.
        """
        frames, hkl, frame = self._frames()
        reflections, images = on_images(frames, hkl, frame)
        measurement = replace(self.measurement, reflections=reflections, n_rows=len(reflections))
        expected = self.ideal().scale * self._intensities(measurement)[0]
        background = np.full_like(expected, self.counting.background * 2.0 * reflections.half_width)
        generator = np.random.default_rng([self.params.seed, 1])
        of_images = counted(expected, background, self.counting, generator)
        intensity, sigma = of_images[0][images].sum(1), np.sqrt((of_images[1][images] ** 2).sum(1))
        expected = expected[images].sum(1)
        cell = self.experiments[0].crystal.get_unit_cell()
        write_pets(
            filename,
            frames,
            hkl,
            frame,
            intensity,
            sigma,
            cell=cell.parameters(),
            volume=cell.volume(),
            wavelength=measurement.wavelength,
            mosaic_spread=self.specimen.mosaic_spread,
        )
        return {
            "n_frames": len(frames),
            "n_merged": frames.n_merged,
            "step": frames.step,
            "n_reflections": len(frame),
            "intensities": expected.tolist(),
            "r_of_truth": _r_of_truth(intensity, sigma, expected),
        }

    def _intensities(self, measurement: Measurement) -> tuple[np.ndarray, float]:
        return ideal_intensities(
            measurement,
            self.atoms,
            self.specimen,
            self.numerics,
            nproc=self.nproc,
            progress=lambda iterable, total: progress(iterable, total=total),
        )

    def _table(self, reflections) -> flex.reflection_table:
        if reflections is None:
            return blank(predicted(self.experiments, self.params.d_min))
        return blank(combine_tables(reflections, self.experiments))

    def _measurement(self) -> Measurement:
        params = self.params
        blurred = params.mosaic_directions == "both" and params.mosaic_spread > 0.0
        sweeps = [replace(read_sweep(experiment), blurred=blurred) for experiment in self.experiments]
        reflections, rows = read_reflections(
            self.table,
            sweeps,
            column="sum",
            half_width=[float(np.max(e.profile.delta_m(deg=True))) for e in self.experiments],
            min_partiality=0.99,
            min_zeta=params.min_zeta,
            d_min=params.d_min,
            d_max=None,
        )
        for reason, n in rows.counts.items():
            logger.info(f"{n} reflections are left out: {reason}")
        wavelength = float(np.mean([e.beam.get_wavelength() for e in self.experiments]))
        return Measurement(tuple(sweeps), reflections, wavelength, len(self.table))

    def _numerics(self) -> Numerics:
        """Resolve every Auto."""
        numerics, measurement = self.params.numerics, self.measurement
        reflections = measurement.reflections
        cells = [e.crystal.get_unit_cell() for e in self.experiments]
        places = zip(reflections.hkl.tolist(), reflections.run, strict=True)
        g = np.sqrt([cells[run].d_star_sq(tuple(h)) for h, run in places])
        g_max = _auto(numerics.g_max, max(2.2, 1.2 * float(g.max())))
        if g_max <= g.max():
            raise ValueError(
                f"numerics.g_max={g_max:g} leaves out reflections, whose |g| reaches {g.max():.2f} 1/A"
            )
        largest = self.specimen.thickness.largest
        step = _auto(numerics.rocking_step, float(np.degrees(_STEP / (largest * g_max))))
        if measurement.longest_range / step > _MANY_STEPS:
            raise ValueError(
                f"{measurement.longest_range / step:.2g} rocking steps are too many: make the crystal "
                "thinner (thickness.mean, thickness.width) or numerics.rocking_step longer"
            )
        points = numerics.mosaic_points if self.specimen.mosaic_spread > 0.0 else 1
        nodes = _auto(numerics.nodes, thickness_nodes(measurement, self.atoms, largest))
        return Numerics(g_max, numerics.sg_max, step, points, nodes, numerics.weak_sg_max or 0.0)

    def _truth(self, intensity: np.ndarray, sigma: np.ndarray) -> dict:
        ideal, params = self.ideal(), self.params
        checks = {"last_chebyshev_terms": ideal.tail}
        if params.numerics.check:
            checks |= convergence(
                self.measurement, self.atoms, self.specimen, self.numerics, nproc=self.nproc
            )
        return {
            "structure": described(self.structure),
            "thickness": {**asdict(self.specimen.thickness), "curve": self._curve()},
            "misorientation": asdict(self.specimen.misorientation),
            "mosaic_spread": self.specimen.mosaic_spread,
            "mosaic_directions": params.mosaic_directions,
            "scale": ideal.scale,
            "counting": asdict(self.counting),
            "seed": params.seed,
            "numerics": asdict(self.numerics),
            "convergence": checks,
            "rocking_half_width": [float(np.max(e.profile.delta_m(deg=True))) for e in self.experiments],
            "n_reflections": len(intensity),
            "n_observed": int((intensity > 3.0 * sigma).sum()),
            "r_of_truth": _r_of_truth(intensity, sigma, ideal.counts),
            "intensities": ideal.counts.tolist(),
        }

    def _curve(self) -> list[dict]:
        """Thickness [A] and tilt [degree] against the scan angle [degree] of each crystal."""
        curve = []
        limits = scan_limits(self.measurement)
        for crystal, (first, last) in enumerate(limits):
            angle = np.linspace(first, last, _CURVE_POINTS)
            x = scaled_angle(angle, np.full(_CURVE_POINTS, crystal), limits)
            mean, spread = self.specimen.thickness.moments(x)
            tilt = self.specimen.misorientation.tilt(x, crystal)
            columns = {"angle": angle, "mean": mean, "spread": spread, "tilt": tilt}
            curve += [
                {"crystal": crystal, **dict(zip(columns, map(float, row), strict=True))}
                for row in zip(*columns.values(), strict=True)
            ]
        return curve

    def _frames(self) -> tuple[MergedImages, np.ndarray, np.ndarray]:
        """Virtual frames and the reflections (M, 3) of each, with their frames (M,)."""
        if len(self.experiments) != 1:
            raise ValueError(
                f"a .cif_pets file holds one crystal, not {len(self.experiments)}: give one experiment"
            )
        measurement, params = self.measurement, self.params.virtual_frames
        frames = merged_images(measurement.runs[0], params.n_merged, params.step)
        hkl = np.unique(measurement.reflections.hkl, axis=0)
        return frames, *reflections_of_frames(frames, hkl, 1.0 / measurement.wavelength)


def _specimen(params) -> Specimen:
    thickness = params.thickness
    return Specimen(
        StatedThickness(
            thickness.model,
            thickness.mean,
            thickness.width if thickness.model == "normal" else 0.0,
            thickness.change,
            thickness.amplitude if thickness.change != "none" else 0.0,
            thickness.periods,
        ),
        Misorientation(params.misorientation.constant, params.misorientation.smooth, params.seed),
        params.mosaic_spread,
    )


def _r_of_truth(intensity: np.ndarray, sigma: np.ndarray, truth: np.ndarray) -> dict:
    values = r_values(*(torch.as_tensor(part) for part in (intensity, sigma, truth)))
    return {name: getattr(values, name) for name in ("r1_obs", "r1_all", "wr_all")}


def _auto(value, default):
    return default if value is Auto else value
