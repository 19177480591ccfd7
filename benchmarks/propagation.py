"""The kernels that propagate waves, against the matrix exponential of every step and thickness.

    python benchmarks/propagation.py [--quick] [--device cuda] [--json FILE] [--batches]

One thread (on a CPU the seconds are those of the process, so that its neighbours count less),
complex64, intensities of all beams and the gradient of a weighted sum of them by the structure matrix
(coupling and diagonals): the median of interleaved repeats. The baseline is torch.matrix_exp of each
step's matrix for each thickness, applied to the first column, with autograd and checkpointing. Errors
are relative L2 errors against complex128 eigenvectors of the same matrices. Segments: see
segments.py; segments that go together: batches.py.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from functools import partial

import torch
from batches import batch_table
from segments import GENERAL, WAVE_NUMBER, ZONE_AXIS, Problem, problem, thicknesses
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dials_hybrid.bloch import chebyshev, jacobian, waves

_TURN = 0.1  # seconds that are measured at once, at least
_REUSED = 31 * 2**20  # bytes; glibc takes sizes up to 32 MiB


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


def turns(functions: dict, repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each function in each repeat, all run in turn, the quick ones several times in a turn."""
    times, calls = {name: [] for name in functions}, {}
    for name, function in functions.items():
        function()
        calls[name] = math.ceil(_TURN / max(seconds(function, device), 1e-6))
    for _ in range(repeats):
        for name, function in functions.items():

            def turn(function=function, count=calls[name]):
                for _ in range(count):
                    function()

            times[name].append(seconds(turn, device) / calls[name])
    return times


