"""What a reader should worry about, in plain sentences made from the figures of a refinement.

Each check is a function of the summary (what output.json holds, see `figures.figures`); its docstring has
its threshold. A value that is not known (nan) raises no hint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dials_hybrid.refine.bad_images import bad_images
from dials_hybrid.rocking.frames import VirtualFrames
from dials_hybrid.rocking.sweep import Sweep


@dataclass(frozen=True)
class Hint:
    """One sentence for people, and a code that stays for scripts."""

    code: str
    text: str


def hints(summary: Mapping, runs: Sequence[Sweep | VirtualFrames] = ()) -> list[Hint]:
    """All that is striking, what concerns the whole refinement first.

    Args:
        summary: the figures.
        runs: of the crystals, for the numbers of images.
    """
    found = [Hint(check.__name__, text) for check in CHECKS for text in check(summary)]
    return found + [Hint("bad_images", text) for text in bad_images(summary, runs)]


def poor_fit(summary: Mapping) -> Iterator[str]:
    """R1_obs above 25 %."""
    if summary["r1_obs"] > 0.25:
        yield (
            f"R1_obs is {summary['r1_obs']:.0%}: a poor start model, the wrong space group, hand or "
            "indexing, or another crystal?"
        )


def poor_start(summary: Mapping) -> Iterator[str]:
    """An atom (not hydrogen) moved by more than 0.15 A, or R1_obs is 15 to 25 %.

    Unless the sigmas of the table explain the residuals within a factor of three, and all displacements are
    positive. A refinement from so far away may end in a false minimum.
    """
    atoms = [atom for atom in summary["displacements"] if atom["element"] not in ("H", "D")]
    far = max(atoms, key=lambda atom: atom["moved"], default=None)
    ratio = summary["goodness_of_input_sigmas"]
    if not (ratio > 3.0 or any(atom["smallest"] <= 0.0 for atom in atoms)):
        return
    if far and far["moved"] > 0.15:
        yield (
            f"{far['atom']} moved by {far['moved']:.2f} A: the start was poor. The residuals are {ratio:.1f} "
            "times what the sigmas explain, so this may not be the structure: refine again from the result, "
            "and see whether it stays and makes chemical sense"
        )
    elif 0.15 < summary["r1_obs"] <= 0.25:
        yield (
            f"R1_obs is {summary['r1_obs']:.0%}, and the residuals are {ratio:.1f} times what the sigmas "
            "explain: a poor start model? From another one the refinement may end elsewhere"
        )


def not_converged(summary: Mapping) -> Iterator[str]:
    """The last stage ended by its number of cycles, and what is written is its result."""
    if not summary["converged"] and not summary["r1_free_rose"]:
        yield "The last stage did not converge: refine again from the result"


def overfitted(summary: Mapping) -> Iterator[str]:
    """R1_free above (1.25 + 2/sqrt(n)) R1_obs, n >= 8 the unique observed reflections of the free set.

    The second term is chance: equivalents are in the free set together, and one that fits badly spoils it.
    """
    n = summary["n_free_unique"]
    if n >= 8 and summary["r1_free"] > (1.25 + 2.0 / math.sqrt(n)) * summary["r1_obs"]:
        yield (
            f"R1_free is {summary['r1_free']:.1%} with an R1_obs of {summary['r1_obs']:.1%}: too much "
            "freedom? Try a simpler thickness.model, fewer scale.nodes or a smaller frame_restraint"
        )


def few_data(summary: Mapping) -> Iterator[str]:
    """Fewer than eight observations for each effective parameter.

    The free set does not count, nor does a measurement twice that overlapping frames list twice.
    """
    n = sum(crystal["n_work"] for crystal in summary["crystals"])
    ratio = n / max(1.0, summary["n_parameters_effective"])
    if ratio < 8.0:
        yield (
            f"There are only {ratio:.1f} observations for each parameter: structure.adp=isotropic, "
            "restraints, or another crystal would help"
        )


def goodness_of_fit(summary: Mapping) -> Iterator[str]:
    """Above 1.5 or below 0.7."""
    value = summary["goodness_of_fit"]
    if value > 1.5:
        yield f"The goodness of fit is {value:.2f}: the model lacks what the error model cannot make up for"
    elif value < 0.7:
        yield f"The goodness of fit is {value:.2f}: the error model makes the uncertainties too large"


def hand(summary: Mapping) -> Iterator[str]:
    """The noise-adjusted z-score of observed reflections is below 3, or the other hand is preferred."""
    hands = summary["absolute_structure"]
    if not hands:
        return
    z = hands["z_score_observed_noise_adjusted"]
    if z < 3.0:
        yield f"The data do not tell the two hands apart (z-score {z:.1f}, 3 is needed)"
    elif hands["hand"] != "as given":
        yield f"The data prefer the other hand (z-score {z:.1f}): invert the start model and refine again"


def thickness_at_bound(summary: Mapping) -> Iterator[str]:
    """More than a twentieth of the distribution in the last tenth of the range considered."""
    nodes, average = summary["thickness"]["nodes"], summary["thickness"]["average"]
    last = sum(p for t, p in zip(nodes, average, strict=True) if t > 0.9 * nodes[-1])
    if last > 0.05:
        yield f"The thickness reaches the largest one considered ({nodes[-1]:.0f} A): raise thickness.maximum"


def thickness_uncertain(summary: Mapping) -> Iterator[str]:
    """The s.u. of the mean exceeds a fifth of it, at half of the scan angles or more."""
    curve = summary["thickness"]["curve"]
    if not curve:
        return
    ratio = sorted(point["mean_su"] / max(point["mean"], 1.0) for point in curve)[len(curve) // 2]
    if ratio > 0.2:
        yield (
            f"The mean thickness has an s.u. of {ratio:.0%}: compare other thickness models before you "
            "interpret it"
        )


def scale_drift(summary: Mapping) -> Iterator[str]:
    """The scale changes by more than a factor of 2 from the first to the last tenth of a scan."""
    for crystal in sorted({point["crystal"] for point in summary["scale"]}):
        values = [point["value"] for point in summary["scale"] if point["crystal"] == crystal]
        tenth = max(1, len(values) // 10)
        first, last = sum(values[:tenth]), sum(values[-tenth:])
        if last > 2.0 * first or first > 2.0 * last:
            yield (
                f"The scale of crystal {crystal + 1} goes from {first / tenth:.3g} to {last / tenth:.3g} "
                "along the scan: beam damage, or a crystal that moves in the beam?"
            )


def tilts(summary: Mapping) -> Iterator[str]:
    """A tilt beyond three standard deviations of its prior."""
    prior = summary["settings"]["tilt_restraint"]
    for crystal, coefficients in enumerate(summary["tilts"], start=1):
        largest = max(map(abs, coefficients), default=0.0)
        if largest > 3.0 * prior:
            yield (
                f"The orientation of crystal {crystal} moved by {largest:.2f} degree, with a prior of "
                f"{prior:g}: refine it better in DIALS (scan-varying), or raise orientation.restraint"
            )


def non_positive_u(summary: Mapping) -> Iterator[str]:
    """The smallest eigenvalue of a displacement tensor is not positive."""
    atoms = [atom["atom"] for atom in summary["displacements"] if atom["smallest"] <= 0.0]
    if atoms:
        yield (
            f"The displacements of {_listed(atoms)} are not positive definite: a wrong element, absorption, "
            "or too little data for anisotropic ones?"
        )


def uncertain_hydrogens(summary: Mapping) -> Iterator[str]:
    """The s.u. of the U of a hydrogen atom exceeds its value."""
    atoms = _uncertain(summary, hydrogen=True)
    if atoms:
        yield f"The s.u. of the U of {_listed(atoms)} exceeds its value: let hydrogen atoms ride"


def uncertain_displacements(summary: Mapping) -> Iterator[str]:
    """The same of U_iso or a diagonal U_ij of other atoms."""
    atoms = _uncertain(summary, hydrogen=False)
    if atoms:
        yield (
            f"The s.u. of a U of {_listed(atoms)} exceeds its value: structure.adp=isotropic, or restraints "
            "(SIMU, RIGU)"
        )


def correlated(summary: Mapping) -> Iterator[str]:
    """|correlation| above 0.95 of a parameter of the structure with another one."""
    structure = {p["name"] for p in summary["parameters"] if p["block"] == "crystal"}
    pairs = [
        f"{c['first']} and {c['second']} ({c['value']:+.2f})"
        for c in summary["correlations"]
        if abs(c["value"]) > 0.95 and {c["first"], c["second"]} & structure
    ]
    if pairs:
        yield f"The data hardly tell apart {_listed(pairs)}: hold one of them, or restrain it"


def incomplete(summary: Mapping) -> Iterator[str]:
    """Less than 70 % of the unique reflections."""
    value = summary.get("completeness", 1.0)
    if value < 0.7:
        yield f"The data hold {value:.0%} of the unique reflections: another crystal would add to them"


def restraints_broken(summary: Mapping) -> Iterator[str]:
    """A restraint is off by more than four of its standard deviations."""
    broken = [
        f"{each['kind'].upper()} of {' '.join(each['labels'])} ({each['in_sigmas']:+.1f} s.u.)"
        for each in sorted(summary.get("restraints", ()), key=lambda each: -abs(each["in_sigmas"]))
        if abs(each["in_sigmas"]) > 4.0
    ]
    if broken:
        yield f"Data and restraints disagree: {_listed(broken)}"


CHECKS = (
    poor_fit,
    poor_start,
    not_converged,
    overfitted,
    few_data,
    goodness_of_fit,
    hand,
    thickness_at_bound,
    thickness_uncertain,
    scale_drift,
    tilts,
    non_positive_u,
    uncertain_hydrogens,
    uncertain_displacements,
    correlated,
    incomplete,
    restraints_broken,
)


def _uncertain(summary: Mapping, hydrogen: bool) -> list[str]:
    """Atoms of which the s.u. of U_iso or a diagonal U_ij exceeds its value."""
    elements = {atom["atom"]: atom["element"] for atom in summary["displacements"]}
    found = []
    for parameter in summary["parameters"]:
        atom, _, name = parameter["name"].rpartition(".")
        if parameter["block"] == "crystal" and name in ("uiso", "u11", "u22", "u33"):
            own = (elements.get(atom) in ("H", "D")) == hydrogen
            if own and parameter["su"] > abs(parameter["value"]):
                found.append(atom)
    return list(dict.fromkeys(found))


def _listed(names: Sequence[str], most: int = 3) -> str:
    """ "C1, C2, C3 and 4 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
