from __future__ import annotations

from setuptools import find_packages, setup

# DIALS and cctbx are deliberately not listed: neither can be had from PyPI ("dials" there is an empty
# placeholder, "cctbx-base" next to another cctbx crashes). dials_hybrid says so when they are missing.
setup(
    name="dials_hybrid",
    version="0.1.0",
    description="Dynamical refinement of 3D electron diffraction data for DIALS, with PyTorch",
    license="BSD-3-Clause",
    author="dials_hybrid developers",
    packages=find_packages(include=["dials_hybrid", "dials_hybrid.*"]),
    package_data={"dials_hybrid": ["examples/*.cif", "bloch/*.csv", "report/assets/*", "report/templates/*"]},
    python_requires=">=3.11",
    install_requires=["numpy", "scipy", "torch>=2", "jinja2"],
    extras_require={"test": ["pytest", "sphinx"]},
    entry_points={
        "console_scripts": [
            "dials.hybrid_refine=dials_hybrid.command_line.hybrid_refine:run",
            "dials.hybrid_simulate=dials_hybrid.command_line.hybrid_simulate:run",
        ],
        "libtbx.dispatcher.script": [
            "dials.hybrid_refine=dials.hybrid_refine",
            "dials.hybrid_simulate=dials.hybrid_simulate",
        ],
    },
)