def medians(functions: dict, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each function in `turns`."""
    return {name: statistics.median(values) for name, values in turns(functions, repeats, device).items()}


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


def gemm(n: int, device: str):
    """Products of complex64 matrices (n, n), as many as make one of 1024, to be timed."""
    a = torch.randn(n, n, dtype=torch.complex64, device=device)
    out, count = torch.empty_like(a), max(1, round((GEMM / n) ** 3))

    def products():
        for _ in range(count):
            torch.mm(a, a, out=out)

    return products, 8 * n**3 * count


def parts_of_the_rate(case: Problem, device: str) -> list[list[float]]:
    """Quartiles of Chebyshev's part of the rates of products (1024, 1024) and (N, N).

    Each part is that of two turns that follow each other, so that a drifting machine counts less.
    """
    made = {n: gemm(n, device) for n in (GEMM, case.size[0])}
    functions = {"chebyshev": partial(evaluate, case, KERNELS["chebyshev"])}
    times = turns(functions | {n: products for n, (products, _) in made.items()}, 25, device)
    own = [products(case) / t for t in times["chebyshev"]]
    return [
        statistics.quantiles([x / (flops / t) for x, t in zip(own, times[n], strict=True)], n=4)
        for n, (_, flops) in made.items()
    ]


def speed_table(quick: bool, device: str) -> list[dict]:
    print("Milliseconds, forward and backward; ratio: baseline / chosen; Chebyshev's part of the rate of")
    print("complex64 products of matrices (1024, 1024) and (N, N), measured in turn with them")
    print(
        f"{'case':18s} {'N':>4s} {'steps':>5s} {'T':>2s} {'baseline':>9s} {'eigen':>8s} {'chebyshev':>9s} "
        f"{'chosen':>9s} {'ratio':>6s} {'target':>6s} {'error I':>8s} {'gradient':>8s} {'1024':>5s} {'N':>5s}"
    )
    rows = []
    for case, target in cases(quick):
        case = case.to(device, torch.float32)
        n, k, t = case.size
        functions = {name: partial(evaluate, case, propagate) for name, propagate in KERNELS.items()}
        large, flops = gemm(GEMM, device)
        times = medians(functions | {"gemm": large}, 5, device)
        chosen = waves.fastest(case.coupling, case.diagonal, case.thickness, WAVE_NUMBER)
        ratio = times["baseline"] / times[chosen]
        of_intensity, of_gradient = errors(case, KERNELS[chosen], device)
        parts = parts_of_the_rate(case, device) if n >= 140 else []
        name = case.name if case.coupling.is_complex() else case.name + " real"
        rows.append(
            dict(case=name, n=n, steps=k, thicknesses=t, **times, chosen=chosen, ratio=ratio, target=target)
            | dict(
                error_intensity=of_intensity,
                error_gradient=of_gradient,
                gemm_rate=flops / times["gemm"],
                parts=parts,
            )
        )
        milliseconds = [
            f"{1e3 * times[key]:{width}.1f}" for key, width in zip(KERNELS, (9, 8, 9), strict=True)
        ]
        print(
            f"{name:18s} {n:4d} {k:5d} {t:2d} {' '.join(milliseconds)} {chosen:>9s} {ratio:6.1f} {target:6d} "
            f"{of_intensity:8.1e} {of_gradient:8.1e} {' '.join(f'{median:5.2f}' for _, median, _ in parts)}",
            flush=True,
        )
    return rows


def products(case: Problem) -> float:
    """Flops of the products of each degree: three with matrices, two with T coefficients."""
    n, k, t = case.size
    made = chebyshev.propagate(
        case.coupling[None], case.diagonal[None], case.thickness, WAVE_NUMBER, None, hermitian=True
    )
    words = 2 if case.coupling.is_complex() else 1
    return len(made.series) * n * k * (3 * 2 * words**2 * n + 2 * 2 * words * t)


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


def jacobian_table(device: str) -> list[dict]:
    """The forward Jacobian of 40 beams by 27 parameters, without the waves themselves."""
    print("\nForward Jacobian of the lead bromide in real arithmetic, 40 beams, 27 parameters, t = 1200 A")
    generator, rows = torch.Generator().manual_seed(0), []
    square = torch.randn(GEMM, GEMM, device=device)
    for k in (8, 16):
        case = problem("lead bromide", 2.2, k, thicknesses(1200.0, 12), real=True).to(device, torch.float32)
        n = case.size[0]
        x = torch.randn(27, n, n, generator=generator).to(device)
        beams, window = torch.arange(40, device=device), torch.ones(40, k, device=device)
        p = torch.full((40, 12), 1 / 12, device=device)
        expansion = jacobian.Expansion.of_matrices(
            case.coupling, case.diagonal, case.thickness, p, beams, WAVE_NUMBER, hermitian=True
        )
        forward = partial(jacobian.forward, expansion, x + x.mT, window, 2**20)
        times = medians({"forward": forward, "gemm": lambda: square @ square}, 5, device)
        flops = 4 * 27 * n**2 * k * len(expansion.series)
        fraction = flops / times["forward"] / (2 * GEMM**3 / times["gemm"])
        rows.append(dict(n=n, steps=k, degrees=len(expansion.series), **times, gemm_fraction=fraction))
        print(
            f"N {n:4d} steps {k:3d} degrees {len(expansion.series):4d}  {1e3 * times['forward']:.1f} ms, "
            f"{1e3 * times['forward'] / k:.1f} a step, {fraction:.2f} of the rate of float32 products",
            flush=True,
        )
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
    parser.add_argument("--batches", action="store_true", help="only segments together against one by one")
    parser.add_argument("--memory", choices=waves.AMPLITUDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        measure_memory(options.memory)
        return
    if options.batches:
        batch_table(options.quick, options.device)
        return
    # As in a whole command, where larger arrays came before: the C library uses freed blocks again
    # instead of handing them back to the system, which clears every page anew.
    torch.empty(_REUSED, dtype=torch.uint8)
    results = dict(device=options.device, torch=torch.__version__)
    results["speed"] = speed_table(options.quick, options.device)
    rate = statistics.median(row["gemm_rate"] for row in results["speed"])
    print(f"Complex64 GEMM of this machine: {1e-9 * rate:.0f} Gflop/s")
    results["accuracy"] = accuracy_table(options.quick, options.device)
    results["scaling"] = scaling_table(options.quick, options.device)
    results["batches"] = batch_table(options.quick, options.device)
    if not options.quick:
        results["jacobian"] = jacobian_table(options.device)
    if options.device == "cpu":
        results["memory_mib"] = {name: memory(name) for name in waves.AMPLITUDES}
        print("\nGrowth of the peak memory, N = 237, 48 steps, T = 10 [MiB]:", results["memory_mib"])
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
