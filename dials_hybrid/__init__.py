"""Dynamical refinement of 3D electron diffraction data, as a plugin for DIALS."""

from __future__ import annotations
