"""The one entrance to the solvers."""

from typing import Literal, get_args

import torch
from torch import Tensor

from .certificates import lower_bound
from .costs import full_precision, no_autocast
from .exact import exact
from .hybrid import hybrid
from .interior_point import interior_point
from .ipot import ipot
from .problem import Problem, TransportResult
from .shortlist import shortlist
from .values import require_tensors

Solver = Literal["auto", "hybrid", "shortlist", "interior_point", "exact", "ipot"]
# Unless the caller says otherwise; the others need no limit.
_ITERATIONS = {"interior_point": 14, "ipot": 50}


def solve(
    cost: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    solver: Solver = "auto",
    tolerance: float = 3e-3,
    iterations: int | None = None,
    step: float = 0.5,
    certificate: bool = False,
    unroll: bool = False,
) -> TransportResult:
    """Solves a batch of optimal transport problems: min ⟨cost, plan⟩ over plans with row sums a and column sums b.

    This is the distance D of the WMA paper (Eqs. 6–8). The value's gradient with respect to the cost is the plan, as
    the envelope theorem has it; the plan itself is a constant. Weights never receive a gradient.

    Args:
        cost: (…, n, m), any floating dtype; solved in fp32 (fp64 if given), also under autocast. +∞ forbids a pair (a
            huge number does so badly: differences below 1e-12 of a problem's largest cost are none to the simplex).
            ``"interior_point"``, and so ``"auto"`` on an accelerator, knows no forbidden pairs.
        a: (…, n) nonnegative weights of the rows in any dtype, so a mask will do; 0 is padding, whose costs are never
            looked at. Normalised to sum 1 per problem. None: uniform.
        b: (…, m), the same for the columns. A problem with no weight on a side has plan 0, value 0 and gradient 0.
        solver: how to solve.

            - ``"auto"``: ``"hybrid"`` for CPU tensors, ``"interior_point"`` for others.
            - ``"hybrid"``: annealed Sinkhorn, and ``"shortlist"`` where duality does not prove it right; always on the
              CPU.
            - ``"shortlist"``: exact simplex on few arcs, with the others priced by duality; always on the CPU.
            - ``"interior_point"``: batched Mehrotra steps on the tensors' device, which never waits for it.
            - ``"exact"``: POT's network simplex on all arcs in fp64; always on the CPU.
            - ``"ipot"``: 50 proximal steps of 0.5 as in UNITER and ViLT; up to tens of percent above the optimum.
        tolerance: relative error of the value at which ``"hybrid"`` and ``"shortlist"`` (proven) and
            ``"interior_point"`` (aimed at) stop. ``"exact"`` has none, and ``"ipot"`` knows none.
        iterations: at most so many of ``"interior_point"`` (default 14), exactly so many of ``"ipot"`` (default 50).
        step: proximal step of ``"ipot"``, in units of the cost.
        certificate: also return a lower bound on the optimal value, from the solver's dual potentials.
        unroll: differentiate through the iterations of ``"ipot"``, plan included; costs memory per iteration. The
            others find vertices of a polytope, which do not move with the cost.

    Returns:
        Plan (…, n, m), value (…) and lower bound (…) in fp32 or fp64. The value is NaN for a problem with a cost that is
        NaN or −∞ at valid tokens, without a plan that avoids the forbidden pairs, or, with ``"interior_point"``, with any.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for shapes that do not fit, an unknown solver, or an ``unroll`` that has no meaning; on the CPU
            also for weights that are negative or not finite (elsewhere looking would stall the device).
    """
    require_tensors(cost=cost, a=a, b=b)
    if solver == "auto":
        solver = "hybrid" if cost.device.type == "cpu" else "interior_point"
    if solver not in get_args(Solver):
        raise ValueError(f"solver must be one of {', '.join(get_args(Solver))}; got {solver!r}")
    if unroll and solver != "ipot":
        raise ValueError(f'unroll needs solver="ipot": the plan of {solver!r} is piecewise constant in the cost')
    options = (solver, tolerance, iterations or _ITERATIONS.get(solver, 0), step, certificate)
    if torch.compiler.is_compiling() and not unroll:
        return _solve_in_graph(cost, a, b, options)
    with no_autocast(cost.device):
        problem = Problem.build(cost, a, b)
        with torch.set_grad_enabled(unroll and torch.is_grad_enabled()):
            plan, f = _call(problem, *options)
        value = _value(plan, problem.cost)
        bound = lower_bound(problem, f).reshape(cost.shape[:-2]) if certificate else None
        return TransportResult(plan.reshape(cost.shape), value.reshape(cost.shape[:-2]), bound)


def _solve_in_graph(cost: Tensor, a: Tensor | None, b: Tensor | None, options: tuple) -> TransportResult:
    """:func:`solve` as one operator of a compiled graph, with only the value, and so its gradient, computed in it."""
    plan, bound = _solve_operator(cost.detach(), a, b, *options)
    with no_autocast(cost.device):
        value = _value(plan, full_precision(cost))
    return TransportResult(plan, value, bound if options[-1] else None)


def _value(plan: Tensor, cost: Tensor) -> Tensor:
    """⟨cost, plan⟩ (…). Where nothing is transported the cost may be infinite, or padding's garbage."""
    return (plan * cost.masked_fill(plan == 0, 0)).sum((-2, -1))


# A graph cannot hold the simplex, and thousands of small steps would take minutes to compile.
@torch.library.custom_op("hf_mmalign::solve", mutates_args=())
def _solve_operator(
    cost: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    solver: str,
    tolerance: float,
    iterations: int,
    step: float,
    certificate: bool,
) -> tuple[Tensor, Tensor]:
    """Plan (…, n, m) and lower bound (…), which without a certificate means nothing."""
    plan, value, bound = solve(
        cost, a, b, solver=solver, tolerance=tolerance, iterations=iterations, step=step, certificate=certificate
    )
    return plan, value if bound is None else bound


@_solve_operator.register_fake
def _(cost: Tensor, *_) -> tuple[Tensor, Tensor]:
    plan = full_precision(cost).new_empty(cost.shape)
    return plan, plan.new_empty(cost.shape[:-2])


def _call(
    problem: Problem, solver: Solver, tolerance: float, iterations: int, step: float, certificate: bool
) -> tuple[Tensor, Tensor | None]:
    if solver == "ipot":
        return ipot(problem, step=step, iterations=iterations, potentials=certificate)
    problem, scale = problem.detach().scaled()
    if solver == "interior_point":
        plan, f = interior_point(problem, tolerance=tolerance, iterations=iterations)
    elif solver == "hybrid":
        plan, f = hybrid(problem, tolerance=tolerance)
    elif solver == "shortlist":
        plan, f = shortlist(problem, tolerance=tolerance)
    else:
        plan, f = exact(problem)
    return plan, f * scale.squeeze(-1)
