"""The kinds of files that dials.hybrid_refine takes."""

from __future__ import annotations

import pytest
from commands import CHEAP, second_crystal, summary_in

pytest.importorskip("dials.array_family.flex")

import iotbx.cif

from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList

from dials_hybrid.command_line.hybrid_refine import run


def test_its_own_output_is_input(finished, here):
    folder, _ = finished
    run([*(str(folder / f"hybrid_refined.{kind}") for kind in ("expt", "refl", "cif")), *CHEAP])
    assert summary_in(here)["r1_obs"] <= summary_in(folder)["r1_obs"] + 1e-3
    assert len(summary_in(here)["rejected"]) == len(summary_in(folder)["rejected"])


def test_scaled_data(quartz_dials, cif, here):
    run([str(quartz_dials / "scaled.expt"), str(quartz_dials / "scaled.refl"), cif, *CHEAP])
    summary = summary_in(here)
    assert summary["r1_obs"] < 0.10  # the scaled column would give more than 0.2
    assert "flagged user_excluded_in_scaling" in summary["rejected"]
    assert "flagged outlier_in_scaling" not in summary["rejected"]


RES = """TITL quartz
CELL 0.02508 4.913 4.913 5.405 90 90 120
ZERR 3 0.001 0.001 0.001 0 0 0
LATT -1
SYMM -Y, X-Y, 0.666667+Z
SYMM -X+Y, -X, 0.333333+Z
SYMM Y, X, -Z
SYMM X-Y, -Y, 0.333333-Z
SYMM -X, -X+Y, 0.666667-Z
SFAC SI O
UNIT 3 6
FVAR 1.0
SI1 1 0.4697 0.0 0.666667 10.5 0.008
O1 2 0.4135 0.2669 0.78577 11.0 0.014
HKLF 4
END
"""


@pytest.mark.parametrize("kind", ["res", "ins", "pdb"])
def test_other_kinds_of_structures_give_the_same(finished, expt, refl, cif, here, kind):
    text = RES
    if kind == "pdb":
        (structure,) = iotbx.cif.reader(cif).build_crystal_structures().values()
        text = structure.as_pdb_file()
    (here / f"model.{kind}").write_text(text)
    run([expt, refl, f"model.{kind}", "structure.adp=anisotropic", *CHEAP])
    # three decimals of a PDB file are not quite the same start
    assert summary_in(here)["r1_obs"] == pytest.approx(summary_in(finished[0])["r1_obs"], abs=1e-4)


def test_two_crystals_whatever_the_order_of_their_files(finished, expt, refl, cif, experiments, table, here):
    table = table.select(flex.bool(range(len(table))) | (table["d"] > 1.3))  # drops one row
    table = table.select(table["d"] > 1.05)  # another number of rows than the first
    second_crystal(experiments, table)
    run([expt, "second.expt", "second.refl", refl, cif, *CHEAP])
    summary, alone = summary_in(here), summary_in(finished[0])
    assert summary["n_rows"] == alone["n_rows"] + len(table)
    assert alone["n_used"] < summary["n_used"] < 2 * alone["n_used"]
    assert summary["r1_obs"] == pytest.approx(alone["r1_obs"], abs=0.005)
    refined = ExperimentList.from_file("hybrid_refined.expt", check_format=False)
    written = flex.reflection_table.from_file("hybrid_refined.refl")
    written.assert_experiment_identifiers_are_consistent(refined)
    assert list(refined.identifiers())[1] == "second"
    assert (written["id"] == 1).count(True) == len(table)


def test_dials_combine_experiments_loses_the_profile_model(
    finished, expt, refl, cif, experiments, table, here
):
    from dials.command_line.combine_experiments import run as combine

    second_crystal(experiments, table)
    combine([expt, refl, "second.expt", "second.refl"])
    run(["combined.expt", "combined.refl", cif, *CHEAP])
    summary, alone = summary_in(here), summary_in(finished[0])
    assert summary["n_used"] == 2 * alone["n_used"]
    assert summary["r1_obs"] == pytest.approx(alone["r1_obs"], abs=0.002)
