"""For 'libtbx.configure dials_hybrid' and 'libtbx.refresh': the entry points that setup.py gives to pip.

libtbx itself makes the commands dials.hybrid_refine and dials.hybrid_simulate, from
dials_hybrid/command_line."""

from __future__ import annotations

import importlib.util

import libtbx.pkg_utils

libtbx.pkg_utils.define_entry_points(
    {
        "console_scripts": [
            "dials.hybrid_refine = dials_hybrid.command_line.hybrid_refine:run",
            "dials.hybrid_simulate = dials_hybrid.command_line.hybrid_simulate:run",
        ]
    }
)
if importlib.util.find_spec("torch") is None:
    print("dials_hybrid needs PyTorch: 'conda install -c conda-forge pytorch', or 'libtbx.pip install torch'")
