from __future__ import annotations

import pytest
import torch
from synthetic import central_differences

from dials_hybrid.model.crystal import Crystal
from dials_hybrid.model.hybrid import BLOCKS


def check_jacobian(hybrid, block):
    """Against central differences: 2e-6 of the largest derivative by each parameter, and their rounding."""
    found = hybrid.evaluate(derivatives=True)
    x, part = hybrid.vector(), hybrid.slices()[block]
    jacobian = found.jacobian[:][:, part]

    def intensity(values):
        hybrid.load_vector(torch.cat([x[: part.start], values, x[part.stop :]]))
        return hybrid.evaluate().intensity

    step = (1.5e-5 * found.intensity.max() / jacobian.abs().amax(0)).clamp(max=1.5e-3)
    expected = central_differences(intensity, x[part], step)
    scale = expected.abs().amax(0)
    assert (scale > 0.0).all(), "a derivative that is zero throughout tests nothing"
    rounding = torch.finfo(torch.float64).eps * found.intensity.max() / step
    assert ((jacobian - expected).abs().amax(0) < 2e-6 * scale + rounding).all()


@pytest.mark.parametrize("block", ["crystal", "orientation", "scale"])
def test_jacobian_against_central_differences(hybrid, block):
    check_jacobian(hybrid(), block)


@pytest.mark.parametrize("thickness", ["flat", "wedge", "normal", "gamma", "histogram", "neural"])
def test_jacobian_by_thickness_against_central_differences(hybrid, thickness):
    check_jacobian(hybrid(thickness), "thickness")


def test_jacobian_by_the_absorption_factor_against_central_differences(hybrid):
    model = hybrid()
    start = model.crystal
    model.crystal = Crystal(start.start, start.jacobian, start.names, 1.0, absorption_restraint=0.5)
    check_jacobian(model, "crystal")


@pytest.mark.parametrize("absorption", [0.0, 1.0])
def test_jacobian_by_overall_displacements_against_central_differences(hybrid, absorption):
    model = hybrid()
    start, n = model.crystal, model.dataset.steps.n_crystals - 1
    model.crystal = Crystal(start.start, start.jacobian, start.names, absorption, n_displacements=n)
    model.crystal.overall_u.data[:] = 0.003
    check_jacobian(model, "crystal")


def test_crystals_with_the_same_displacement_are_calculated_as_one(hybrid):
    model = hybrid(nproc=2)
    start, n = model.crystal, model.dataset.steps.n_crystals - 1
    expected = model.evaluate(derivatives=True)
    model.crystal = Crystal(start.start, start.jacobian, start.names, n_displacements=n)
    found = model.evaluate(derivatives=True)
    torch.testing.assert_close(found.intensity, expected.intensity, rtol=1e-12, atol=0)
    others = [i for i in range(found.jacobian.shape[1]) if not len(start.names) <= i < len(start.names) + n]
    torch.testing.assert_close(found.jacobian[:][:, others], expected.jacobian[:], rtol=1e-9, atol=1e-12)
    own = found.jacobian[:][:, len(start.names) : len(start.names) + n]
    assert not own[model.dataset.observations.crystal == 0].any()


def test_jacobian_after_a_step(hybrid):
    """Not only where all shifts and tilts are zero."""
    model = hybrid()
    x, parts = model.vector(), model.slices()
    x[parts["crystal"]] = 2e-5
    x[parts["orientation"]] += 0.01
    model.load_vector(x)
    check_jacobian(model, "crystal")
    model.load_vector(x)
    check_jacobian(model, "orientation")


def test_intensities_with_and_without_derivatives(hybrid):
    model = hybrid()
    torch.testing.assert_close(
        model.evaluate(derivatives=True).intensity, model.evaluate().intensity, rtol=1e-12, atol=0
    )


def test_intensities_are_sums_over_the_parts_of_the_formula(hybrid):
    """scale sum_t p(t) I(t), the crystals not mixed up."""
    model = hybrid()
    found, crystal = model.evaluate(), model.dataset.observations.crystal
    for i in range(len(found.intensity)):
        thickness = model.thickness[crystal[i]]
        p = thickness(model.conditions[i])
        expected = model.scale()[i] * (p @ found.sums.intensity[i])
        assert found.intensity[i].item() == pytest.approx(expected.item(), rel=1e-12)
        assert found.intensity[i] > 0.0


def test_without_structure_its_columns_are_zero_and_the_others_the_same(hybrid):
    model = hybrid()
    whole, rest = (model.evaluate(True, structure=structure).jacobian[:] for structure in (True, False))
    part = model.slices()["crystal"]
    assert not rest[:, part].any()
    whole[:, part] = 0.0
    torch.testing.assert_close(rest, whole)


def test_recombined_sums_take_the_present_scale_and_thickness(hybrid):
    model = hybrid()
    sums = model.evaluate(derivatives=True).sums
    x, parts = model.vector(), model.slices()
    x[parts["scale"]] += 0.3
    x[parts["thickness"]] *= 1.01
    model.load_vector(x)
    torch.testing.assert_close(model.recombine(sums).intensity, model.evaluate().intensity)


def test_blocks_fill_the_vector_in_order(hybrid):
    model = hybrid("neural")
    parts = [model.slices()[block] for block in BLOCKS]
    x = model.vector()
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == len(x)
    assert model.evaluate(derivatives=True).jacobian.shape == (len(model.dataset.observations), len(x))
    assert all(len(side) == len(x) for side in model.prior())


def test_loaded_vector_is_found_again_and_vectors_are_copies(hybrid):
    model = hybrid()
    x = model.vector()
    model.load_vector(x + 1.0)
    torch.testing.assert_close(model.vector(), x + 1.0)
    model.vector().zero_()
    torch.testing.assert_close(model.vector(), x + 1.0)


def test_new_beams_follow_the_orientation(hybrid):
    model = hybrid()
    before = model.simulation.n_beams
    x = model.vector()
    x[model.slices()["orientation"]][:2] = 1.0
    x[model.slices()["orientation"].start] += 2.0
    model.load_vector(x)
    model.update_beams()
    assert model.simulation.n_beams != before


def test_reach_is_where_the_thickness_ends(hybrid):
    """A wedge up to t reaches to 0.99 t, 98 % of the integral of t dt, to the distance of two nodes."""
    model = hybrid("wedge")
    grid = model.grid
    for t in (0.4, 0.7):
        with torch.no_grad():
            for wedge in model.thickness:
                wedge.maximum.fill_(t * grid.maximum)
        assert abs(model.reach() - 0.99 * t * grid.maximum) < grid.spacing


def test_derivatives_made_in_parts_are_expected_to_take_longer(hybrid):
    hybrid = hybrid()
    whole = hybrid.expected_seconds()
    simulation = hybrid.simulation
    simulation.entries = len(simulation.table.hkl) // 2
    parts = hybrid.expected_seconds()
    assert 0.0 < whole <= parts


def test_parameters_are_a_copy_of_the_vector(hybrid):
    model = hybrid()
    x = model.vector()
    model.load_vector(x)
    with torch.no_grad():
        model.scale.constant.add_(1.0)
    model.crystal.shifts.data[:] = 3.0
    assert not torch.equal(model.vector(), x)
    model.load_vector(x)
    assert torch.equal(model.vector(), x)
