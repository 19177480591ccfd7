"""All blocks together: calculated intensities and their Jacobian.

    I_calc(obs) = scale(obs) sum_k w_k(obs) sum_t p(t | obs) I_g(k, t)

The intensity is linear in p(t) and in the scale, so thickness, scale and error model need no wave
propagation of their own: the sums at the nodes of the thickness grid feed them all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from dials_hybrid.bloch.propagate import Potential
from dials_hybrid.data import Dataset
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.held import row_blocks
from dials_hybrid.model.jacobian import Jacobian
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.potential_table import groups, tabulation_seconds
from dials_hybrid.model.ranks import of_first_rank
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy, Progress, RockingSums, Simulation, silent
from dials_hybrid.model.surface import normals
from dials_hybrid.model.thickness import Thickness, conditions

_REACH = 0.98
BLOCKS = ("crystal", "orientation", "thickness", "scale")


@dataclass(frozen=True)
class Evaluation:
    """Calculated intensities at one point of parameter space."""

    intensity: Tensor  # (M,) on the scale of the data
    scale: Tensor  # (M,)
    thickness_weights: Tensor  # (M, T)
    sums: RockingSums
    jacobian: Jacobian | None = None  # (M, P)


class Hybrid(nn.Module):
    """The joint model of a dataset.

    Its parameters, as one vector, are those of `crystal`, `orientation`, `thickness` (one model a
    crystal) and `scale`, in this order.
    """

    thickness: Sequence[Thickness]  # of each crystal; a `nn.ModuleList`
    conditions: Tensor  # what p(t) may depend on for each observation (M, 4)

    def __init__(
        self,
        dataset: Dataset,
        crystal: Crystal,
        orientation: Orientation,
        thickness: list[Thickness],
        scale: Scale,
        policy: BeamPolicy,
        *,
        surface: Tensor | None = None,
        nproc: int = 1,
        memory: float = math.inf,
        dtype: torch.dtype = torch.float64,
        progress: Progress = silent,
    ):
        super().__init__()
        self.dataset = dataset
        self.policy = policy
        self.surface = surface  # direction of each crystal's normal (C, 3), see surface.py; None: the beam's
        self.nproc = nproc
        self.memory = memory
        self.dtype = dtype
        self.progress = progress
        self.crystal = crystal
        self.orientation = orientation
        self.thickness = cast(Sequence[Thickness], nn.ModuleList(thickness))
        self.scale = scale
        self.register_buffer("conditions", self._conditions())
        self._simulation: Simulation | None = None

    @property
    def grid(self):
        return self.thickness[0].grid

    def _conditions(self) -> Tensor:
        steps, observations = self.dataset.steps, self.dataset.observations
        middle = (observations.first + observations.last) // 2
        limits = float(steps.angle.min()), float(steps.angle.max())
        beam = steps.beam[observations.crystal]
        return conditions(observations.angle, steps.basis[middle], beam, limits)

    def update_beams(self) -> None:
        """Choose the beams anew, for the present orientation and precision."""
        self._simulation = None

    @property
    def simulation(self) -> Simulation:
        """Beams and windows, as of the last `update_beams`."""
        if self._simulation is None:
            self._simulation = self._new_simulation()
        return self._simulation

    @torch.no_grad()
    def _new_simulation(self) -> Simulation:
        atoms = self.crystal.atoms()
        origin = torch.zeros(1, 3, dtype=torch.long, device=atoms.cell.device)
        u_0 = self.crystal.potential(origin, self.dataset.wavelength, False).u
        basis, blocks = self.orientation.basis(self.dataset.steps), self.slices()
        return Simulation(
            self.dataset,
            atoms,
            basis,
            self.policy,
            mean_inner_potential=float(u_0.real),
            normals=None if self.surface is None else normals(self.surface, self.dataset.steps, basis),
            spread=self.orientation.spread(),
            nproc=self.nproc,
            n_parameters=len(self.vector()),
            n_structure=blocks["crystal"].stop - blocks["crystal"].start,
            n_orientation=blocks["orientation"].stop - blocks["orientation"].start,
            n_thickness=len(self.grid),
            memory=self.memory,
            dtype=self.dtype,
            in_turn=len(self.crystal.overall_u) > 0,
            progress=self.progress,
        )

    def slices(self) -> dict[str, slice]:
        """Where each block stands in the parameter vector."""
        result, start = {}, 0
        for name in BLOCKS:
            stop = start + sum(p.numel() for p in getattr(self, name).parameters())
            result[name] = slice(start, stop)
            start = stop
        return result

    @property
    def structure(self) -> slice:
        """Where the atoms' parameters stand in the vector: the block `crystal` may hold one more."""
        return slice(0, len(self.crystal.shifts))

    def vector(self) -> Tensor:
        """All parameters (P,)."""
        return nn.utils.parameters_to_vector(self.parameters()).detach().clone()

    def load_vector(self, x: Tensor) -> None:
        """Parameters from a copy of x (P,)."""
        nn.utils.vector_to_parameters(x.clone(), self.parameters())

    def prior(self) -> tuple[Tensor, Tensor]:
        """Centre and standard deviation (infinite: free) of the prior on each parameter."""
        priors = [self.crystal.prior(), self.orientation.prior()]
        priors += [model.prior() for model in self.thickness] + [self.scale.prior()]
        centre, sigma = (torch.cat(parts).detach() for parts in zip(*priors, strict=True))
        return centre, sigma

    @torch.no_grad()
    def thickness_weights(self) -> Tensor:
        """p(t) at the grid's nodes for each observation (M, T)."""
        crystal = self.dataset.observations.crystal
        weights = torch.zeros(
            len(crystal), len(self.grid), dtype=self.conditions.dtype, device=crystal.device
        )
        for index, model in enumerate(self.thickness):
            own = crystal == index
            weights[own] = model(self.conditions[own])
        return weights

    def mean_thickness(self, evaluation: Evaluation) -> float:
        """Mean of p(t) over all observations [A]."""
        return float((evaluation.thickness_weights @ self.grid.nodes).mean())

    def reach(self) -> float:
        """Thickness [A] up to which 98 % of the intensity comes from, were it to grow as t.

        That of the observation where it is the largest.
        """
        nodes = self.grid.nodes
        part = (self.thickness_weights() * nodes).cumsum(1)
        beyond = (part >= _REACH * part[:, -1:]).long().argmax(1)
        return float(nodes[beyond.max()])

    @torch.no_grad()
    def evaluate(self, derivatives: bool = False, structure: bool = True) -> Evaluation:
        """Intensities, with the Jacobian by all parameters if asked for.

        Without `structure`, its columns of the Jacobian stay zero, which saves most of the time. All ranks
        calculate at the parameters that the first of them has.
        """
        block = self.slices()["crystal"]
        structure = structure and block.start < block.stop  # all of it may be held
        self.load_vector(of_first_rank(self.vector()))
        basis, spread = self.orientation.basis(self.dataset.steps), self.orientation.spread()

        def sums(simulation: Simulation, crystal: int) -> RockingSums:
            def potential(hkl: Tensor) -> Potential:
                return self.crystal.potential(
                    hkl, self.dataset.wavelength, derivatives and structure, crystal
                )

            if not derivatives:
                return simulation.run(potential(simulation.table.hkl), basis, self.grid.nodes, spread)
            return simulation.differentiate(
                potential,
                basis,
                self.orientation.axes,
                self.orientation.design_matrix(),
                self.grid.nodes,
                self.thickness_weights(),
                spread,
                self.orientation.spread_design(),
            )

        return self.recombine(self._of_all_crystals(sums), derivatives)

    def _of_all_crystals(self, sums: Callable[[Simulation, int], RockingSums]) -> RockingSums:
        """At once where they have the same potential, else one after the other."""
        if not len(self.crystal.overall_u):
            return sums(self.simulation, 0)
        parts = (
            sums(of_crystal(self.simulation, crystal), crystal)
            for crystal in range(self.dataset.steps.n_crystals)
        )
        return reduce(added, parts)

    def precise(self) -> Evaluation:
        """Intensities in double precision, from now on, with the beams as they are."""
        self.dtype = self.simulation.dtype = torch.float64
        return self.evaluate()

    @torch.no_grad()
    def expected_seconds(self) -> float:
        """What an evaluation with derivatives may take on CPUs like that of the benchmarks."""
        simulation, blocks = self.simulation, self.slices()
        u = self.crystal.potential(simulation.table.hkl, self.dataset.wavelength, False)
        basis = self.orientation.basis(self.dataset.steps)
        n_structure, atoms = blocks["crystal"].stop, self.crystal.start
        made = size = len(simulation.table.hkl)
        if simulation.entries < size:  # each process makes those that it needs next
            parts = (groups(share, size, simulation.entries) for share in simulation.shares)
            made = max(sum(len(needed) for needed, _ in part) for part in parts)
        table = tabulation_seconds(made, n_structure, atoms.n_atoms, len(atoms.rotations))
        n_propagated = n_structure + len(self.orientation.axes[0])
        return table + simulation.seconds(u, basis, self.grid.nodes, n_propagated)

    @torch.no_grad()
    def recombine(self, sums: RockingSums, derivatives: bool = False) -> Evaluation:
        """Intensities from given rocking sums with the present thickness and scale.

        Derivatives by structure and orientation are the ones that the sums were made with, or zero
        where the sums have none.
        """
        weights, scale = self.thickness_weights(), self.scale()
        intensity = scale * (weights * sums.intensity).sum(1)
        if not derivatives:
            return Evaluation(intensity, scale, weights, sums)
        at = self.slices()
        blocks = [
            (at["crystal"], scale, sums.by_structure),
            (at["orientation"], scale, sums.by_orientation),
            (at["thickness"], scale, self._by_thickness(sums.intensity)),
            (at["scale"], intensity, self.scale.design_matrix),
        ]
        made = tuple((part, factor, values) for part, factor, values in blocks if values is not None)
        jacobian = Jacobian((len(intensity), at["scale"].stop), made)
        return Evaluation(intensity, scale, weights, sums, jacobian)

    def _by_thickness(self, sums: Tensor) -> Tensor:
        """Derivatives (M, P'') of sum_t p_t I_t by the parameters of the thickness models."""
        crystal = self.dataset.observations.crystal
        columns = []
        for index, model in enumerate(self.thickness):
            own = crystal == index
            block = model.derivatives(self.conditions[own], sums[own])
            column = sums.new_zeros(len(sums), block.shape[1])
            column[own] = block
            columns.append(column)
        return torch.cat(columns, dim=1)


def of_crystal(simulation: Simulation, crystal: int) -> Simulation:
    """The part of a simulation that is about one crystal; it gives zeros for the observations of others."""
    part = copy.copy(simulation)
    part.shares = [[task for task in own if task.segment.crystal == crystal] for own in simulation.shares]
    return part


def added(first: RockingSums, second: RockingSums) -> RockingSums:
    """The sums of both; the first is changed."""
    for total, part in (
        (first.by_structure, second.by_structure),
        (first.by_orientation, second.by_orientation),
    ):
        if total is not None and part is not None:
            for rows in row_blocks(*total.shape):
                total.values[rows] += part[rows].to(total.values)
    first.intensity.add_(second.intensity)
    return first
