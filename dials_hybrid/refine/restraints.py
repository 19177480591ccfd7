r"""What restraints say about the atoms: residuals and their derivatives by the independent parameters.

With d the distance between two atoms, e the unit vector between them, Delta = U_1 - U_2 of Cartesian
displacement tensors and s the standard deviation of a restraint, the residuals are

    DFIX, DANG  (d - d_0) / s
    SADI        (d - <d>) / s                   <d>: mean over the distances that are the same
    FLAT        n.(r - <r>) / s                 n: normal of the plane with the least sum of squares
    SIMU        (D_11, D_22, D_33, sqrt2 D_12, sqrt2 D_13, sqrt2 D_23) / s,  D = Delta
    ISOR        the same of D = U - tr(U) / 3
    DELU        e.Delta.e / s
    RIGU        (e.Delta.e, f.Delta.e, g.Delta.e) / s      f, g perpendicular to e

The sum of their squares joins that of the data. Of two isotropic atoms SIMU compares U_iso, once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from dials_hybrid.bloch.scattering import metric_tensor
from dials_hybrid.data import AtomicModel, Restrained, Restraints

_WIDTH = 11
_ROOT2 = 2.0**0.5


@dataclass(frozen=True)
class Rows:
    """Residuals (R,) and their derivatives by the flattened parameter table (R, 11 n), sparse."""

    residuals: Tensor
    derivatives: Tensor

    def by(self, jacobian: Tensor) -> Tensor:
        """Derivatives (R, P) by independent parameters with the Jacobian (P, 11 n)."""
        return torch.sparse.mm(self.derivatives, jacobian.T)


@dataclass(frozen=True)
class Deviation:
    """How well one restraint is kept."""

    kind: str
    labels: tuple[str, ...]
    value: float  # what is restrained: a distance or height [A], a difference of displacements [A^2]
    target: float
    sigma: float

    @property
    def in_sigmas(self) -> float:
        return (self.value - self.target) / self.sigma


def restraint_rows(restraints: Restraints, atoms: AtomicModel) -> Rows:
    """All residuals at the parameters of `atoms`; there must be one at least."""
    residuals, index, values = [], [], []
    n_rows = 0
    for name in kinds(restraints):
        r, columns, derivatives = _KINDS[name](getattr(restraints, name), atoms)
        rows = n_rows + torch.arange(len(r), device=r.device)
        index.append(torch.stack([rows[:, None].expand_as(columns), columns]).flatten(1))
        values.append(derivatives.flatten())
        residuals.append(r)
        n_rows += len(r)
    shape = n_rows, atoms.n_atoms * _WIDTH
    table = torch.sparse_coo_tensor(torch.cat(index, dim=1), torch.cat(values), shape, check_invariants=False)
    return Rows(torch.cat(residuals), table.coalesce())


def kinds(restraints: Restraints) -> list[str]:
    """Names of the kinds of which there are any."""
    return [item.name for item in fields(restraints) if len(getattr(restraints, item.name))]


def deviations(restraints: Restraints, atoms: AtomicModel) -> list[Deviation]:
    """Each restraint with its value; the root sum of squares where it has several residuals."""
    result = []
    for name in kinds(restraints):
        kept = getattr(restraints, name)
        r = _KINDS[name](kept, atoms)[0].reshape(len(kept), -1)
        off = (r[:, 0] if r.shape[1] == 1 else r.norm(dim=1)) * kept.sigma
        target = kept.target + _means(kept, atoms) if name == "sadi" else kept.target
        for k in range(len(kept)):
            labels = tuple(atoms.labels[i] for i in kept.atoms[k].tolist())
            goal = float(target[k])
            result.append(Deviation(name.upper(), labels, goal + float(off[k]), goal, float(kept.sigma[k])))
    return result


# Each kind gives residuals (R,), the columns (R, C) of the table that they depend on, and their
# derivatives (R, C) by those. -------------------------------------------------------------------


def _distances(restrained: Restrained, atoms: AtomicModel):
    d, columns, derivatives = _of_pairs(_distance, restrained, atoms)
    sigma = restrained.sigma
    return (d - restrained.target) / sigma, columns, derivatives / sigma[:, None]


def _same_distances(restrained: Restrained, atoms: AtomicModel):
    d, columns, derivatives = _of_pairs(_distance, restrained, atoms)
    residuals, all_columns, all_derivatives = [], [], []
    widest = columns.shape[1] * int(torch.bincount(restrained.group).max())
    for group in restrained.group.unique():
        own = (restrained.group == group).nonzero().flatten()
        n, sigma = len(own), restrained.sigma[own]
        centring = torch.eye(n, dtype=d.dtype, device=d.device) - 1.0 / n
        part = (centring[:, :, None] * derivatives[own] / sigma[:, None, None]).flatten(1)
        residuals.append(centring @ d[own] / sigma)
        all_columns.append(_padded(columns[own].flatten().expand(n, -1), widest))
        all_derivatives.append(_padded(part, widest))
    order = torch.argsort(
        torch.cat([(restrained.group == g).nonzero().flatten() for g in restrained.group.unique()])
    )
    return tuple(torch.cat(parts)[order] for parts in (residuals, all_columns, all_derivatives))


def _means(restrained: Restrained, atoms: AtomicModel) -> Tensor:
    d = _of_pairs(_distance, restrained, atoms)[0]
    total = torch.zeros(int(restrained.group.max()) + 1, dtype=d.dtype, device=d.device)
    total = total.index_add(0, restrained.group, d)
    return (total / torch.bincount(restrained.group).clamp(min=1))[restrained.group]


def _planes(restrained: Restrained, atoms: AtomicModel):
    a = _orthogonal(atoms)
    residuals, columns, derivatives = [], [], []
    widest = 3 * int(torch.bincount(restrained.group).max())
    places = []
    for group in restrained.group.unique():
        own = (restrained.group == group).nonzero().flatten()
        index, sigma = restrained.atoms[own, 0], restrained.sigma[own]
        turn = a @ restrained.rotation[own]
        shift = restrained.translation[own] @ a.T

        def heights(x, turn=turn, shift=shift, sigma=sigma):
            return _heights(torch.einsum("nij,nj->ni", turn, x) + shift) / sigma

        x = atoms.parameters[index, :3]
        residuals.append(heights(x))
        derivatives.append(_padded(jacrev(heights)(x).flatten(1), widest))
        own_columns = (_WIDTH * index[:, None] + torch.arange(3, device=index.device)).flatten()
        columns.append(_padded(own_columns.expand(len(own), -1), widest))
        places.append(own)
    order = torch.argsort(torch.cat(places))
    return tuple(torch.cat(parts)[order] for parts in (residuals, columns, derivatives))


def _heights(r: Tensor) -> Tensor:
    """Distances (n,) of points (n, 3) from their least-squares plane.

    Its normal is the eigenvector n of M = sum r r^T with the smallest eigenvalue, of which first-order
    perturbation theory gives dn = -(M - lambda)^+ dM n, also where the other eigenvalues are equal.
    """
    r = r - r.mean(0)
    m = r.T @ r
    values, vectors = torch.linalg.eigh(m.detach())
    n, rest = vectors[:, 0], vectors[:, 1:]
    inverse = rest / (values[1:] - values[0]) @ rest.T
    return r @ (n - inverse @ (m @ n))


def _similar(restrained: Restrained, atoms: AtomicModel):
    def residual(p, q, turn, shift, a):
        return _components(_tensor(p, a) - turn @ _tensor(q, a) @ turn.T)

    both = ~(atoms.anisotropic[restrained.atoms].any(1))
    sigma = restrained.sigma * torch.where(both, 3.0**0.5, 1.0).to(restrained.sigma)
    return _divided(_of_pairs(residual, restrained, atoms, 6), sigma, 6)


def _rigid(restrained: Restrained, atoms: AtomicModel):
    def residual(p, q, turn, shift, a):
        e = _unit(p, q, turn, shift, a)
        return e @ (_tensor(p, a) - turn @ _tensor(q, a) @ turn.T) @ e

    return _divided(_of_pairs(residual, restrained, atoms), restrained.sigma, 1)


def _very_rigid(restrained: Restrained, atoms: AtomicModel):
    def residual(p, q, turn, shift, a):
        e = _unit(p, q, turn, shift, a)
        # Any two vectors across will do; these change smoothly with e.
        away = torch.eye(3, dtype=e.dtype, device=e.device)[e.detach().abs().argmin(0, keepdim=True)][0]
        f = torch.linalg.cross(e, away)
        f = f / f.norm()
        frame = torch.stack([e, f, torch.linalg.cross(e, f)])
        return frame @ (_tensor(p, a) - turn @ _tensor(q, a) @ turn.T) @ e

    return _divided(_of_pairs(residual, restrained, atoms, 3), restrained.sigma, 3)


def _isotropic(restrained: Restrained, atoms: AtomicModel):
    a = _orthogonal(atoms)

    def residual(p):
        u = _tensor(p, a)
        return _components(u - torch.eye(3, dtype=u.dtype, device=u.device) * u.diagonal().sum() / 3.0)

    index = restrained.atoms[:, 0]
    own = _own(atoms)[index]
    r, derivatives = vmap(residual)(own), vmap(jacrev(residual))(own)[..., :_WIDTH]
    columns = _WIDTH * index[:, None] + torch.arange(_WIDTH, device=index.device)
    columns = columns[:, None].expand(-1, 6, -1).flatten(0, 1)
    return _divided((r.flatten(), columns, derivatives.flatten(0, 1)), restrained.sigma, 6)


_KINDS = {
    "dfix": _distances,
    "sadi": _same_distances,
    "flat": _planes,
    "simu": _similar,
    "delu": _rigid,
    "rigu": _very_rigid,
    "isor": _isotropic,
}


# ------------------------------------------------------------------------------------------------


def _of_pairs(residual, restrained: Restrained, atoms: AtomicModel, k: int = 1):
    """Values, columns and derivatives of k functions of each pair of atoms, one row a function."""
    a = _orthogonal(atoms)
    turn = a @ restrained.rotation @ torch.linalg.inv(a)
    shift = restrained.translation @ a.T
    first, second = restrained.atoms.unbind(1)
    own = _own(atoms)
    arguments = own[first], own[second], turn, shift, a
    axes = 0, 0, 0, 0, None
    values = vmap(residual, axes)(*arguments)
    pair = vmap(jacrev(residual, (0, 1)), axes)(*arguments)
    derivatives = torch.cat([each[..., :_WIDTH] for each in pair], dim=-1).reshape(-1, 2 * _WIDTH)
    entries = torch.arange(_WIDTH, device=first.device)
    columns = torch.cat([_WIDTH * first[:, None] + entries, _WIDTH * second[:, None] + entries], dim=1)
    return values.flatten(), columns[:, None].expand(-1, k, -1).flatten(0, 1), derivatives


def _divided(rows, sigma: Tensor, k: int):
    values, columns, derivatives = rows
    sigma = sigma.repeat_interleave(k)
    return values / sigma, columns, derivatives / sigma[:, None]


def _padded(rows: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]))


def _orthogonal(atoms: AtomicModel) -> Tensor:
    """A (3, 3) [A]: Cartesian coordinates are A x."""
    return torch.linalg.cholesky(metric_tensor(atoms.cell)).mT


def _own(atoms: AtomicModel) -> Tensor:
    """The parameter table with one column more, 1 for anisotropic atoms."""
    return torch.cat([atoms.parameters, atoms.anisotropic[:, None].to(atoms.parameters)], dim=1)


def _tensor(p: Tensor, a: Tensor) -> Tensor:
    """Cartesian displacement tensor (3, 3) [A^2] of a row of `_own`."""
    star = p[[4, 7, 8, 7, 5, 9, 8, 9, 6]].reshape(3, 3)
    return a @ star @ a.T * p[-1] + torch.eye(3, dtype=p.dtype, device=p.device) * p[3] * (1.0 - p[-1])


def _between(p: Tensor, q: Tensor, turn: Tensor, shift: Tensor, a: Tensor) -> Tensor:
    return turn @ (a @ q[:3]) + shift - a @ p[:3]


def _distance(p: Tensor, q: Tensor, turn: Tensor, shift: Tensor, a: Tensor) -> Tensor:
    return _between(p, q, turn, shift, a).norm()


def _unit(p: Tensor, q: Tensor, turn: Tensor, shift: Tensor, a: Tensor) -> Tensor:
    v = _between(p, q, turn, shift, a)
    return v / v.norm()


def _components(d: Tensor) -> Tensor:
    """Six numbers whose squares add up to those of all nine of a symmetric tensor."""
    return torch.stack([d[0, 0], d[1, 1], d[2, 2], _ROOT2 * d[0, 1], _ROOT2 * d[0, 2], _ROOT2 * d[1, 2]])
