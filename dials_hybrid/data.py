"""The data model: what was measured, as plain tensors.

An observed intensity is a weighted sum of dynamical intensities over rocking steps and over
thickness. DIALS sweeps, virtual frames and precession differ only in which steps and weights
they give. Readers (`dials_hybrid.io`) turn files into these classes; nothing below them knows
DIALS or cctbx.

Units: Angstrom, 1/Angstrom, radians; vectors of the laboratory frame unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

# Columns of the parameter table of an atom, in this order (see `AtomicModel.parameters`).
ATOM_PARAMETERS = (
    "x",
    "y",
    "z",
    "uiso",
    "u11",
    "u22",
    "u33",
    "u12",
    "u13",
    "u23",
    "occ",
)


@dataclass(frozen=True)
class _Tensors:
    """Moving a dataclass of tensors to another device or floating-point precision."""

    def to(self, device=None, dtype: torch.dtype | None = None):
        """Return a copy on `device`, its floating-point tensors converted to `dtype`."""
        moved = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                wanted = dtype if value.is_floating_point() else None
                moved[item.name] = value.to(device=device, dtype=wanted)
        return replace(self, **moved)


@dataclass(frozen=True)
class AtomicModel(_Tensors):
    """The atoms of the asymmetric unit and the symmetry that repeats them.

    n atoms, S symmetry operations (centring included), F form-factor types.
    """

    labels: tuple[str, ...]
    elements: tuple[str, ...]
    cell: Tensor  # (6,) a, b, c [A], alpha, beta, gamma [degree]
    parameters: Tensor  # (n, 11): ATOM_PARAMETERS; u_iso [A^2], u_ij = U*_ij [dimensionless]
    anisotropic: Tensor  # (n,) bool: U* counts, else u_iso
    multiplicity: Tensor  # (n,) site multiplicity / number of operations
    form_factor_type: Tensor  # (n,) int, row of the two tables below
    form_factor_a: Tensor  # (F, G) amplitudes of Gaussians in s = |g|/2 [A]
    form_factor_b: Tensor  # (F, G) their exponents [A^2]
    rotations: Tensor  # (S, 3, 3) act on fractional coordinates
    translations: Tensor  # (S, 3)

    @property
    def n_atoms(self) -> int:
        return len(self.labels)

    def with_parameters(self, parameters: Tensor) -> AtomicModel:
        return replace(self, parameters=parameters)


@dataclass(frozen=True)
class Restrained(_Tensors):
    """Q restraints of one kind, each on k = 1 or 2 atoms; the last of them is its image R x + t, R U R^T."""

    atoms: Tensor  # (Q, k) int, rows of the parameter table
    rotation: Tensor  # (Q, 3, 3) acts on fractional coordinates
    translation: Tensor  # (Q, 3)
    target: Tensor  # (Q,) distance [A] of `dfix`; zero in the other kinds
    sigma: Tensor  # (Q,) [A] for sites, [A^2] for displacements
    group: Tensor  # (Q,) int: distances that are the same, atoms of one plane

    def __len__(self) -> int:
        return len(self.sigma)


@dataclass(frozen=True)
class Restraints:
    """What is known of a structure beside the data, by the names that SHELX gave the kinds."""

    dfix: Restrained  # distances (DFIX and DANG)
    sadi: Restrained  # distances that are the same
    flat: Restrained  # atoms in a plane
    simu: Restrained  # neighbours have the same U_ij
    delu: Restrained  # the same mean-square displacement along the vector between them
    rigu: Restrained  # no relative motion along it and across (enhanced rigid bond)
    isor: Restrained  # nearly isotropic

    def __len__(self) -> int:
        return sum(len(getattr(self, item.name)) for item in fields(self))

    def to(self, device=None, dtype: torch.dtype | None = None) -> Restraints:
        return replace(self, **{f.name: getattr(self, f.name).to(device, dtype) for f in fields(self)})

    def inverted(self) -> Restraints:
        """The same for the inverted structure: sites -x, operations (R, -t)."""
        kinds = ((item.name, getattr(self, item.name)) for item in fields(self))
        return Restraints(**{name: replace(kind, translation=-kind.translation) for name, kind in kinds})


@dataclass(frozen=True)
class RockingSteps(_Tensors):
    """K orientations of a crystal in the beam at which the wave equation is solved.

    Steps of one crystal are consecutive and ordered by scan angle.
    """

    basis: Tensor  # (K, 3, 3) columns a*, b*, c* [1/A]: r = basis @ hkl
    weight: Tensor  # (K,) quadrature weight [degree]
    angle: Tensor  # (K,) scan angle [degree]
    crystal: Tensor  # (K,) int
    frame: Tensor  # (K,) int, virtual frame of the crystal; -1 in a sweep
    next_frame: Tensor  # (K,) int, the one that has the step in common with it (itself at an end); -1: none
    part: Tensor  # (K,) of the way from the middle of the one to that of the other
    mosaic: Tensor  # (K,) standard normal deviate: tilt of this step in units of the mosaic spread
    beam: Tensor  # (C, 3) unit vector along the incident beam, one a crystal
    rotation_axis: Tensor  # (C, 3) unit vector, one a crystal

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def n_crystals(self) -> int:
        return len(self.beam)

    def frames(self) -> Tensor:
        """Crystal and number of each virtual frame (F, 2)."""
        return _frames(self.crystal.repeat(2), torch.cat([self.frame, self.next_frame]))


@dataclass(frozen=True)
class Observations(_Tensors):
    """M integrated intensities, each the sum over the steps `first <= k < last`."""

    hkl: Tensor  # (M, 3) int
    intensity: Tensor  # (M,) raw, without Lorentz correction
    sigma: Tensor  # (M,) > 0
    first: Tensor  # (M,) int
    last: Tensor  # (M,) int
    crystal: Tensor  # (M,) int
    angle: Tensor  # (M,) scan angle of the centre [degree]
    row: Tensor  # (M,) int, row of the source table
    frame: Tensor  # (M,) int, virtual frame of the crystal; -1 in a sweep
    share: Tensor  # (M,) weight: rows that list one measurement n times have 1 / n each
    free: Tensor  # (M,) bool: held out of every fit
    # (M, 2) scan angles [degree] between which it was measured, where a mosaic spread about the rotation axis
    # blurs these edges, infinite where it does not (see `model.windows`). None: nowhere.
    edges: Tensor | None = None

    def __len__(self) -> int:
        return len(self.intensity)

    @property
    def n_crystals(self) -> int:
        """Up to the last one with an observation."""
        return int(self.crystal.max()) + 1 if len(self) else 1

    def frames(self) -> Tensor:
        """Crystal and number of each virtual frame with observations (F, 2)."""
        return _frames(self.crystal, self.frame)


def _frames(crystal: Tensor, frame: Tensor) -> Tensor:
    return torch.stack([crystal, frame], dim=1)[frame >= 0].unique(dim=0)


@dataclass(frozen=True)
class Dataset:
    """What was measured, how, and what was left out and why."""

    steps: RockingSteps
    observations: Observations
    wavelength: float  # [A]
    n_rows: int  # rows of the source table
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> number of rows

    def to(self, device=None, dtype: torch.dtype | None = None) -> Dataset:
        return replace(
            self,
            steps=self.steps.to(device, dtype),
            observations=self.observations.to(device, dtype),
        )
