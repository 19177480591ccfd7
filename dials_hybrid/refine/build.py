"""From inputs, settings and a state to data cut into rocking steps and a model of them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from dials_hybrid.bloch.electron import wave_number
from dials_hybrid.data import Dataset
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy, Progress
from dials_hybrid.model.thickness import PARAMETRIC, Neural, Thickness, ThicknessGrid
from dials_hybrid.refine.free_set import choose_free
from dials_hybrid.refine.state import Inputs, Settings, State

_NODES_PER_EXTINCTION = 14  # thickness nodes in the shortest extinction distance
_FEWEST_NODES, _MOST_NODES = 16, 64


class Builder:
    """Makes datasets and models for the stages of a refinement."""

    def __init__(self, inputs: Inputs, settings: Settings, progress: Progress):
        self.inputs = inputs
        self.settings = settings
        self.progress = progress

    def dataset(self, thickness: float, mosaic_points: int) -> Dataset:
        """The data, cut finely enough for crystals of this thickness [A], with the free set drawn.

        The intensity has no period in the scan angle shorter than 1 / (t g). Quantiles of the mosaic
        spread interleave: together they sample more finely than each alone needs to.
        """
        coarsest = (2.0 if mosaic_points > 1 else 1.0) / (thickness * self.settings.g_max)
        step = self.settings.rocking_step or math.degrees(coarsest) / mosaic_points
        dataset = self.inputs.measurement.dataset(step, mosaic_points)
        observations = dataset.observations
        free = choose_free(
            observations.hkl,
            self.inputs.atoms.rotations,
            self.settings.free_fraction,
            self.settings.seed,
        )
        dataset = replace(dataset, observations=replace(observations, free=free))
        return dataset.to(self.settings.device)

    def n_nodes(self, dataset: Dataset, maximum: float) -> int:
        """Thickness nodes that follow the pendelloesung of the strongest reflection."""
        hkl = dataset.observations.hkl
        u = self._crystal().potential(hkl, dataset.wavelength, False).u
        extinction = wave_number(dataset.wavelength) / float(u.abs().max())
        n = math.ceil(maximum * _NODES_PER_EXTINCTION / extinction)
        return min(max(n, _FEWEST_NODES), _MOST_NODES)

    def hybrid(self, dataset: Dataset, state: State, *, mosaic: bool = True) -> Hybrid:
        """The model at `state`, its scale at 1 where the state has no parameters yet."""
        settings, steps = self.settings, dataset.steps
        mosaic = mosaic and settings.mosaic_points > 1
        orientation = Orientation(
            steps,
            n_nodes=settings.tilt_nodes,
            mosaic_spread=settings.mosaic_spread if mosaic else None,
            restraint=settings.tilt_restraint,
        )
        hybrid = Hybrid(
            dataset,
            self._crystal(),
            orientation,
            [self._thickness(state, start) for start in state.thickness_start],
            Scale(dataset.observations, steps.n_crystals, settings.scale_nodes),
            BeamPolicy(settings.g_max, settings.sg_max, settings.segment_length),
            nproc=settings.nproc,
            dtype=torch.float32,
            progress=self.progress,
        ).to(settings.device)
        if state.vector is not None:
            hybrid.load_vector(torch.tensor(state.vector, dtype=torch.float64, device=settings.device))
            hybrid.update_beams()
        return hybrid

    def _crystal(self) -> Crystal:
        inputs, device = self.inputs, self.settings.device
        return Crystal(inputs.atoms.to(device), inputs.jacobian.to(device), inputs.names)

    def _thickness(self, state: State, start: list[float]) -> Thickness:
        settings, grid = self.settings, ThicknessGrid(*state.grid)
        if state.thickness_model in PARAMETRIC:
            return PARAMETRIC[state.thickness_model](grid, *start)
        return Neural(
            grid,
            torch.tensor(start, dtype=torch.float64),
            hidden=settings.network_hidden,
            terms=settings.network_terms,
            strength=settings.network_prior,
            seed=settings.seed,
        )
