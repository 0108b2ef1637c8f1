"""Accuracy against time of optimal transport solvers, on the token geometries that multimodal training meets.

    python benchmarks/ot_solvers.py [--quick] [--threads 2] [--json ot_solvers.json]

Regimes: unrelated tokens; copies with noise 0.5 and 0.1 (well-aligned modalities; every token is copied once or twice,
so that weights do not match up unless n = m); tokens in a narrow cone, as those of trained transformers. Errors are
relative to POT's exact value, worst problem of the batch; `marginals` is the largest L1 error of a plan's row or column
sums. Every repeat times all solvers in turn, and a solver's ratio is the median over repeats of its time over faithful
IPOT's in the same repeat, so that other load on the machine hits both.

POT's batched default, a proximal point method, does not converge up to 0.9.7 for a wrong sign (PythonOT/POT#842).
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import ot as pot
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hf_mmalign import ot

REGIMES = ("random", "copies 0.5", "copies 0.1", "cone")
WIDTH = 64
SIZES = (
    (64, 6, 6),
    (64, 20, 50),
    (64, 40, 145),
    (64, 145, 40),
    (16, 197, 197),
    (8, 300, 512),
    (8, 512, 512),
    (1, 512, 512),
)
QUICK_SIZES = ((64, 20, 50), (64, 40, 145), (4, 300, 512))
# These take seconds: they are run once, and POT's only on batches of at most so many arcs.
POT_BATCH, POT_BATCH_ARCS, PLAIN = "POT solve_batch (defaults)", 400_000, "log-domain Sinkhorn 0.01x100"
SLOW = (POT_BATCH, PLAIN)
REFERENCE = "IPOT 0.5x50"


def tokens(regime: str, batch: int, n: int, m: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, y = normal(batch, n, WIDTH), normal(batch, m, WIDTH)
    if regime == "cone":
        mean = 2 * normal(WIDTH)
        return x + mean, y + mean
    if regime.startswith("copies"):
        copied = torch.stack([torch.randperm(max(n, m), generator=generator)[:m] % n for _ in range(batch)])
        return x, x.gather(1, copied.unsqueeze(-1).expand(-1, -1, WIDTH)) + float(regime.split()[1]) * y
    return x, y


def ragged(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Masks (B, size) of valid lengths between a quarter of the size and all of it."""
    lengths = torch.randint(max(1, size // 4), size + 1, (batch, 1), generator=generator)
    return (torch.arange(size) < lengths).float()


def plain_sinkhorn(cost: Tensor, a: Tensor, b: Tensor, epsilon: float = 0.01, iterations: int = 100) -> Tensor:
    """The textbook loop in the log domain, without any of the tricks."""
    log_a, log_b = a.log().unsqueeze(-1), b.log().unsqueeze(-2)
    exponent, g = -cost / epsilon, torch.zeros_like(log_b)
    for _ in range(iterations):
        f = log_a - torch.logsumexp(exponent + g, dim=-1, keepdim=True)
        g = log_b - torch.logsumexp(exponent + f, dim=-2, keepdim=True)
    return (exponent + f + g).exp()


def solvers() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Functions from cost (B, n, m) and normalised weights, 0 for padding, to plans."""
    ours = {
        "ours: auto (CPU)": {},
        "ours: auto, tolerance 1e-4": {"tolerance": 1e-4},
        "ours: interior point (GPU)": {"solver": "interior_point"},
        REFERENCE: {"solver": "ipot"},
        "POT network simplex": {"solver": "exact"},
    }

    return {
        **{name: lambda c, a, b, options=options: ot.solve(c, a, b, **options).plan for name, options in ours.items()},
        POT_BATCH: lambda c, a, b: pot.batch.solve_batch(c, a=a, b=b, grad="detach").plan,
        PLAIN: plain_sinkhorn,
    }


def timed(function: Callable[[Tensor, Tensor, Tensor], Tensor], *arguments: Tensor) -> tuple[float, Tensor]:
    start = time.perf_counter()
    plan = function(*arguments)
    return time.perf_counter() - start, plan


def measure(regime: str, size: tuple[int, int, int], masked: bool, repeats: int) -> list[dict]:
    """One row per solver."""
    generator = torch.Generator().manual_seed(0)
    cost = ot.cosine_cost(*tokens(regime, *size, generator))
    batch, n, m = size
    a = ragged(batch, n, generator) if masked else torch.ones(batch, n)
    b = ragged(batch, m, generator) if masked else torch.ones(batch, m)
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    exact = ot.solve(cost.double(), a, b, solver="exact").value
    candidates = solvers()
    if masked or cost.numel() > POT_BATCH_ARCS:  # POT's batch knows no padding: log(0)
        del candidates[POT_BATCH]
    runs = {name: [timed(function, cost, a, b)] for name, function in candidates.items()}  # warms up as well
    for _ in range(repeats):
        for name, function in candidates.items():
            runs[name].append(runs[name][0] if name in SLOW else timed(function, cost, a, b))
    plans = {name: run[0][1] for name, run in runs.items()}
    times = {name: [seconds for seconds, _ in run[1:]] for name, run in runs.items()}
    rows = []
    for name, plan in plans.items():
        error = ((plan * cost).double().sum((1, 2)) / exact - 1).tolist()
        off = max((plan.sum(2) - a).abs().sum(1).max().item(), (plan.sum(1) - b).abs().sum(1).max().item())
        ratios = [mine / reference for mine, reference in zip(times[name], times[REFERENCE], strict=True)]
        rows.append(
            {
                "regime": regime,
                "size": "x".join(map(str, size)) + (" ragged" if masked else ""),
                "solver": name,
                "worst_error": max(error, key=lambda e: abs(e) if math.isfinite(e) else math.inf),
                "mean_error": statistics.fmean(error),
                "marginals": off,
                "milliseconds": 1e3 * statistics.median(times[name]),
                "ratio_to_ipot": statistics.median(ratios),
            }
        )
    return rows


class _Counter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not (function.is_view or "empty" in function.name())
        return function(*args, **(kwargs or {}))


def launches(**options) -> int:
    """Operators that compute something in one solve on a device other than the CPU: about its kernel launches.

    Run on tensors without values (the meta device), which proves as well that no value is waited for.
    """
    cost = torch.empty(64, 40, 145, device="meta")
    with _Counter() as counter:
        ot.solve(cost, **options)
    return counter.count


def print_rows(rows: list[dict]) -> None:
    print(f"\n{rows[0]['size']}, {rows[0]['regime']}")
    print(f"  {'solver':30s} {'worst error':>12s} {'mean error':>11s} {'marginals':>10s} {'ms':>9s} {'x IPOT':>8s}")
    for row in rows:
        print(
            f"  {row['solver']:30s} {row['worst_error']:12.3%} {row['mean_error']:11.3%} {row['marginals']:10.0e} "
            f"{row['milliseconds']:9.2f} {row['ratio_to_ipot']:8.2f}",
            flush=True,
        )


def summarise(rows: list[dict]) -> list[dict]:
    """Per solver the worst of everything, over all regimes and sizes."""
    summary = []
    for name in dict.fromkeys(row["solver"] for row in rows):
        mine = [row for row in rows if row["solver"] == name]
        summary.append(
            {
                "solver": name,
                "worst_error": max((row["worst_error"] for row in mine), key=lambda e: -math.inf if e != e else abs(e)),
                "not_finite": sum(not math.isfinite(row["worst_error"]) for row in mine),
                "marginals": max(row["marginals"] for row in mine if math.isfinite(row["marginals"])),
                "median_ratio": statistics.median(row["ratio_to_ipot"] for row in mine),
                "worst_ratio": max(row["ratio_to_ipot"] for row in mine),
            }
        )
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three sizes and three repeats: about a minute")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    parser.add_argument("--repeats", type=int, help="timed repeats of every solver (default 7, quick 3)")
    parser.add_argument("--json", type=Path, default=Path("ot_solvers.json"), help="where to write all rows")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    repeats = arguments.repeats or (3 if arguments.quick else 7)
    rows = []
    cases = [(size, False) for size in (QUICK_SIZES if arguments.quick else SIZES)] + [((64, 40, 145), True)]
    for size, masked in cases:
        for regime in REGIMES:
            rows += measure(regime, size, masked, repeats)
            print_rows(rows[-sum(row["size"] == rows[-1]["size"] and row["regime"] == regime for row in rows) :])
    summary = summarise(rows)
    print("\nWorst over all of the above")
    print(f"  {'solver':30s} {'error':>9s} {'not finite':>11s} {'marginals':>10s} {'median x IPOT':>14s} {'worst':>7s}")
    for row in summary:
        print(
            f"  {row['solver']:30s} {row['worst_error']:9.2%} {row['not_finite']:11d} {row['marginals']:10.0e} "
            f"{row['median_ratio']:14.2f} {row['worst_ratio']:7.2f}"
        )
    counts = {"interior_point": launches(solver="interior_point"), "ipot": launches(solver="ipot")}
    print(f"\nOperators launched on an accelerator, any size: {counts}")
    machine = {"processor": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    report = {"machine": machine, "pot": pot.__version__, "repeats": repeats, "operators": counts}
    arguments.json.write_text(json.dumps({**report, "summary": summary, "rows": rows}, indent=1) + "\n")
    print(f"Written to {arguments.json}")


if __name__ == "__main__":
    main()
