"""Refine a problem file, on a machine that needs neither DIALS nor cctbx.

    python -m dials_hybrid.refine FILE [name=value ...]
    torchrun --nproc-per-node 4 -m dials_hybrid.refine FILE device=cuda

dials.hybrid_refine output.problem=FILE writes such a file; dials.hybrid_refine result=FILE makes CIF,
experiments and reflections from the result. The log goes to the terminal. Parameters:

    output.result=dials.hybrid_refine.result          the result
    output.checkpoint=dials.hybrid_refine.checkpoint  state after the last completed stage; None: none
    resume=None     checkpoint of an interrupted run to continue
    device=cpu      cpu, cuda or cuda:N
    nproc=Auto      processes; Auto: one for each processor
    memory=Auto     that a cycle of least squares may hold [GiB]; Auto: a quarter of the machine
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is loaded, see command_line.hybrid_refine

import logging
import sys
import time
from dataclasses import asdict, replace
from typing import Any

from dials_hybrid.program import check_output, is_first_rank, local_device, one_sentence

logger = logging.getLogger("dials.hybrid_refine.problem")

_NAME = "dials_hybrid.refine"
_DEFAULTS = {
    "output.result": "dials.hybrid_refine.result",
    "output.checkpoint": "dials.hybrid_refine.checkpoint",
    "resume": None,
    "device": "cpu",
    "nproc": None,
    "memory": None,
}


def run(args: list[str] | None = None) -> None:
    """The command."""
    args = sys.argv[1:] if args is None else args
    files = [arg for arg in args if "=" not in arg]
    if len(files) != 1 or files[0] in ("-h", "--help"):
        print(__doc__)
        sys.exit(None if set(args) & {"-h", "--help"} else f"{_NAME} needs one problem file")
    values = _values(arg for arg in args if "=" in arg)
    for name in ("output.result", "output.checkpoint"):
        if values[name]:
            check_output(_NAME, name, values[name])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    values["device"] = local_device(values["device"])
    with one_sentence(_NAME, values["device"], values["output.checkpoint"]):
        _refine(files[0], values)


def _values(args) -> dict[str, Any]:
    values: dict[str, Any] = dict(_DEFAULTS)
    for arg in args:
        name, _, value = arg.partition("=")
        if name not in values:
            sys.exit(f"{_NAME} does not understand {arg}: its parameters are {', '.join(values)}")
        values[name] = None if value in ("None", "Auto") else value
    for name, kind, least in (("nproc", int, 1), ("memory", float, 0.001)):
        try:
            values[name] = None if values[name] is None else kind(values[name])
            valid = values[name] is None or least <= values[name] < float("inf")
        except ValueError:
            valid = False
        if not valid:
            sys.exit(f"{_NAME}: {name}={values[name]} is no number of at least {least}")
    for name in ("output.result", "device"):
        if values[name] is None:
            sys.exit(f"{_NAME}: {name} cannot be None")
    return values


def _refine(filename: str, values: dict) -> None:
    started = time.time()

    # Not earlier: torch takes a second.
    import torch

    from dials_hybrid.machine import check_device, of_this_machine, versions
    from dials_hybrid.problem import read_problem, write_result
    from dials_hybrid.refine.figures import check_free, figures, thickness_result
    from dials_hybrid.refine.finished import Finished
    from dials_hybrid.refine.hints import hints
    from dials_hybrid.refine.parameters import refined_parameters
    from dials_hybrid.report import tables
    from dials_hybrid.running import run_protocol

    torch.set_num_threads(1)
    check_device(values["device"])
    problem = read_problem(filename)
    machine = of_this_machine(values["device"], values["nproc"], values["memory"])
    settings = replace(problem.settings, **machine)
    sample = problem.inputs.measurement.dataset(1.0, 1)
    logger.info(tables.input_table(sample.n_rows, len(sample.observations), sample.rejected))
    outcome, seconds = run_protocol(
        problem.inputs,
        settings,
        checkpoint=values["output.checkpoint"] if is_first_rank() else None,
        resume=values["resume"],
    )
    seconds["total"] = time.time() - started
    summary = figures(outcome, thickness_result(outcome))
    logger.info("\n" + tables.parameter_table(refined_parameters(outcome)))
    logger.info(tables.summary_table({**summary, "seconds": seconds}))
    found = hints({**summary, "settings": asdict(settings)}, problem.inputs.measurement.runs)
    logger.info(tables.hint_list([asdict(hint) for hint in found]))
    if is_first_rank():
        finished = Finished.of(
            outcome,
            problem.inputs,
            settings=settings,
            seconds=seconds,
            versions=versions(),
            figures=summary,
        )
        write_result(values["output.result"], finished)
    logger.info(f"Saved the result to {values['output.result']}")
    check_free(summary)


if __name__ == "__main__":
    run()
