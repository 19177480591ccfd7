"""From inputs, settings and a state to data cut into rocking steps and a model of them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from dials_hybrid.bloch.electron import wave_number
from dials_hybrid.bloch.form_factors import with_form_factors
from dials_hybrid.data import Dataset
from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import Hybrid
from dials_hybrid.model.orientation import Orientation
from dials_hybrid.model.scale import Scale
from dials_hybrid.model.simulation import BeamPolicy, Progress
from dials_hybrid.model.surface import normals
from dials_hybrid.model.thickness import PARAMETRIC, Thickness
from dials_hybrid.model.thickness_grid import ThicknessGrid
from dials_hybrid.model.thickness_network import Histogram, Neural
from dials_hybrid.refine.free_set import choose_free
from dials_hybrid.refine.state import Inputs, Settings, State

_NODES_PER_EXTINCTION = 14  # thickness nodes in the shortest extinction distance
_FEWEST_NODES, _MOST_NODES = 16, 64
# Steps of one quantile of the mosaic spread, in units of 1 / (t g_max). The fine ones leave about 0.3 and
# 0.6 % in amplitudes of quartz and CsPbBr3 (0.2 and 0.3 % in observed ones), the rough ones 1.1 and 0.8 %.
_FINE, _ROUGH = 1.8, 4.0


class Builder:
    """Makes datasets and models for the stages of a refinement.

    Args:
        rough: for what is repeated with a better model: larger rocking steps, and no absorption, so that
            potentials of centrosymmetric structures are real. The parameters are the same.
    """

    def __init__(self, inputs: Inputs, settings: Settings, progress: Progress, rough: bool = False):
        self.inputs = inputs
        self.settings = settings
        self.progress = progress
        self.rough = rough

    def dataset(self, thickness: float, mosaic_points: int) -> Dataset:
        """The data, cut finely enough for crystals of this thickness [A], with the free set drawn.

        The intensity has no period in the scan angle shorter than 1 / (t g). Quantiles of the mosaic
        spread interleave: together they sample more finely than each alone needs to.
        """
        way = thickness * self._longest_way
        factor = 1.0 if mosaic_points == 1 else _ROUGH if self.rough else _FINE
        coarsest = factor / (way * self.settings.g_max)
        step = self.settings.rocking_step or math.degrees(coarsest) / mosaic_points
        dataset = self.inputs.measurement.dataset(step, mosaic_points, self.settings.mosaic_tilts)
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
        way = maximum * self._longest_way
        n = math.ceil(way * _NODES_PER_EXTINCTION / self._extinction(dataset))
        return min(max(n, _FEWEST_NODES), _MOST_NODES)

    def _extinction(self, dataset: Dataset) -> float:
        """The shortest extinction distance of the measured reflections [A]."""
        hkl = dataset.observations.hkl
        u = self._crystal().potential(hkl, dataset.wavelength, False).u
        return wave_number(dataset.wavelength) / float(u.abs().max())

    def hybrid(self, dataset: Dataset, state: State, *, mosaic: bool = True) -> Hybrid:
        """The model at `state`, its scale at 1 where the state has no parameters yet."""
        settings, steps = self.settings, dataset.steps
        mosaic = mosaic and settings.mosaic_points > 1
        orientation = Orientation(
            steps,
            n_nodes=settings.tilt_nodes,
            mosaic_spread=settings.mosaic_spread if mosaic else None,
            restraint=settings.tilt_restraint,
            frame_restraint=settings.frame_tilt_restraint,
        )
        hybrid = Hybrid(
            dataset,
            self._crystal(),
            orientation,
            self._thickness(dataset, state),
            Scale(
                dataset.observations,
                steps.n_crystals,
                settings.scale_nodes,
                restraint=state.scale_prior,
                frame_restraint=settings.frame_scale_restraint,
            ),
            BeamPolicy(settings.g_max, settings.sg_max, settings.segment_length, settings.weak_sg_max),
            surface=self._surface(),
            nproc=settings.nproc,
            memory=settings.memory,
            dtype=torch.float32,
            progress=self.progress,
        ).to(settings.device)
        if state.vector is not None:
            vector = torch.tensor(state.vector, dtype=torch.float64, device=settings.device)
            expected = len(hybrid.vector())
            if len(vector) != expected:
                raise ValueError(
                    f"the checkpoint is damaged: it has {len(vector)} numbers for {expected} parameters"
                )
            hybrid.load_vector(vector)
            hybrid.update_beams()
        return hybrid

    def _surface(self) -> Tensor | None:
        surface = self.settings.surface
        return None if surface is None else torch.tensor(surface, dtype=torch.float64)

    @cached_property
    def _longest_way(self) -> float:
        """Through the crystals, in units of their thickness."""
        surface = self._surface()
        if surface is None:
            return 1.0
        steps = self.inputs.measurement.dataset(1.0, 1).steps
        cosine = (normals(surface, steps, steps.basis) * steps.beam[steps.crystal]).sum(1)
        return 1.0 / float(cosine.min())

    def _crystal(self) -> Crystal:
        inputs, settings = self.inputs, self.settings
        atoms = with_form_factors(inputs.atoms, settings.form_factors).to(settings.device)
        jacobian = inputs.jacobian.to(settings.device)
        absorption = settings.absorption, settings.absorption_restraint
        return Crystal(
            atoms,
            jacobian,
            inputs.names,
            *absorption,
            elastic=self.rough,
            n_displacements=settings.n_displacements,
        )

    def _thickness(self, dataset: Dataset, state: State) -> list[Thickness]:
        """One model a crystal."""
        settings, grid = self.settings, ThicknessGrid(*state.grid)
        allowed = {"flat": (1,), "wedge": (1,), "normal": (2,), "gamma": (2,)}
        lengths = {len(start) for start in state.thickness_start}
        of_all = len(state.thickness_start) == dataset.steps.n_crystals
        if not (of_all and lengths <= set(allowed.get(state.thickness_model, (1, 2)))):
            raise ValueError("the checkpoint is damaged: its thickness does not fit the model")
        if state.thickness_model in PARAMETRIC:
            return [PARAMETRIC[state.thickness_model](grid, *start) for start in state.thickness_start]
        thin = self._extinction(dataset) / (2.0 * math.pi)
        strength = settings.network_prior or state.network_prior
        if state.thickness_model == "histogram":
            terms = len(grid) // 2
            return [
                Histogram(grid, *start, terms=terms, strength=strength, thin=thin)
                for start in state.thickness_start
            ]
        hidden, terms, seed = settings.network_hidden, settings.network_terms, settings.seed
        return [
            Neural(grid, *start, hidden=hidden, seed=seed, terms=terms, strength=strength, thin=thin)
            for start in state.thickness_start
        ]
