"""The atoms of a `cctbx.xray.structure` as plain tensors, and back into it after a refinement."""

from __future__ import annotations

import torch
from torch import Tensor

from cctbx import xray

from dials_hybrid.data import ATOM_PARAMETERS, AtomicModel
from dials_hybrid.io.structure import register

_SITE = slice(0, 3)
_U_ISO = ATOM_PARAMETERS.index("uiso")
_U_STAR = slice(_U_ISO + 1, _U_ISO + 7)
_OCCUPANCY = ATOM_PARAMETERS.index("occ")


def atomic_model(structure: xray.structure) -> AtomicModel:
    """The tensors (float64) of a structure that `prepare_structure` has made ready.

    Ions have the form factors of neutral atoms: `bloch.form_factors` has their own.
    """
    scatterers = structure.scatterers()
    registry = register(structure)
    gaussians = registry.unique_gaussians_as_list()
    operations = structure.space_group().all_ops()
    return AtomicModel(
        labels=tuple(scatterers.extract_labels()),
        elements=tuple(scatterers.extract_scattering_types()),
        cell=_tensor(structure.unit_cell().parameters()),
        parameters=_tensor([_parameters(scatterer) for scatterer in scatterers]),
        anisotropic=torch.tensor([s.flags.use_u_aniso() for s in scatterers]),
        multiplicity=_tensor([s.weight_without_occupancy() for s in scatterers]),
        form_factor_type=torch.tensor([registry.unique_index(s.scattering_type) for s in scatterers]),
        form_factor_a=_tensor([g.array_of_a() for g in gaussians]),
        form_factor_b=_tensor([g.array_of_b() for g in gaussians]),
        rotations=_tensor([op.r().as_double() for op in operations]).reshape(-1, 3, 3),
        translations=_tensor([op.t().as_double() for op in operations]),
    )


def _tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _parameters(scatterer) -> list[float]:
    """One row of the table `AtomicModel.parameters`; the U's that do not count are zero."""
    anisotropic = scatterer.flags.use_u_aniso()
    return [
        *scatterer.site,
        0.0 if anisotropic else scatterer.u_iso,
        *(scatterer.u_star if anisotropic else (0.0,) * 6),
        scatterer.occupancy,
    ]


def updated_structure(structure: xray.structure, parameters: Tensor) -> xray.structure:
    """A copy of `structure` with the parameter table (n_atoms, 11) written into it."""
    updated = structure.deep_copy_scatterers()
    rows = parameters.detach().cpu().double().tolist()
    for scatterer, row in zip(updated.scatterers(), rows, strict=True):
        scatterer.site = row[_SITE]
        if scatterer.flags.use_u_aniso():
            scatterer.u_star = row[_U_STAR]
        else:
            scatterer.u_iso = row[_U_ISO]
        scatterer.occupancy = row[_OCCUPANCY]
    return updated
