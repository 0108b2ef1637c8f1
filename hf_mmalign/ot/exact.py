"""The exact solver: POT's dense network simplex for every problem of the batch."""

import numpy as np
import torch
from torch import Tensor

from .problem import Problem
from .simplex import over_threads, solve_dense

# Mass on forbidden pairs that is weights' rounding in fp32; more means that no plan avoids them.
_UNAVOIDABLE = 1e-6


def exact(problem: Problem) -> tuple[Tensor, Tensor]:
    """Optimal plans by the network simplex in float64 on the CPU, over threads (an accelerator waits for it).

    Returns:
        plan (B, n, m) and row potentials (B, n), in the cost's dtype and on its device; NaN for a problem with a cost
        that is NaN or −∞, or without a plan that avoids the pairs of cost +∞.
    """
    cost, a, b = (x.detach().to("cpu", torch.float64).numpy() for x in (problem.cost, problem.a, problem.b))
    plan, f = np.zeros_like(cost), np.zeros_like(a)
    over_threads(lambda i: solve_into(plan[i], f[i], cost[i], a[i], b[i]), len(cost))
    return torch.from_numpy(plan).to(problem.cost), torch.from_numpy(f).to(problem.cost)


def solve_into(plan: np.ndarray, f: np.ndarray, cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Solves one padded problem in float64 and writes its plan (n, m) and row potentials (n,) in place."""
    rows, columns = np.flatnonzero(a), np.flatnonzero(b)
    if not rows.size:
        return
    block = np.ix_(rows, columns)
    cost, forbidden = cost[block], cost[block] == np.inf
    if forbidden.any():
        cost = _with_finite_costs(cost, forbidden)
    if not np.isfinite(cost).all():
        plan[...], f[...] = np.nan, np.nan
        return
    # Weights normalised in fp32 sum to 1 up to 1e-7; the simplex wants equal sums in float64.
    flow, potential, _ = solve_dense(a[rows] / a[rows].sum(), b[columns] / b[columns].sum(), cost)
    if flow[forbidden].sum() > _UNAVOIDABLE:
        plan[...], f[...] = np.nan, np.nan
        return
    plan[block] = np.where(forbidden, 0, flow)
    f[rows] = potential - potential.mean()


def _with_finite_costs(cost: np.ndarray, forbidden: np.ndarray) -> np.ndarray:
    """Costs high enough in the place of +∞ that no plan gains by a forbidden pair which it can avoid.

    To avoid one, a plan changes at most min(n, m) other pairs for worse ones.
    """
    allowed = cost[~forbidden]
    lowest, highest = (allowed.min(), allowed.max()) if allowed.size else (0.0, 0.0)
    return np.where(forbidden, highest + (min(cost.shape) + 1) * max(highest - lowest, 1.0), cost)
