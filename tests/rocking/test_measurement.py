from __future__ import annotations

import numpy as np
import torch
from synthetic import steps_of
from test_sweep import make_sweep

from dials_hybrid.rocking.measurement import Measurement, Reflections
from dials_hybrid.rocking.mosaic import mosaic_deviates


def reflections(run, angle, half_width) -> Reflections:
    n = len(run)
    return Reflections(
        hkl=np.arange(3 * n).reshape(n, 3),
        intensity=np.linspace(-1.0, 5.0, n),
        sigma=np.linspace(1.0, 2.0, n),
        run=np.array(run),
        angle=np.array(angle),
        half_width=np.array(half_width),
        row=np.arange(n) + 7,
        frame=np.full(n, -1),
        share=np.ones(n),
    )


def test_several_runs_follow_one_another():
    runs = [make_sweep(), make_sweep(0.35, (0.0, 1.0, 0.0))]
    steps = steps_of(runs, 0.1, 5)
    assert steps.crystal.tolist() == [0] * 56 + [1] * 28
    assert torch.equal(steps.mosaic, torch.cat([mosaic_deviates(56, 5), mosaic_deviates(28, 5)]))
    np.testing.assert_allclose(steps.beam, [run.beam for run in runs])
    np.testing.assert_allclose(steps.rotation_axis, [run.rotation_axis for run in runs])


def test_reflections_take_the_steps_of_their_own_run():
    runs = (make_sweep(), make_sweep(-0.35))
    made = reflections([0, 1, 1], [-3.0, -6.0, -7.0], [0.5, 0.4, 0.6])
    dataset = Measurement(runs, made, 0.025, 9, {"odd": 6}).dataset(0.1, 1)
    steps, observations = dataset.steps, dataset.observations
    for i in range(3):
        window = slice(observations.first[i], observations.last[i])
        assert (steps.crystal[window] == made.run[i]).all()
        assert (steps.angle[window] - made.angle[i]).abs().max() < made.half_width[i]
        assert abs(float(steps.weight[window].sum()) - 2 * made.half_width[i]) < 0.11
    np.testing.assert_array_equal(observations.row, made.row)
    np.testing.assert_allclose(observations.intensity, made.intensity)
    assert (dataset.n_rows, dataset.rejected) == (9, {"odd": 6})


def test_the_narrowest_rocking_curve_has_steps_enough():
    made = reflections([0, 0], [-3.0, -2.0], [0.5, 0.02])
    observations = Measurement((make_sweep(),), made, 0.025, 2).dataset(1.0, 1).observations
    assert (observations.last - observations.first).min() >= 7
