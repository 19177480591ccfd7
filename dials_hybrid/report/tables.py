"""Tables for terminal and log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

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
    return _table([*rows, ["observations", n_used]])


def scan_table(best: Mapping[str, Sequence[float]], chi_squared: Mapping[str, float]) -> str:
    """The best of each simple thickness model."""
    meaning = {"flat": "one thickness", "wedge": "0 to", "normal": "normal, mean and width"}
    lowest = min(chi_squared.values())
    rows = [
        [meaning[name], ", ".join(f"{value:.0f}" for value in best[name]), chi_squared[name] / lowest]
        for name in best
    ]
    return _table(rows, ["thickness", "A", "chi^2 / lowest"], floatfmt=".3f")


def parameter_table(rows: Iterable[tuple[str, float, float]]) -> str:
    """Name, value and standard uncertainty of refined parameters."""
    return _table(
        [[name, f"{value:.6f}", f"{uncertainty:.6f}"] for name, value, uncertainty in rows],
        ["parameter", "value", "s.u."],
        disable_numparse=True,
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
    rows.append(["goodness of fit", f"{summary['goodness_of_fit']:.2f}", ""])
    rows.append(["parameters", summary["n_parameters"], ""])
    rows.append(["of them effective", f"{summary['n_parameters_effective']:.1f}", ""])
    rows.append(["mean thickness", f"{summary['thickness_mean']:.0f} A", summary["thickness_model"]])
    for spread in summary["mosaic_spread"] or []:
        rows.append(["mosaic spread", f"{spread:.3f} degree", ""])
    rows.append(["time", f"{summary['seconds']['total']:.0f} s", ""])
    return _table(rows, disable_numparse=True)


def _table(rows, headers=(), **options) -> str:
    return tabulate(rows, headers, tablefmt="psql", **options)
