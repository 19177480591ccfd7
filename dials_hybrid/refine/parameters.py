"""Every refined number by its name, with its uncertainty and what it is correlated with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.data import ATOM_PARAMETERS, AtomicModel
from dials_hybrid.model.hybrid import BLOCKS
from dials_hybrid.refine.protocol import Outcome

_MOST_CORRELATIONS = 20
_U_STAR = [ATOM_PARAMETERS.index(f"u{ij}") for ij in ("11", "12", "13", "12", "22", "23", "13", "23", "33")]


@dataclass(frozen=True)
class Parameter:
    """A refined number, in the units in which it is refined."""

    name: str
    block: str  # crystal, orientation, thickness or scale
    index: int  # place in the parameter vector
    value: float
    su: float


def refined_parameters(outcome: Outcome) -> list[tuple[str, float, float]]:
    """Name, value and standard uncertainty of each independent parameter of the structure."""
    crystal = outcome.hybrid.crystal
    uncertainty = torch.diagonal(outcome.fit.covariance)[outcome.hybrid.structure].clamp(min=0.0).sqrt()
    # The column of the parameter table that gives an independent parameter its name. One of a group, as the
    # turn of a methyl, has none: its value is how far it is from the start.
    own = (crystal.jacobian - 1.0).abs() < 1e-8
    named = crystal.atoms().parameters.flatten()[own.long().argmax(1)]
    values = torch.where(own.any(1), named, crystal.shifts.detach().to(named))
    return list(zip(crystal.names, values.tolist(), uncertainty.tolist(), strict=True))


def all_parameters(outcome: Outcome) -> list[Parameter]:
    """Those of the structure, then all others but the weights of a network, which mean nothing alone."""
    uncertainty = outcome.fit.covariance.diagonal().clamp(min=0.0).sqrt()
    structure = enumerate(refined_parameters(outcome))
    rows = [Parameter(name, "crystal", i, value, su) for i, (name, value, su) in structure]
    start = 0
    for name, leaf in outcome.hybrid.named_parameters():
        if name != "crystal.shifts" and not _of_network(name):
            block = name.partition(".")[0]
            for index, place in enumerate(np.ndindex(*leaf.shape), start=start):
                value, su = float(leaf.detach()[place]), float(uncertainty[index])
                rows.append(Parameter(_readable(name, place), block, index, value, su))
        start += leaf.numel()
    return rows


def largest_correlations(outcome: Outcome, parameters: list[Parameter]) -> list[dict]:
    """The pairs of `parameters` with the largest |C_ij| / sqrt(C_ii C_jj), the largest first.

    Coefficients of one spline go together by construction: pairs inside a block are those of the structure.
    """
    places = [parameter.index for parameter in parameters]
    covariance = outcome.fit.covariance[places][:, places].cpu()
    deviation = covariance.diagonal().clamp(min=0.0).sqrt()
    known = torch.outer(deviation, deviation)
    matrix = torch.where(known > 0.0, covariance / known, 0.0)
    first, second = torch.triu_indices(len(places), len(places), offset=1)
    block = torch.tensor([BLOCKS.index(parameter.block) for parameter in parameters])
    kept = (block[first] == BLOCKS.index("crystal")) | (block[first] != block[second])
    first, second = first[kept], second[kept]
    values = matrix[first, second]
    order = values.abs().argsort(descending=True, stable=True)[:_MOST_CORRELATIONS]
    return [
        {"first": parameters[i].name, "second": parameters[j].name, "value": value}
        for i, j, value in zip(*(x[order].tolist() for x in (first, second, values)), strict=True)
    ]


def _of_network(name: str) -> bool:
    return any(part in name.split(".") for part in ("hidden", "output"))


def _readable(name: str, place: tuple[int, ...]) -> str:
    """ "scale.log_scale" at (0, 2) is "log scale 1, 3": crystal 1, coefficient 3."""
    module, *crystal, leaf = name.split(".")
    words = leaf if module in leaf else f"{module} {leaf}"
    first = 2 if leaf == "overall_u" else 1  # the first crystal has none
    numbers = ", ".join(str(index + first) for index in (*map(int, crystal), *place))
    return f"{words.replace('_', ' ')} {numbers}"


def displacements(atoms: AtomicModel, start: AtomicModel) -> list[dict]:
    """Mean and smallest principal mean-square displacement of each atom, eigenvalues of U_cart [A^2].

    With A the matrix that turns fractional into Cartesian coordinates, U_cart = A U* A^T. `moved` is how far
    the atom is from where it was at the start [A].
    """
    a = torch.linalg.cholesky(metric_tensor(atoms.cell)).mT
    u_star = atoms.parameters[:, _U_STAR].reshape(-1, 3, 3)
    isotropic = atoms.parameters[:, ATOM_PARAMETERS.index("uiso")]
    principal = torch.linalg.eigvalsh(a @ u_star @ a.mT)
    principal = torch.where(atoms.anisotropic[:, None], principal, isotropic[:, None])
    moved = ((atoms.parameters - start.parameters)[:, :3] @ a.mT).norm(dim=1)
    columns = {"mean": principal.mean(1), "smallest": principal.amin(1), "moved": moved}
    return [
        {"atom": label, "element": element, **{name: float(column[i]) for name, column in columns.items()}}
        for i, (label, element) in enumerate(zip(atoms.labels, atoms.elements, strict=True))
    ]
