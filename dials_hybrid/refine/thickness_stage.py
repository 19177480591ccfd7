"""How one thickness distribution takes the place of another, all else unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from dials_hybrid.data import Dataset
from dials_hybrid.model.hybrid import Evaluation, Hybrid
from dials_hybrid.model.simulation import RockingSums
from dials_hybrid.model.thickness import PARAMETRIC
from dials_hybrid.refine.build import Builder
from dials_hybrid.refine.free_set import unique_reflections
from dials_hybrid.refine.joint_fit import Fit, JointFit
from dials_hybrid.refine.prior_widths import prior_widths
from dials_hybrid.refine.state import State
from dials_hybrid.refine.thickness_choice import Candidate, Comparison
from dials_hybrid.refine.thickness_scan import grid_maximum, scan_thickness

MakeFit = Callable[[Hybrid], JointFit]

STARTS = ("wedge", "normal")  # of a network or a histogram, from simple to complex
TRIAL_CYCLES = 10
_CLEARLY = 0.9  # of chi^2: a scan, coarse and with one scale, that is lower than a refined distribution
_NEAR = 0.025  # log-likelihood per observation by which a start may be worse than the best
_WIDER = 1.25  # times the present grid: what is worth a new one
_APART = 2.0  # distances of two nodes between the means of starts that are worth a trial each


def with_thickness(build: Builder, hybrid: Hybrid, state: State, dataset: Dataset | None = None) -> Hybrid:
    """The thickness of `state` at its start; structure, orientation and scale of `hybrid`.

    Args:
        dataset: the same data in other rocking steps, or None.
    """
    model = build.hybrid(dataset or hybrid.dataset, replace(state, vector=None))
    x, before, blocks = model.vector(), hybrid.vector(), hybrid.slices()
    for name, part in model.slices().items():
        if name != "thickness":
            x[part] = before[blocks[name]]
    model.load_vector(x)
    return model


def starts(
    build: Builder, make_fit: MakeFit, hybrid: Hybrid, sums: RockingSums, state: State
) -> Iterator[tuple[Hybrid, State]]:
    """Models that explain the data nearly as well as the best, each from a minimum of the scan.

    Pendelloesung makes several thicknesses look alike, and which is the best may change once the
    orientation is refined. Thickness and scale are refined here from each, all with the same sums.
    """
    assert state.scan is not None
    found = []
    for numbers in state.scan.minima[state.thickness_model]:
        start = replace(state, thickness_start=[numbers] * len(state.thickness_start))
        model = with_thickness(build, hybrid, start)
        fit = make_fit(model).refine_thickness(sums, max_cycles=TRIAL_CYCLES, tolerance=1e-3)
        found.append((fit.log_likelihood, model.mean_thickness(fit.evaluation), model, start))
    found.sort(key=lambda item: -item[0])
    least = found[0][0] - _NEAR * float(hybrid.dataset.observations.share.sum())
    tried: list[float] = []
    for likelihood, mean, model, start in found:
        if likelihood >= least and all(abs(mean - t) > _APART * hybrid.grid.spacing for t in tried):
            tried.append(mean)
            yield model, start


def prefers_another(hybrid: Hybrid, fit: Fit, model: str | None) -> tuple[bool, bool]:
    """Whether a scan with the sums of `fit` finds a clearly better thickness, and looks beyond the grid.

    Args:
        model: the distribution of the scan that counts; None: all.
    """
    sums, target = fit.evaluation.sums.intensity, fit.target
    scan = scan_thickness(fit.evaluation.scale[:, None] * sums, hybrid.grid, target)
    present = float(target.chi_squared(fit.evaluation.intensity))
    best = scan.best_chi_squared
    return (best[model] if model else min(best.values())) < _CLEARLY * present, scan.at_bound


def widened(build: Builder, hybrid: Hybrid, fit: Fit, state: State) -> tuple[Hybrid, State]:
    """With a wider grid, if the refined structure shows a thicker crystal than the first scan did."""
    sums, settings = fit.evaluation.sums.intensity, build.settings
    scan = scan_thickness(fit.evaluation.scale[:, None] * sums, hybrid.grid, fit.target)
    maximum = grid_maximum(scan)
    if settings.thickness_maximum or maximum < _WIDER * state.grid[0]:
        return hybrid, state
    numbers = [thickness.numbers() for thickness in hybrid.thickness]
    grid = maximum, build.n_nodes(hybrid.dataset, maximum)
    state = replace(state, grid=grid, thickness_start=numbers)
    model = with_thickness(build, hybrid, state, build.dataset(state.thickest, settings.mosaic_points))
    model.update_beams()
    return model, replace(state, vector=model.vector().tolist())


def change_model(
    build: Builder,
    make_fit: MakeFit,
    hybrid: Hybrid,
    state: State,
    wanted: str,
    evaluation: Evaluation | None = None,
) -> tuple[Hybrid, State, list[Candidate]]:
    """Put the model `wanted` in place of a distribution of one or two numbers.

    Args:
        wanted: histogram, neural, or auto for the model that cross-validation chooses.
        evaluation: of `hybrid` as it is; None: with beams for its present orientation.
    """
    if evaluation is None:
        hybrid.update_beams()
        evaluation = hybrid.evaluate()
    sums, observations = evaluation.sums, hybrid.dataset.observations
    reference = make_fit(hybrid).weighting.target(observations, evaluation.intensity)
    scan = scan_thickness(evaluation.scale[:, None] * sums.intensity, hybrid.grid, reference)
    group = unique_reflections(observations.hkl, hybrid.crystal.start.rotations)
    learn = build.settings.network_prior is None
    present = state.thickness_model if state.comparison else None
    comparison = Comparison(make_fit, sums, reference, group, build.settings.seed, learn, present)

    def blank(name: str, numbers: list[list[float]]) -> State:
        return replace(state, thickness_model=name, thickness_start=numbers)

    def simple(name: str) -> Hybrid:
        if name == state.thickness_model:
            return build.hybrid(hybrid.dataset, replace(state, vector=hybrid.vector().tolist()))
        return with_thickness(build, hybrid, blank(name, [scan.best[name]] * len(hybrid.thickness)))

    trials = {name: comparison.trial(simple(name)) for name in (PARAMETRIC if wanted == "auto" else STARTS)}
    start = comparison.choose({name: trials[name] for name in STARTS})
    numbers = [thickness.numbers() for thickness in trials[start].model.thickness]
    network = "neural" if wanted == "auto" else wanted
    trials[network] = comparison.trial(with_thickness(build, hybrid, blank(network, numbers)))
    candidates = []
    if wanted == "auto":
        candidates, wanted = comparison.table(trials), comparison.choose(trials)
    if wanted == state.thickness_model:
        return hybrid, replace(state, comparison=candidates), candidates
    model = trials[wanted].model
    if wanted != network:
        numbers = [scan.best[wanted]] * len(hybrid.thickness)
    vector = model.vector().tolist()
    state = replace(blank(wanted, numbers), **prior_widths(model), vector=vector, comparison=candidates)
    return model, state, candidates
