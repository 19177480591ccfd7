"""Every hint: a figure that raises it, one just short of it that does not, and a good run without any."""

from __future__ import annotations

import ast
import inspect
import math
import re

import pytest

from dials_hybrid.refine import hints as module
from dials_hybrid.refine.hints import CHECKS, hints

HANDS = {"hand": "as given", "z_score_observed_noise_adjusted": 8.0}


def good(**changes) -> dict:
    """The summary of a refinement without fault."""
    return {
        "r1_obs": 0.08,
        "r1_free_rose": None,
        "r1_free": 0.09,
        "converged": True,
        "n_free_unique": 16,
        "n_used": 1500,
        "crystals": [{"n_work": 1000.0}, {"n_work": 500.0}],
        "n_parameters_effective": 30.0,
        "goodness_of_fit": 1.1,
        "goodness_of_input_sigmas": 6.0,
        "absolute_structure": HANDS,
        "thickness": {
            "nodes": [100.0 * i for i in range(1, 11)],
            "average": [0.2] * 5 + [0.0] * 5,
            "curve": [],
        },
        "scale": [{"crystal": 0, "value": 10.0 + i % 3} for i in range(40)],
        "settings": {"tilt_restraint": 0.05},
        "tilts": [[0.02, -0.1]],
        "displacements": [
            {"atom": "C1", "element": "C", "smallest": 0.01, "moved": 0.05},
            {"atom": "H1", "element": "H", "smallest": 0.02, "moved": 0.3},
        ],
        "parameters": [parameter("C1.uiso"), parameter("H1.uiso"), parameter("log scale 1, 1", "scale")],
        "correlations": [{"first": "C1.uiso", "second": "log scale 1, 1", "value": 0.9}],
        "completeness": 0.93,
        "restraints": [restraint(3.0)],
        "outliers": [],
        "angular_ranges": [],
        **changes,
    }


def parameter(name, block="crystal", value=0.02, su=0.005) -> dict:
    return {"name": name, "block": block, "value": value, "su": su}


def restraint(off) -> dict:
    return {"kind": "dfix", "labels": ["C1", "C2"], "in_sigmas": off}


def atom(smallest=0.01, moved=0.0) -> dict:
    return {"displacements": [{"atom": "C1", "element": "C", "smallest": smallest, "moved": moved}]}


def thickness(**changes) -> dict:
    return {"thickness": {**good()["thickness"], **changes}}


def curve(*su) -> dict:
    return thickness(curve=[{"mean": 500.0, "mean_su": each} for each in su])


def last_tenth(part) -> dict:
    return thickness(average=[(1.0 - part) / 9.0] * 9 + [part])


def scales(first, last) -> dict:
    return {"scale": [{"crystal": 0, "value": value} for value in [first] * 20 + [last] * 20]}


def correlation(value, second="C1.x", first="C1.uiso") -> dict:
    return {"correlations": [{"first": first, "second": second, "value": value}]}


