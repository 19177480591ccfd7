"""The kernels that propagate waves, against the matrix exponential of every step and thickness.

    python benchmarks/propagation.py [--quick] [--device cuda] [--json FILE]

One thread (on a CPU the seconds are those of the process, so that its neighbours count less),
complex64, intensities of all beams and the gradient of a weighted sum of them by the structure matrix
(coupling and diagonals): the median of interleaved repeats. The baseline is torch.matrix_exp of each
step's matrix for each thickness, applied to the first column, with autograd and checkpointing. Errors
are relative L2 errors against complex128 eigenvectors of the same matrices. Structures: quartz and
the lead bromide are near the real ones, the atoms of the two organic cells are put at random; beams
are chosen by g_max and sg_max as for a refinement. Rocking steps have the width 0.75 / (g_max t),
|S_g| is clamped at twice sg_max.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dials_hybrid.bloch import chebyshev, waves
from dials_hybrid.bloch.beams import cut_segments, reflections_within
from dials_hybrid.bloch.electron import wavelength
from dials_hybrid.bloch.geometry import excitation_errors, rotation_matrix
from dials_hybrid.bloch.matrix import DifferenceTable, coupling, symmetrisation
from dials_hybrid.bloch.scattering import metric_tensor, potential_scale, structure_factors
from dials_hybrid.data import AtomicModel

WAVE_NUMBER = 1.0 / wavelength(200.0)
SG_MAX = 0.01
GENERAL, ZONE_AXIS = (0.31, -0.47, 0.22), (0.0, 0.0, 0.0)

# Peng et al. (1996), five Gaussians in s up to 2 1/A
PENG = {
    "C": ((0.0893, 0.2563, 0.757, 1.0487, 0.3575), (0.2465, 1.71, 6.4094, 18.6113, 50.2523)),
    "N": ((0.1022, 0.3219, 0.7982, 0.8197, 0.1715), (0.2451, 1.7481, 6.1925, 17.3894, 48.1431)),
    "O": ((0.0974, 0.2921, 0.691, 0.699, 0.2039), (0.2067, 1.3815, 4.6943, 12.7105, 32.4726)),
    "Si": ((0.2519, 0.6372, 1.3795, 2.5082, 1.05), (0.3075, 2.0174, 9.6746, 29.3744, 80.4732)),
    "Br": ((0.4798, 1.1948, 1.8695, 2.6953, 0.8203), (0.2504, 1.5963, 6.9653, 19.8492, 50.3233)),
    "Cs": ((1.2704, 3.8018, 5.6618, 0.9205, 4.8105), (0.4356, 4.2058, 23.4342, 136.7783, 171.7561)),
    "Pb": ((1.0891, 2.1867, 3.616, 3.8031, 1.8994), (0.2552, 1.7174, 6.5131, 23.917, 74.7039)),
}


def operations(*triplets: str) -> list[tuple[list[list[float]], list[float]]]:
    """Rotations and translations of symmetry operations such as -x+1/2,y,z."""
    parsed = []
    for triplet in triplets:
        rotation, translation = [], []
        for part in triplet.split(","):
            points = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
            at = [eval(part, dict(zip("xyz", point, strict=True))) for point in points]
            translation.append(at[0])
            rotation.append([value - at[0] for value in at[1:]])
        parsed.append((rotation, translation))
    return parsed


P3221 = operations("x,y,z", "-y,x-y,z+2/3", "-x+y,-x,z+1/3", "y,x,-z", "x-y,-y,-z+1/3", "-x,-x+y,-z+2/3")
P21 = operations("x,y,z", "-x,y+1/2,-z")
P212121 = operations("x,y,z", "-x+1/2,-y,z+1/2", "-x,y+1/2,-z+1/2", "x+1/2,-y+1/2,-z")
PNMA = operations("x,y,z", "-x+1/2,-y,z+1/2", "-x,y+1/2,-z", "x+1/2,-y+1/2,-z+1/2")
PNMA += [([[-x for x in row] for row in r], [-x for x in t]) for r, t in PNMA]


def model(cell, atoms, symmetry) -> AtomicModel:
    """Atoms are (element, site, u_iso, multiplicity / operations)."""
    elements = [atom[0] for atom in atoms]
    kinds = sorted(set(elements))

    def double(x):
        return torch.tensor(x, dtype=torch.float64)

    return AtomicModel(
        labels=tuple(f"{element}{i}" for i, element in enumerate(elements)),
        elements=tuple(elements),
        cell=double(cell),
        parameters=double([[*site, u, *[0.0] * 6, 1.0] for _, site, u, _ in atoms]),
        anisotropic=torch.zeros(len(atoms), dtype=torch.bool),
        multiplicity=double([atom[3] for atom in atoms]),
        form_factor_type=torch.tensor([kinds.index(element) for element in elements]),
        form_factor_a=double([PENG[kind][0] for kind in kinds]),
        form_factor_b=double([PENG[kind][1] for kind in kinds]),
        rotations=double([r for r, _ in symmetry]),
        translations=double([t for _, t in symmetry]),
    )


def quartz() -> AtomicModel:
    atoms = [("Si", (0.4697, 0.0, 2 / 3), 0.008, 0.5), ("O", (0.4135, 0.2669, 0.7858), 0.014, 1.0)]
    return model((4.913, 4.913, 5.405, 90.0, 90.0, 120.0), atoms, P3221)


def organic(cell, elements: str, symmetry) -> AtomicModel:
    """Atoms at random sites."""
    sites = torch.rand(len(elements), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    atoms = [(e, tuple(x), 0.03, 1.0) for e, x in zip(elements, sites.tolist(), strict=True)]
    return model(cell, atoms, symmetry)


def lead_bromide() -> AtomicModel:
    atoms = [
        ("Pb", (0.0, 0.0, 0.5), 0.02, 0.5),
        ("Cs", (0.53, 0.25, 0.99), 0.05, 0.5),
        ("Br", (0.996, 0.25, 0.554), 0.04, 0.5),
        ("Br", (0.294, 0.027, 0.706), 0.04, 1.0),
    ]
    return model((8.244, 11.735, 8.198, 90.0, 90.0, 90.0), atoms, PNMA)


CRYSTALS = {
    "quartz": quartz,
    "L-alanine size": lambda: organic((5.8, 6.0, 12.3, 90.0, 90.0, 90.0), "CCCNOO", P212121),
    "organic, 28 atoms": lambda: organic(
        (7.9, 8.6, 14.8, 90.0, 101.0, 90.0), "C" * 20 + "N" * 3 + "O" * 5, P21
    ),
    "lead bromide": lead_bromide,
}


@dataclass(frozen=True)
class Problem:
    """A segment of steps, and weights of its intensities in the sum that is differentiated."""

    name: str
    coupling: Tensor  # (N, N)
    diagonal: Tensor  # (K, N)
    thickness: Tensor  # (T,)
    weights: Tensor  # (K, T, N)

    @property
    def size(self) -> tuple[int, int, int]:
        return self.coupling.shape[-1], len(self.diagonal), len(self.thickness)

    def to(self, device: str, real: torch.dtype) -> Problem:
        kind = self.coupling.dtype
        if kind.is_complex:
            kind = torch.complex128 if real == torch.float64 else torch.complex64
        else:
            kind = real
        return replace(
            self,
            coupling=self.coupling.to(device, kind),
            **{key: getattr(self, key).to(device, real) for key in ("diagonal", "thickness", "weights")},
        )


def thicknesses(largest: float, count: int) -> Tensor:
    return largest * torch.arange(1, count + 1, dtype=torch.float64) / count


def problem(
    name: str,
    g_max: float,
    steps: int,
    t: Tensor,
    *,
    rotation=GENERAL,
    real=False,
    width: float | None = None,
) -> Problem:
    """Steps of `width` [radian] about an axis that is nearly perpendicular to the beam."""
    width = width or 0.75 / (g_max * float(t.max()))
    atoms = CRYSTALS[name]()
    basis = (
        rotation_matrix(torch.tensor(rotation, dtype=torch.float64))
        @ torch.linalg.cholesky(torch.linalg.inv(metric_tensor(atoms.cell))).mT
    )
    axis = torch.tensor([0.96, 0.28, 0.02], dtype=torch.float64) / 1.0004**0.5
    beam = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    angle = (torch.arange(steps, dtype=torch.float64) - steps // 2) * width
    basis = rotation_matrix(angle[:, None] * axis) @ basis
    segment = cut_segments(
        basis,
        beam.expand(steps, 3),
        torch.zeros(steps, dtype=torch.long),
        reflections_within(atoms.cell, g_max),
        wave_number=WAVE_NUMBER,
        sg_max=SG_MAX,
        length=steps,
    )[0]
    r = torch.einsum("kij,nj->kni", basis, segment.hkl.double())
    s_g = excitation_errors(r, beam, WAVE_NUMBER).clamp(-2.0 * SG_MAX, 2.0 * SG_MAX)
    m = symmetrisation(r[steps // 2], beam, WAVE_NUMBER)
    table = DifferenceTable.of_beams([segment.hkl])
    u = structure_factors(atoms, table.hkl) * potential_scale(atoms.cell, 1.0 / WAVE_NUMBER)
    a = coupling(u, table.of_pairs(segment.hkl), m)
    # What is rounded here is rounded for every kernel and for the referee.
    a, d, t = a.to(torch.complex64), (2.0 * WAVE_NUMBER * s_g * m**2).float(), t.float()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(steps, len(t), len(segment.hkl), generator=generator)
    return Problem(name, a.real.contiguous() if real else a, d, t, weights)


def exponentials(a: Tensor, d: Tensor, thickness: Tensor) -> Tensor:
    """The baseline."""

    def column(t, k):
        matrix = a + torch.diag(d[k])
        return torch.linalg.matrix_exp(1j * math.pi / WAVE_NUMBER * t * matrix)[:, 0]

    steps = [
        torch.stack([checkpoint(column, t, k, use_reentrant=False) for t in thickness]) for k in range(len(d))
    ]
    return torch.stack(steps)


def kernel(algorithm: str | None):
    return lambda a, d, t: waves.amplitudes(a, d, t, WAVE_NUMBER, algorithm=algorithm)


KERNELS = {"baseline": exponentials, "eigen": kernel("eigen"), "chebyshev": kernel("chebyshev")}


def evaluate(problem: Problem, propagate) -> list[Tensor]:
    """Intensities, and gradients by coupling and diagonals."""
    a = problem.coupling.clone().requires_grad_()
    d = problem.diagonal.clone().requires_grad_()
    psi = propagate(a, d, problem.thickness)
    intensity = psi.real**2 + psi.imag**2
    return [intensity.detach(), *torch.autograd.grad((problem.weights * intensity).sum(), (a, d))]


def error(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.norm((found - expected).flatten()) / torch.linalg.norm(expected.flatten()))


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(function, device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    synchronise(device)
    started = clock()
    function()
    synchronise(device)
    return clock() - started


def medians(functions: dict, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each function, all run in turn."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return {name: statistics.median(values) for name, values in times.items()}


def errors(problem: Problem, propagate, device: str) -> tuple[float, float]:
    """Relative errors of the intensities and of the gradients."""
    expected = evaluate(problem.to(device, torch.float64), KERNELS["eigen"])
    found = evaluate(problem.to(device, torch.float32), propagate)
    gradient = [torch.cat([x.flatten().to(torch.complex128) for x in part[1:]]) for part in (found, expected)]
    return error(found[0].double(), expected[0]), error(*gradient)


def cases(quick: bool) -> list[tuple[Problem, float | None]]:
    """Segments, and how many times faster than the baseline they should be."""
    found = []
    for name, g_max, steps, t, targets in (
        ("quartz", 2.0, 4, 850.0, (4, 25)),
        ("quartz", 2.0, 16, 850.0, (4, 25)),
        ("L-alanine size", 1.55, 16, 800.0, (7, 80)),
        ("organic, 28 atoms", 1.35, 16, 800.0, (18, 100)),
    ):
        for count, target in zip((1, 10), targets, strict=True):
            found.append((problem(name, g_max, steps, thicknesses(t, count)), target))
    if not quick:
        for real, target in ((False, 60), (True, 120)):
            found.append((problem("lead bromide", 1.95, 32, thicknesses(600.0, 1), real=real), target))
    return found


GEMM = 1024


def gemm(device: str):
    """A product of two complex64 matrices of 1024, to be timed."""
    a = torch.randn(GEMM, GEMM, dtype=torch.complex64, device=device)
    return lambda: a @ a


def speed_table(quick: bool, device: str) -> list[dict]:
    print("Milliseconds, forward and backward; ratio: baseline / chosen; GEMM: part of the machine's rate")
    print(
        f"{'case':18s} {'N':>4s} {'steps':>5s} {'T':>2s} {'baseline':>9s} {'eigen':>8s} {'chebyshev':>9s} "
        f"{'chosen':>9s} {'ratio':>6s} {'target':>6s} {'error I':>8s} {'gradient':>8s} {'GEMM':>5s}"
    )
    rows = []
    for case, target in cases(quick):
        case = case.to(device, torch.float32)
        n, k, t = case.size
        functions = {name: partial(evaluate, case, propagate) for name, propagate in KERNELS.items()}
        times = medians(functions | {"gemm": gemm(device)}, 5, device)
        rate = 8 * GEMM**3 / times["gemm"]
        chosen = waves.fastest(case.coupling, case.diagonal, case.thickness, WAVE_NUMBER)
        ratio = times["baseline"] / times[chosen]
        of_intensity, of_gradient = errors(case, KERNELS[chosen], device)
        fraction = products(case) / times["chebyshev"] / rate if n >= 140 else None
        name = case.name if case.coupling.is_complex() else case.name + " real"
        rows.append(
            dict(case=name, n=n, steps=k, thicknesses=t, **times, chosen=chosen, ratio=ratio, target=target)
            | dict(error_intensity=of_intensity, error_gradient=of_gradient, gemm_fraction=fraction)
        )
        milliseconds = [
            f"{1e3 * times[key]:{width}.1f}" for key, width in zip(KERNELS, (9, 8, 9), strict=True)
        ]
        print(
            f"{name:18s} {n:4d} {k:5d} {t:2d} {' '.join(milliseconds)} {chosen:>9s} {ratio:6.1f} {target:6d} "
            f"{of_intensity:8.1e} {of_gradient:8.1e} {'' if fraction is None else f'{fraction:5.2f}'}",
            flush=True,
        )
    return rows


def products(case: Problem) -> float:
    """Flops of the three products of each degree."""
    n, k, _ = case.size
    made = chebyshev.propagate(
        case.coupling[None], case.diagonal[None], case.thickness, WAVE_NUMBER, None, hermitian=True
    )
    return 3 * len(made.series) * (8 if case.coupling.is_complex() else 2) * n * n * k


def accuracy_table(quick: bool, device: str) -> list[dict]:
    print("\nRelative L2 errors of the intensities and of the gradients, three thicknesses up to t [A]")
    rows = []
    for name, g_max in (("quartz", 2.0), ("L-alanine size", 1.55), ("organic, 28 atoms", 1.35))[
        : 1 if quick else 3
    ]:
        for orientation, rotation in (("general", GENERAL), ("zone axis", ZONE_AXIS)):
            for t in (200.0, 1000.0, 3000.0):
                case = problem(name, g_max, 5, thicknesses(t, 3), rotation=rotation)
                row = dict(case=name, orientation=orientation, n=case.size[0], t=t)
                for algorithm in waves.AMPLITUDES:
                    row[algorithm] = errors(case, KERNELS[algorithm], device)
                rows.append(row)
                print(
                    f"{name:18s} {orientation:9s} N {row['n']:4d} t {t:5.0f}  "
                    + "  ".join("{} {:.1e} {:.1e}".format(a, *row[a]) for a in waves.AMPLITUDES),
                    flush=True,
                )
    return rows


def scaling_table(quick: bool, device: str) -> list[dict]:
    """Milliseconds against one of N, steps, T and t, the others as in the organic case with T = 10."""
    print("\nMilliseconds, organic cell, 16 steps over 5 mrad, T = 10, t = 800 A, g_max 1.35 otherwise")
    usual = dict(g_max=1.35, steps=16, count=10, t=800.0)
    varied = {
        "g_max": (0.6, 0.85, 1.1, 1.35, 1.7) if quick else (0.6, 0.85, 1.1, 1.35, 1.7, 2.1, 2.6),
        "steps": (4, 8, 16, 32, 64),
        "count": (1, 2, 5, 10, 20, 40),
        "t": (200.0, 400.0, 800.0, 1600.0, 3200.0),
    }
    rows = []
    for key, values in varied.items():
        made = []
        for value in values:
            given = usual | {key: value}
            case = problem(
                "organic, 28 atoms",
                given["g_max"],
                given["steps"],
                thicknesses(given["t"], given["count"]),
                width=5e-3 / given["steps"],
            ).to(device, torch.float32)
            functions = {name: partial(evaluate, case, KERNELS[name]) for name in waves.AMPLITUDES}
            x = case.size[0] if key == "g_max" else value
            made.append((x, medians(functions, 3, device)))
        name = "N" if key == "g_max" else "T" if key == "count" else key
        for algorithm in waves.AMPLITUDES:
            times = [t[algorithm] for _, t in made]
            # of the upper half, where fixed costs no longer count
            upper = [(math.log(x), math.log(t[algorithm])) for x, t in made[len(made) // 2 - 1 :]]
            slope = statistics.linear_regression(*zip(*upper, strict=True)).slope
            rows.append(
                dict(
                    against=name,
                    algorithm=algorithm,
                    values=[x for x, _ in made],
                    seconds=times,
                    exponent=slope,
                )
            )
            pairs = "  ".join(f"{x:g}: {1e3 * t:.1f}" for (x, _), t in zip(made, times, strict=True))
            print(f"{name:6s} {algorithm:9s} exponent {slope:4.2f}   {pairs}", flush=True)
    return rows


def memory(algorithm: str) -> float:
    """Growth of the peak resident set [MiB] for N = 237, 48 steps, T = 10, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", algorithm], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def measure_memory(algorithm: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def made(n, k, t):
        x = torch.randn(n, n, dtype=torch.complex64, generator=generator) * 0.02
        d = torch.rand(k, n, generator=generator) * 3.2 - 1.6
        return Problem("", x + x.mH, d, thicknesses(800.0, t).float(), torch.ones(k, t, n))

    evaluate(made(30, 4, 2), KERNELS[algorithm])
    case = made(237, 48, 10)
    before = resident("VmRSS")
    evaluate(case, KERNELS[algorithm])
    print(resident("VmHWM") - before)


def resident(key: str) -> float:
    """Now (VmRSS) or at most (VmHWM) [MiB]."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the large cases")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--memory", choices=waves.AMPLITUDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        measure_memory(options.memory)
        return
    results = dict(device=options.device, torch=torch.__version__)
    results["speed"] = speed_table(options.quick, options.device)
    rates = [8e-9 * GEMM**3 / row["gemm"] for row in results["speed"]]
    print(f"Complex64 GEMM of this machine: {statistics.median(rates):.0f} Gflop/s")
    results["accuracy"] = accuracy_table(options.quick, options.device)
    results["scaling"] = scaling_table(options.quick, options.device)
    if options.device == "cpu":
        results["memory_mib"] = {name: memory(name) for name in waves.AMPLITUDES}
        print("\nGrowth of the peak memory, N = 237, 48 steps, T = 10 [MiB]:", results["memory_mib"])
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
