"""Dynamical refinement of 3D electron diffraction data, as a plugin for DIALS.

`HybridRefinement` is the way in from Python; see `dials_hybrid.algorithm`.
"""

from __future__ import annotations

__version__ = "0.1.0"  # as in setup.py

__all__ = ["HybridRefinement", "run_hybrid_refine"]


def __getattr__(name: str):
    # On demand: the command line must show its help without importing torch.
    if name in __all__:
        from dials_hybrid import algorithm

        return getattr(algorithm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
