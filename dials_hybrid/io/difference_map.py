r"""Maps of the electrostatic potential, observed and observed minus calculated.

With the phases of the kinematical structure factors F_c:

    FWT = (|F_c| + k m (|F_o| - |F_c|)) F_c / |F_c|,     DELFWT = m (|F_o| - |F_c|) F_c / |F_c|
    phi(r) = 2 pi a_0 / V sum_h F_h exp(-2 pi i h.r)

F in Angstrom; the Bohr radius a_0 turns it into a potential in e/Angstrom (1 e/Angstrom is 14.40 V);
k = 1 for centric and 2 for acentric reflections. The weight m = s^2 / (s^2 + sigma^2(F_o)) keeps
uncertain amplitudes out of the maps; s is the root mean square of |F_o| - |F_c| over all reflections.
The free reflections are in the maps too.

Phases are those of cctbx, exp(+2 pi i h.r), and so of MTZ files and the programs that read them: the
structure factors of `dials_hybrid.bloch` are the complex conjugates.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cctbx import maptbx, miller, sgtbx, xray
from cctbx.array_family import flex
from iotbx import mtz

from dials_hybrid.io.atomic import atomic_write

_POTENTIAL = 2.0 * math.pi * 0.529177210903  # [A], from structure factor [A] to potential [e A^2]
_GRID = 1.0 / 4.0  # of the resolution
_FREE, _WORKING = 0, 1  # as CCP4 and Coot have it
_CLOSEST_PEAKS = 0.4  # [A]


@dataclass(frozen=True)
class Peak:
    """An extremum of the difference map."""

    height: float  # [e/A]
    site: tuple[float, float, float]  # fractional
    atom: str  # the nearest one
    distance: float  # to it [A]


class DifferenceMap:
    """Map coefficients of a refined structure.

    Args:
        structure: refined.
        hkl: (U, 3) unique reflections.
        calculated: (U,) complex, F_g of `bloch.scattering.structure_factors` [A].
        observed, sigma: (U,) |F_o| and its standard uncertainty [A].
        free: (U,) bool.
    """

    def __init__(
        self,
        structure: xray.structure,
        hkl: np.ndarray,
        calculated: np.ndarray,
        observed: np.ndarray,
        sigma: np.ndarray,
        free: np.ndarray,
    ):
        self.structure = structure
        indices = miller.set(structure, flex.miller_index(hkl.tolist()), anomalous_flag=False)
        present = ~indices.sys_absent_flags().data()

        def array(*data) -> miller.array:
            unsorted = miller.array(indices, *data).select(present).map_to_asu()
            return unsorted.sort("packed_indices")

        self.f_calc = array(flex.complex_double(calculated.conj()))
        self.f_obs = array(flex.double(observed), flex.double(sigma))
        self.flags = array(flex.int(np.where(free, _FREE, _WORKING).astype(np.int32)))
        difference = self.f_obs.data() - flex.abs(self.f_calc.data())
        square, variance = flex.mean(flex.pow2(difference)), flex.pow2(self.f_obs.sigmas())
        self._weighted = difference * square / (square + variance + 1e-30)

    def _with_phases(self, amplitudes: flex.double) -> miller.array:
        unit = flex.polar(flex.double(len(amplitudes), 1.0), flex.arg(self.f_calc.data()))
        return self.f_calc.customized_copy(data=amplitudes * unit)

    @property
    def difference(self) -> miller.array:
        """DELFWT [A] as complex numbers."""
        return self._with_phases(self._weighted)

    @property
    def observed(self) -> miller.array:
        """FWT [A] as complex numbers."""
        k = flex.double(np.where(self.f_calc.centric_flags().data().as_numpy_array(), 1.0, 2.0))
        return self._with_phases(flex.abs(self.f_calc.data()) + k * self._weighted)

    def potential(self, coefficients: miller.array):
        """The map of such coefficients [e/A], a `cctbx.miller.fft_map`."""
        scaled = coefficients.customized_copy(data=_POTENTIAL * coefficients.data())
        found = scaled.fft_map(resolution_factor=_GRID, symmetry_flags=maptbx.use_space_group_symmetry)
        return found.apply_volume_scaling()

    def peaks(self, n: int = 10) -> tuple[list[Peak], list[Peak]]:
        """The n highest peaks and deepest holes of the difference map."""
        difference = self.difference
        upside_down = difference.customized_copy(data=-difference.data())
        return self._extrema(difference, n, 1.0), self._extrema(upside_down, n, -1.0)

    def _extrema(self, coefficients: miller.array, n: int, sign: float) -> list[Peak]:
        search = maptbx.peak_search_parameters(
            peak_search_level=1,
            interpolate=True,
            min_distance_sym_equiv=_CLOSEST_PEAKS,
            min_cross_distance=_CLOSEST_PEAKS,
            max_clusters=n,
        )
        found = self.potential(coefficients).peak_search(parameters=search).all()
        return [
            Peak(sign * height, tuple(site), *self._nearest(site))
            for site, height in zip(found.sites(), found.heights(), strict=True)
        ][:n]

    def _nearest(self, site: tuple[float, float, float]) -> tuple[str, float]:
        images = sgtbx.sym_equiv_sites(self.structure.site_symmetry(site))
        return min(
            (
                (scatterer.label, sgtbx.min_sym_equiv_distance_info(images, scatterer.site).dist())
                for scatterer in self.structure.scatterers()
            ),
            key=lambda found: found[1],
        )

    def summary(self) -> dict:
        """Extrema and root mean square of the difference map [e/A], peaks and holes, as plain values."""
        statistics = self.potential(self.difference).statistics()
        peaks, holes = self.peaks()
        return {
            "unit": "e/A",
            # peaks are interpolated between the points of the grid
            "max": max([statistics.max(), *(peak.height for peak in peaks)]),
            "min": min([statistics.min(), *(hole.height for hole in holes)]),
            "rms": statistics.sigma(),
            "peaks": [vars(peak) for peak in peaks],
            "holes": [vars(hole) for hole in holes],
        }


class _Labels(mtz.ccp4_label_decorator):
    _PHASES = {"FWT": "PHWT", "DELFWT": "PHDELWT", "FC": "PHIC"}

    def phases(self, root_label: str, anomalous_sign=None) -> str:
        return self._PHASES[root_label]


def write_mtz(filename: str | Path, found: DifferenceMap, wavelength: float) -> None:
    """Amplitudes, map coefficients and free flags, completely or not at all.

    Columns: FP SIGFP, FC PHIC, FWT PHWT, DELFWT PHDELWT, and FreeR_flag (0: free) if there is a free set.

    Raises:
        OSError: the file cannot be written.
    """
    labels = _Labels()
    dataset = found.f_obs.as_mtz_dataset("FP", label_decorator=labels, wavelength=wavelength)
    for name, array in (("FC", found.f_calc), ("FWT", found.observed), ("DELFWT", found.difference)):
        dataset.add_miller_array(array, name, label_decorator=labels)
    if (found.flags.data() == _FREE).count(True):
        dataset.add_miller_array(found.flags, "FreeR_flag")
    with atomic_write(filename) as path:
        try:
            dataset.mtz_object().write(str(path))
        except RuntimeError as error:  # of iotbx, which does not say why
            raise OSError(errno.EIO, "it cannot be written: is the disk full?") from error
