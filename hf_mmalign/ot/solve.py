"""The one entrance to the solvers."""

import torch
from torch import Tensor

from .certificates import lower_bound
from .exact import exact
from .ipot import ipot
from .problem import Problem, TransportResult
from .shortlist import shortlist

SOLVERS = ("auto", "shortlist", "exact", "ipot")


def solve(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    solver: str = "auto",
    tolerance: float = 1e-3,
    step: float = 0.5,
    iterations: int = 50,
    certificate: bool = False,
) -> TransportResult:
    """Solves a batch of discrete optimal transport problems ``min ⟨cost, plan⟩`` over plans with marginals a and b."""
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}; got {solver!r}")
    with torch.autocast(cost.device.type, enabled=False):
        problem = Problem.build(cost, a, b)
        with torch.no_grad():
            if solver == "ipot":
                plan, f = ipot(problem, step=step, iterations=iterations, potentials=certificate)
            elif solver == "exact":
                plan, f = exact(problem)
            else:
                plan, f = shortlist(problem, tolerance=tolerance)
            bound = lower_bound(problem, f) if certificate else None
        value = (plan * problem.cost).sum((-2, -1))
        batch = cost.shape[:-2]
        return TransportResult(
            plan.reshape(cost.shape), value.reshape(batch), None if bound is None else bound.reshape(batch)
        )
