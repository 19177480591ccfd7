"""Sphinx configuration: nothing but Sphinx itself is needed, and no network.

    sphinx-build -W docs docs/_build

in the environment of DIALS: parameters, definitions and equations are taken from the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from dials_hybrid import __version__  # noqa: E402

project = "dials_hybrid"
author = "dials_hybrid developers"
copyright = author
version = release = __version__

extensions = ["generated"]
exclude_patterns = ["_build"]
nitpicky = True
highlight_language = "none"
smartquotes = False

html_theme = "alabaster"  # comes with Sphinx
html_theme_options = {
    "description": "Dynamical refinement of 3D electron diffraction data with DIALS",
    "page_width": "76rem",
    "body_max_width": "none",
    "code_font_size": "0.8em",
    "font_family": "sans-serif",
    "show_powered_by": False,
}
html_copy_source = False
html_show_copyright = False
