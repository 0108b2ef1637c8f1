"""The exact solver: POT's dense network simplex for every problem of the batch."""

import numpy as np
import torch
from torch import Tensor

from .problem import Problem
from .simplex import over_threads, solve_dense


def exact(problem: Problem) -> tuple[Tensor, Tensor]:
    """Optimal plans by the network simplex in float64 on the CPU, over threads (an accelerator waits for it).

    Returns:
        plan (B, n, m) and row potentials (B, n), in the cost's dtype and on its device; NaN for a problem with a cost
        that is not finite.
    """
    cost, a, b = (x.detach().to("cpu", torch.float64).numpy() for x in (problem.cost, problem.a, problem.b))
    plan, f = np.zeros_like(cost), np.zeros_like(a)
    over_threads(lambda i: solve_into(plan[i], f[i], cost[i], a[i], b[i]), len(cost))
    return torch.from_numpy(plan).to(problem.cost), torch.from_numpy(f).to(problem.cost)


def solve_into(plan: np.ndarray, f: np.ndarray, cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Solves one padded problem in float64 and writes its plan (n, m) and row potentials (n,) in place."""
    rows, columns = np.flatnonzero(a), np.flatnonzero(b)
    block = np.ix_(rows, columns)
    if not np.isfinite(cost[block]).all():
        plan[...], f[...] = np.nan, np.nan
    elif rows.size:
        # Weights normalised in fp32 sum to 1 up to 1e-7; the simplex wants equal sums in float64.
        plan[block], potential, _ = solve_dense(a[rows] / a[rows].sum(), b[columns] / b[columns].sum(), cost[block])
        f[rows] = potential - potential.mean()
