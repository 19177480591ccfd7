"""Tables for terminal and log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

CYCLE_HEADER = (
    "cycle   R1_obs   R1_all       wR  R1_free      GoF  thickness  shift/s.u.\n"
    "             %        %        %        %                   A     largest"
)


def cycle_line(cycle) -> str:
    """One cycle under `CYCLE_HEADER`; `cycle` has the attributes of `refine.joint_fit.Cycle`."""
    percent = [100.0 * r for r in (cycle.r1_obs, cycle.r1_all, cycle.wr_all, cycle.r1_free)]
    figures = "".join(f"{value:9.2f}" for value in percent)
    return (
        f"{cycle.number:5d}{figures}{cycle.goodness_of_fit:9.2f}{cycle.thickness_mean:11.0f}"
        f"{cycle.largest_shift:12.2f}"
    )


def input_table(n_rows: int, n_used: int, rejected: Mapping[str, int]) -> str:
    """What became of the rows of the reflection table."""
    rows = [["rows in the reflection table", n_rows]]
    rows += [[f"left out: {reason}", count] for reason, count in rejected.items()]
    return table([*rows, ["observations", n_used]])


def restraint_table(restraints: Sequence[Mapping], longest: int = 20) -> str:
    """How many restraints there are of each kind, and those that are kept worst."""
    kinds: dict[str, list[float]] = {}
    for each in restraints:
        kinds.setdefault(each["kind"], []).append(each["in_sigmas"])
    rows = [
        [kind, len(off), (sum(x * x for x in off) / len(off)) ** 0.5, max(map(abs, off))]
        for kind, off in kinds.items()
    ]
    worst = sorted(restraints, key=lambda each: -abs(each["in_sigmas"]))[:longest]
    listing = [
        [each["kind"], " ".join(each["labels"]), each["value"], each["target"], each["in_sigmas"]]
        for each in worst
    ]
    summary = table(rows, ["restraints", "number", "rms / s.u.", "largest / s.u."], ".2f")
    headers = ["kept worst", "atoms", "value", "target", "off / s.u."]
    return summary + "\n\n" + table(listing, headers, ".4f")


def effect_table(effects: Sequence[Mapping]) -> str:
    """What is lost and saved without each option of the physics; the items of `refine.physics.Effect`."""
    rows = [
        [
            f"without {effect['without']}" if effect["without"] else "as refined",
            f"{100.0 * effect['r1_obs']:.2f}",
            f"{effect['seconds']:.2f}",
        ]
        for effect in effects
    ]
    title = "Options of the physics: one left out, the other parameters as refined but for a common scale\n"
    return title + table(rows, ["", "R1_obs %", "s a calculation"])


def scan_table(best: Mapping[str, Sequence[float]], chi_squared: Mapping[str, float]) -> str:
    """The best of each simple thickness model."""
    meaning = {
        "flat": "one thickness",
        "wedge": "0 to",
        "normal": "normal, mean and width",
        "gamma": "gamma, mean and width",
    }
    lowest = min(chi_squared.values()) or 1.0  # 0: nothing was observed
    rows = [
        [meaning[name], ", ".join(f"{value:.0f}" for value in best[name]), chi_squared[name] / lowest]
        for name in best
    ]
    return table(rows, ["thickness", "A", "chi^2 / lowest"], floatfmt=".3f")


def comparison_table(candidates: Sequence[Mapping]) -> str:
    """Thickness models by cross-validation; each has the items of `refine.thickness_choice.Candidate`."""
    rows = [
        [
            c["model"],
            f"{c['n_parameters']:.1f}",
            f"{100.0 * c['r1_obs']:.2f}",
            f"{c['behind']:.1f}",
            f"{c['standard_error']:.1f}",
            "chosen" if c["chosen"] else "",
        ]
        for c in candidates
    ]
    headers = ["thickness", "parameters", "R1_obs %", "behind in ln L", "s.e.", ""]
    return "Cross-validation of thickness and scale\n" + table(rows, headers)


def parameter_table(rows: Iterable[tuple[str, float, float]]) -> str:
    """Name, value and standard uncertainty of refined parameters."""
    return table(
        [[name, f"{value:.6f}", f"{uncertainty:.6f}"] for name, value, uncertainty in rows],
        ["parameter", "value", "s.u."],
    )


def summary_table(summary: Mapping) -> str:
    """The figures that one quotes."""
    percent = {
        "R1, I > 3 sigma": ("r1_obs", "n_observed"),
        "R1, all": ("r1_all", "n_used"),
        "wR, all": ("wr_all", "n_used"),
        "R1_free, I > 3 sigma": ("r1_free", None),
        "R1 after merging, I > 3 sigma": ("merged_r1_obs", None),
        "R1 after merging, all": ("merged_r1_all", None),
    }
    rows = []
    for name, (key, count) in percent.items():
        of = f"{summary[count]} reflections" if count else ""
        rows.append([name, f"{100.0 * summary[key]:.2f} %", of])
    errors = summary["error_model"]  # of a single crystal
    error_model = _error_model(errors) if errors else "with an error model for each crystal"
    rows.append(["goodness of fit", f"{summary['goodness_of_fit']:.2f}", error_model])
    rows.append(["by sigmas of the table", f"{summary['goodness_of_input_sigmas']:.2f}", ""])
    rows.append(["outliers", str(len(summary["outliers"])), "robust weight below 0.25"])
    rows.append(["parameters", summary["n_parameters"], ""])
    rows.append(["of them effective", f"{summary['n_parameters_effective']:.1f}", ""])
    rows.append(["mean thickness", f"{summary['thickness_mean']:.0f} A", summary["thickness_model"]])
    if absorption := summary["absorption"]:
        uncertainty = "" if absorption["su"] is None else f"s.u. {absorption['su']:.2f}"
        rows.append(["absorption, times theory", f"{absorption['factor']:.2f}", uncertainty])
    if hands := summary["absolute_structure"]:
        z = hands["z_score_observed_noise_adjusted"]
        known = f"hand {hands['hand']}" if hands["determined"] else "hand not determined"
        certainty = f"probability {hands['probability']:.4f}, R1 of the other {hands['r1_obs_other']:.2%}"
        rows.append([known, f"z = {z:.1f}", certainty])
    for spread in summary["mosaic_spread"] or []:
        rows.append(["mosaic spread", f"{spread:.3f} degree", ""])
    rows.append(["time", f"{summary['seconds']['total']:.0f} s", ""])
    crystals = summary["crystals"]
    return table(rows) + ("\n\n" + crystal_table(crystals) if len(crystals) > 1 else "")


def _error_model(errors: Mapping) -> str:
    return f"gain {errors['gain']:.2f}, {errors['instability']:.1%} of F, floor {errors['floor']:.1f}"


def crystal_table(crystals: Sequence[Mapping]) -> str:
    """What each crystal contributes; the items of `crystals` in output.json."""
    rows = [
        [
            number,
            each["n_used"],
            each["n_observed"],
            f"{100.0 * each['r1_obs']:.2f}",
            f"{100.0 * each['r1_all']:.2f}",
            f"{100.0 * each['wr_all']:.2f}",
            f"{each['goodness_of_fit']:.2f}",
            f"{each['chi_squared']:.0%}",
            "-" if each["information"] is None else f"{each['information']:.0%}",
            f"{each['thickness_mean']:.0f}",
            "-" if each["mosaic_spread"] is None else f"{each['mosaic_spread']:.3f}",
            f"{each['weight']:.2f}",
            f"{each['error_model']['gain']:.2f}",
            "-" if each["overall_u"] is None else "{value:.4f} ({su:.4f})".format(**each["overall_u"]),
        ]
        for number, each in enumerate(crystals, start=1)
    ]
    headers = ["", "used", "I > 3 s", "R1_obs %", "R1_all %", "wR %", "GoF", "chi^2", "structure", "A"]
    title = "Crystals: their parts of the sum of squares and of what is known about the structure\n"
    return title + table(rows, [*headers, "mosaic", "weight", "gain", "U added (s.u.)"])


def hint_list(hints: Sequence[Mapping]) -> str:
    """The sentences of `refine.hints`, one below the other."""
    lines = [fill(f"* {hint['text']}", 100, subsequent_indent="  ") for hint in hints]
    return "\n".join(["\nHints", *lines]) if lines else "\nHints: none, nothing is striking"


def difference_table(difference: Mapping) -> str:
    """Peaks and holes of the difference map, as `io.difference_map.DifferenceMap.summary` gives them."""
    rows = [
        [
            f"{peak['height']:.3f}",
            *(f"{x:.4f}" for x in peak["site"]),
            peak["atom"],
            f"{peak['distance']:.2f}",
        ]
        for peak in difference["peaks"][:5] + difference["holes"][:5]
    ]
    title = f"Difference potential, r.m.s. {difference['rms']:.3f} {difference['unit']}\n"
    headers = [difference["unit"], "x", "y", "z", "nearest", "A"]
    return title + table(rows, headers)


def table(rows, headers=(), floatfmt: str = "g") -> str:
    """Columns in a frame: numbers on the right, words on the left."""
    lines = [list(headers)] if headers else []
    lines += [[f"{cell:{floatfmt}}" if type(cell) is float else str(cell) for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(headers)
    numbers = [all(isinstance(cell, (int, float)) for cell in column) for column in columns]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "| " + " | ".join(cell.rjust(w) if number else cell.ljust(w) for cell, w, number in cells) + " |"
        for cells in (zip(line, widths, numbers, strict=True) for line in lines)
    ]
    rule = "-+-".join("-" * width for width in widths)
    if headers:
        text.insert(1, f"|-{rule}-|")
    return "\n".join([f"+-{rule}-+", *text, f"+-{rule}-+"])
