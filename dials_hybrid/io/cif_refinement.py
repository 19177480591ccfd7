"""Items of the core CIF dictionary, and its ones for electron diffraction, about measurement and refinement.

Names with a dot are those of version 3.3 of the dictionary, which have no older form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from cctbx import xray

from dials_hybrid.data import ATOM_PARAMETERS, RockingSteps
from dials_hybrid.io.constraints import Constraints

_DETAILS = """\
Dynamical refinement against unmerged intensities; the reflections are in a data block of
their own. F = sqrt(I), 0 where I is negative. R factors are on F, pooled over all reflections
used, those of the free set included, R_factor_gt over those with I > 3 s(I). wR_factor_ref
has the weights 1/(s(F)^2 + (0.01 F)^2), s(F) = s(I)/2F, or 5 sqrt(s(I)) where I < 0.01 s(I):
they are not those of the refinement. Standard uncertainties are from the full matrix of all
parameters. The difference potential is that of observed amplitudes corrected for dynamical
diffraction, |F(calc, kinematical)| sqrt(I(obs)/I(calc)), merged over equivalents."""

_WEIGHTS = """\
w/s'^2 of I, s'^2 = (k s(I))^2 + (2 a P)^2 + b^2, P = (max(I(obs), 0) + 2 I(calc))/3,
w = 1/(1 + (r/(c m))^2), r = (I(calc) - I(obs))/s' and m = 1.4826 median |r|;
"""

_HANDS = """\
Both hands were refined: R_factor_gt {r1:.4f}, of the other hand {other:.4f}. z = (2k - N)/sqrt(N), k of
N reflections being fitted better by this hand (Klar et al., 2023): {z:.2f} with N = {n:.0f};
{z_observed:.2f} with the N = {n_observed:.0f} that have I > 3 s(I), z' = {adjusted:.2f} without those
that noise decides.
Probability of this hand, (1 + erf(z'/sqrt(2)))/2: {probability:.4f}; not determined below z' = 3."""

_SHAPES = {
    "flat": "one thickness",
    "wedge": "F(t) = t/t~max~, all thicknesses from 0 to t~max~",
    "normal": "normal distribution cut at 0 and t~max~",
    "gamma": "gamma distribution",
    "histogram": "smooth histogram",
    "neural": "a distribution for each scan angle and beam direction, from a neural network",
}


def measurement_items(
    steps: RockingSteps, wavelength: float, mosaic_spread: list[float] | None, methods: Sequence[str]
) -> dict[str, object]:
    """Radiation, scan and mosaicity.

    Args:
        wavelength: [A].
        mosaic_spread: of each crystal [degree]; None: not refined.
        methods: how each crystal was measured.
    """
    scans = []
    for crystal in range(steps.n_crystals):
        angle = steps.angle[steps.crystal == crystal]
        scans.append(f"crystal {crystal + 1}: scan angle {angle.min():.2f} to {angle.max():.2f} degrees")
    items = {
        "_exptl_crystals_number": steps.n_crystals,
        "_diffrn_ambient_temperature": None,
        "_cell_measurement_temperature": None,
        "_diffrn_radiation_probe": "electron",
        "_diffrn_radiation_wavelength": wavelength,
        "_diffrn_source_voltage": f"{_kilovolts(wavelength):.0f}",
        "_diffrn_measurement_method": ", ".join(dict.fromkeys(methods)),
        "_diffrn_measurement_details": "\n".join(scans),
    }
    if set(methods) == {"continuous rotation"}:
        items["_diffrn_measurement.rotation_mode"] = "rotation"
    if set(methods) == {"precession"}:
        items["_diffrn_measurement.rotation_mode"] = "stepwise"
        items["_diffrn_measurement.method_precession"] = "yes"
    if mosaic_spread and len(mosaic_spread) == 1:
        items["_exptl_crystal.mosaicity"] = f"{mosaic_spread[0]:.3f}"
        items["_exptl_crystal.mosaic_method"] = "standard deviation of a normal distribution, refined"
    return items


def _kilovolts(wavelength: float) -> float:
    """Kinetic energy of electrons of this wavelength [A]: sqrt(m^2 c^4 + (h c / lambda)^2) - m c^2."""
    rest, momentum = 510.99895, 12.398419843 / wavelength  # [keV]
    return (rest**2 + momentum**2) ** 0.5 - rest


def figure_items(summary: Mapping) -> dict[str, object]:
    """What the summary of a refinement says, as data items."""
    difference, model = summary["difference_map"], summary["thickness_model"]
    return {
        "_audit_creation_method": "dials.hybrid_refine",
        "_audit_creation_date": date.today().isoformat(),
        "_computing_structure_refinement": "dials.hybrid_refine",
        "_refine.diffraction_theory": "dynamical",
        "_refine.diffraction_theory_details": "Bloch waves, summed over the rocking curve of each reflection",
        "_refine_ls_structure_factor_coef": "Fsqd",
        "_refine_ls_matrix_type": "full",
        "_refine_ls_extinction_method": "none",
        "_refine_ls_number_reflns": summary["n_used"] - summary["n_free"],
        "_refine_ls_number_parameters": summary["n_parameters"],
        "_refine_ls_number_restraints": len(summary.get("restraints", ())),
        "_refine_ls_R_factor_gt": f"{summary['r1_obs']:.4f}",
        "_refine_ls_R_factor_all": f"{summary['r1_all']:.4f}",
        "_refine_ls_wR_factor_ref": f"{summary['wr_all']:.4f}",
        "_refine_ls_goodness_of_fit_ref": f"{summary['goodness_of_fit']:.3f}",
        "_refine_ls_shift/su_max": f"{summary['shift_left']:.3f}",
        "_refine_ls.sample_thickness": f"{_thickness(summary) / 10.0:.2f}",  # [nm]
        "_refine_ls.sample_shape_expression": _SHAPES.get(model, model),
        "_refine_ls.sample_shape_details": _shape_details(summary),
        "_refine_diff.potential_max": f"{difference['max']:.4f}",  # [e/A]
        "_refine_diff.potential_min": f"{difference['min']:.4f}",
        "_refine_diff.potential_RMS": f"{difference['rms']:.4f}",
        **_absolute_structure_items(summary["absolute_structure"]),
        "_refine_special_details": f"{_DETAILS}\n\n{_special_details(summary)}",
    }


def _thickness(summary: Mapping) -> float:
    """[A]: the largest where the expression for the shape has it, else the mean."""
    return summary["thickness_mean"] * (2.0 if summary["thickness_model"] == "wedge" else 1.0)


def _shape_details(summary: Mapping) -> str:
    """The distribution of thickness in nanometres."""
    kind = "largest thickness t~max~" if summary["thickness_model"] == "wedge" else "mean thickness"
    lines = [f"sample_thickness is the {kind} over all reflections used"]
    for number, one in enumerate(summary["crystals"], start=1):
        own = [at for at in summary["thickness"]["curve"] if at["crystal"] == number - 1]
        if own:
            at = own[len(own) // 2]
            mean, spread = (
                f"{at[name] / 10.0:.1f}, s.u. {at[name + '_su'] / 10.0:.1f}" for name in ("mean", "spread")
            )
            lines.append(
                f"crystal {number}: mean over the scan {one['thickness_mean'] / 10.0:.1f} nm; at a scan "
                f"angle of {at['angle']:.1f} degrees mean {mean} nm, standard deviation {spread} nm"
            )
    return "\n".join(lines)


def weighting_items(errors: Sequence[Mapping[str, float]], cutoff: float | None) -> dict[str, object]:
    """The weights: k, a and b of each crystal's error model and c of the robust factor (None: w = 1)."""
    lines = []
    for number, model in enumerate(errors, start=1):
        constants = {"k": model["gain"], "a": model["instability"], "b": model["floor"]}
        text = ", ".join(f"{name} = {value:.4g}" for name, value in constants.items())
        lines.append(f"crystal {number}: {text}" if len(errors) > 1 else text)
    return {
        "_refine_ls_weighting_scheme": "calc",
        "_refine_ls_weighting_details": _WEIGHTS + "\n".join([*lines, f"c = {cutoff or float('inf'):.4g}"]),
    }


def hydrogen_treatment(structure: xray.structure, constraints: Constraints) -> str:
    """What moves the hydrogen atoms: themselves (`refall`), others (`constr`), nothing (`noref`)."""
    jacobian = constraints.jacobian.reshape(
        len(constraints.names), structure.scatterers().size(), len(ATOM_PARAMETERS)
    )
    kinds = set()
    for i, scatterer in enumerate(structure.scatterers()):
        if scatterer.element_symbol() in ("H", "D"):
            moves = bool(jacobian[:, i, :3].any())
            kinds.add("refall" if scatterer.flags.grad_site() else "constr" if moves else "noref")
    if not kinds:
        return "undef"
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _absolute_structure_items(found: Mapping | None) -> dict[str, object]:
    if not found:
        return {}
    given = found["hand"] == "as given"  # it is in the file, whichever the data prefer
    sign = 1.0 if given else -1.0
    r1, other = (found["r1_obs"], found["r1_obs_other"])[:: 1 if given else -1]
    probability = found["probability"] if given else 1.0 - found["probability"]
    z, z_observed, adjusted = (
        sign * found[name] for name in ("z_score", "z_score_observed", "z_score_observed_noise_adjusted")
    )
    details = _HANDS.format(
        r1=r1,
        other=other,
        z=z,
        n=found["n_reflections"],
        z_observed=z_observed,
        n_observed=found["n_observed"],
        adjusted=adjusted,
        probability=probability,
    )
    return {
        "_refine_ls.abs_structure_z-score": f"{z:.2f}",
        "_refine_ls_abs_structure_details": details,
        "_chemical.absolute_configuration": "dyn" if found["determined"] and given else "unk",
    }


def _special_details(summary: Mapping) -> str:
    """What no data item takes, and the settings to repeat the run."""
    difference = summary["difference_map"]
    lines = [
        f"R1_free = {summary['r1_free']:.4f} (I > 3 s(I); {summary['n_free']} free reflections)",
        f"R1_merged = {summary['merged_r1_obs']:.4f} (I > 3 s(I)), {summary['merged_r1_all']:.4f} (all)",
        "",
        "Extrema of the difference potential [e/A], site, nearest atom and distance [A]:",
    ]
    for peak in difference["peaks"] + difference["holes"]:
        site = " ".join(f"{x:7.4f}" for x in peak["site"])
        lines.append(f"{peak['height']:8.4f}  {site}  {peak['atom']} {peak['distance']:.2f}")
    added = [(i, one["overall_u"]) for i, one in enumerate(summary["crystals"], start=1) if one["overall_u"]]
    if added:
        lines += ["", "Displacements are those of crystal 1; what others add to all U [A^2], and its s.u.:"]
        lines += [f"crystal {i}: {u['value']:.5f} {u['su']:.5f}" for i, u in added]
    lines += ["", "Settings:", *(f"{name} = {value}" for name, value in summary["settings"].items())]
    lines += ["", "Versions:", *(f"{name}: {value}" for name, value in summary["versions"].items())]
    return "\n".join(lines)