GOOD_SIGMAS = {"r1_obs": 0.25, "r1_free": 0.25, "goodness_of_input_sigmas": 2.9}
CASES = [
    # hint, what raises it, what it says, what does not
    ("poor_fit", {"r1_obs": 0.26, "r1_free": 0.26}, "R1_obs is 26%", GOOD_SIGMAS),
    ("poor_start", atom(moved=0.16), "C1 moved by 0.16 A.* 6.0 times", atom(moved=0.14)),
    ("poor_start", atom(moved=0.4), "may not be", {**atom(moved=0.4), "goodness_of_input_sigmas": 2.9}),
    ("poor_start", {"r1_obs": 0.16, "r1_free": 0.16}, "R1_obs is 16%", GOOD_SIGMAS),
    ("not_converged", {"converged": False}, "did not converge", {"converged": True}),
    ("not_converged", {"converged": False}, "again", {"converged": False, "r1_free_rose": [0.08, 0.12]}),
    # 1.25 + 2 / sqrt(16) = 1.75
    ("overfitted", {"r1_free": 0.141}, r"R1_free is 14.1% with an R1_obs of 8.0%", {"r1_free": 0.139}),
    ("overfitted", {"r1_free": 0.2, "n_free_unique": 8}, "freedom", {"r1_free": 0.2, "n_free_unique": 7}),
    ("overfitted", {"r1_free": 0.11, "n_free_unique": 1000}, "freedom", {"r1_free": math.nan}),
    ("few_data", {"n_parameters_effective": 190.0}, "only 7.9", {"n_parameters_effective": 187.0}),
    ("goodness_of_fit", {"goodness_of_fit": 1.51}, "lacks", {"goodness_of_fit": 1.49}),
    ("goodness_of_fit", {"goodness_of_fit": 0.69}, "too large", {"goodness_of_fit": 0.71}),
    (
        "hand",
        {"absolute_structure": {**HANDS, "z_score_observed_noise_adjusted": 2.9}},
        "do not tell the two hands apart",
        {"absolute_structure": None},
    ),
    ("hand", {"absolute_structure": {**HANDS, "hand": "other than given"}}, "invert the start model", {}),
    ("thickness_at_bound", last_tenth(0.06), r"considered \(1000 A\)", last_tenth(0.04)),
    ("thickness_uncertain", curve(5.0, 120.0, 120.0), "s.u. of 24%", curve(5.0, 5.0, 120.0)),
    ("scale_drift", scales(10.0, 4.9), "from 10 to 4.9", scales(10.0, 5.1)),
    ("scale_drift", scales(10.0, 20.1), "from 10 to 20.1", scales(10.0, 19.9)),
    ("tilts", {"tilts": [[0.0, -0.16]]}, "moved by 0.16 degree", {"tilts": [[0.0, -0.14]]}),
    ("non_positive_u", atom(0.0), "displacements of C1", atom(1e-6)),
    (
        "uncertain_hydrogens",
        {"parameters": [parameter("H1.uiso", su=0.021)]},
        "U of H1 exceeds",
        {"parameters": [parameter("H1.x", su=0.021), parameter("H1.uiso", su=0.019)]},
    ),
    (
        "uncertain_displacements",
        {"parameters": [parameter("C1.u22", su=0.021)]},
        "a U of C1 exceeds",
        {"parameters": [parameter("C1.u12", su=0.021), parameter("C1.u22", su=0.019)]},
    ),
    ("correlated", correlation(-0.96), r"C1.uiso and C1.x \(-0.96\)", correlation(-0.94)),
    ("correlated", correlation(0.99), "C1.uiso", correlation(0.99, "thickness mean 1", "log scale 1, 1")),
    ("incomplete", {"completeness": 0.69}, "hold 69%", {"completeness": 0.71}),
    ("restraints_broken", {"restraints": [restraint(-4.1)]}, r"DFIX of C1 C2 \(-4.1 s.u.\)", {}),
]  # fmt: skip


def test_a_good_run_has_no_hint():
    assert hints(good()) == []


@pytest.mark.parametrize(("code", "bad", "text", "fair"), CASES)
def test_thresholds(code, bad, text, fair):
    (found,) = hints(good(**bad))
    assert found.code == code
    assert re.search(text, found.text), found.text
    assert hints(good(**fair)) == []


@pytest.mark.parametrize(("smallest", "expected"), [(0.0, ["poor_start", "non_positive_u"]), (1e-6, [])])
def test_far_from_the_start_with_a_displacement_that_is_not_positive(smallest, expected):
    summary = good(**atom(smallest, moved=0.4), goodness_of_input_sigmas=2.5)
    assert [hint.code for hint in hints(summary)] == expected


def test_every_check_has_a_case():
    assert {check.__name__ for check in CHECKS} == {case[0] for case in CASES}


def test_every_check_is_used_and_says_when():
    defined = [
        node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.FunctionDef)
    ]
    public = [node for node in defined if node.name not in ("hints",) and not node.name.startswith("_")]
    assert [node.name for node in public] == [check.__name__ for check in CHECKS]
    assert all(ast.get_docstring(node) for node in public)


def test_what_is_not_known_raises_nothing():
    """As after a refinement without a free set, completeness or restraints, and with nothing but nan."""
    unknown = {
        "r1_obs": math.nan,
        "r1_free": math.nan,
        "goodness_of_fit": math.nan,
        "parameters": [parameter("C1.uiso", su=math.nan)],
        **atom(math.nan, math.nan),
        "goodness_of_input_sigmas": math.nan,
        **curve(math.nan),
        **scales(math.nan, math.nan),
        **correlation(math.nan),
    }
    summary = good(**unknown)
    del summary["completeness"], summary["restraints"]
    assert hints(summary) == []


def test_long_lists_are_cut():
    atoms = [{"atom": f"C{i}", "element": "C", "smallest": -1.0, "moved": 0.0} for i in range(6)]
    (found,) = hints(good(displacements=atoms))
    assert "C0, C1, C2 and 3 more" in found.text
