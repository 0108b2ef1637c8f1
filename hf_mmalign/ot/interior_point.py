"""The default solver on accelerators: a batched primal-dual interior point method.

Entropic solvers need ever more iterations as the strength falls; an interior point method (Mehrotra, 1992) needs about
ten for any costs, each a handful of batched kernels and one batched Cholesky factorisation of a graph Laplacian with
one row per token of the smaller side. Nothing inside the loop waits for the device, and the number of iterations is
fixed beforehand; problems that are done are merely frozen. It keeps a feasible dual, so it knows its own error.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from .problem import Problem
from .rounding import round_to_marginals
from .sinkhorn import entropic_start

# Strength (in units of the costs' spread) and iterations of the entropic plan to start from, and how much of the
# product plan to mix in: the start must lie well inside the polytope.
_EPSILON, _ITERATIONS, _MIX = 0.5, 3, 0.1
# How far towards the boundary a step may go, and the share of the tolerance at which a problem counts as done.
_DAMPING, _MARGIN = 0.9, 0.25
# What moving a unit of mass to repair the marginals may cost, in units of the costs' spread.
_PENALTY = 4.0
# Added to the Laplacian's diagonal, relative to it: potentials are free up to a constant, which makes it singular.
_RIDGE = 1e-6
# Stands for infinity in padding, where products with zero must remain zero.
_HUGE = 1e30


def interior_point(problem: Problem, *, tolerance: float = 1e-3, iterations: int = 14) -> tuple[Tensor, Tensor]:
    """Plans whose value is within about ``tolerance`` of the optimum, relative to it.

    Args:
        problem: the batch; solved on its device, in the cost's dtype.
        tolerance: gap (value − bound) / |value| below which a problem is left alone. It must not be much below the
            dtype's rounding (1e-5 for fp32), where steps become noise and are rejected.
        iterations: at most so many. 14 suffice for 512×512 tokens in fp32, 10 for a hundred. On the CPU, where looking
            costs nothing, the loop ends when all problems are done.

    Returns:
        plan (B, n, m) with exact marginals, and row potentials (B, n).
    """
    problem = problem.detach()
    if problem.cost.shape[1] > problem.cost.shape[2]:
        plan, f = _solve(problem.mT, tolerance, iterations)
        # Row potentials of the caller's problem: the largest that go with the columns' (which are this one's rows').
        f = (problem.cost - f.unsqueeze(-2)).masked_fill_(problem.b.unsqueeze(-2) == 0, _HUGE).amin(-1)
        return plan.mT, f.masked_fill_(problem.a == 0, 0)
    return _solve(problem, tolerance, iterations)


def _solve(problem: Problem, tolerance: float, iterations: int) -> tuple[Tensor, Tensor]:
    if not problem.cost.numel():
        return torch.zeros_like(problem.cost), torch.zeros_like(problem.a)
    a, b = problem.a.unsqueeze(-1), problem.b.unsqueeze(-2)
    centred = problem.centred()
    cost = centred.cost.masked_fill(~problem.valid, _HUGE)
    # ⟨cost, plan⟩ of the caller's costs is scale · ⟨centred, plan⟩ + constant, up to the marginals' rounding.
    constant = (a.mT @ centred.row + centred.column @ b.mT) / centred.scale
    rounding = 4 * torch.finfo(cost.dtype).eps * (1 + constant.abs())
    plan, f, g = candidate = _start(problem, centred)
    error = torch.full_like(constant, float("inf"))
    active = torch.ones_like(constant, dtype=torch.bool)
    with _full_precision_products():
        for left in reversed(range(iterations + 1)):
            slack = cost - candidate[1] - candidate[2]
            gap = (candidate[0] * slack).sum((-2, -1), keepdim=True)
            new_error = gap + _PENALTY * _infeasibility(candidate[0], a, b)
            # Near the limits of fp32 a step may do harm, or be NaN: it is undone, and its problem is done.
            active = active & (new_error < error)
            plan, f, g = (torch.where(active, new, old) for new, old in zip(candidate, (plan, f, g), strict=True))
            error = torch.where(active, new_error, error)
            value = (plan * centred.cost).sum((-2, -1), keepdim=True) + constant
            active = active & (error > _MARGIN * tolerance * value.abs() + rounding)
            if not left or (cost.device.type == "cpu" and not bool(active.any())):
                break
            candidate = _step(problem, plan, f, g, slack, gap)
    plan = round_to_marginals(plan, [problem.a, problem.b]).masked_fill(~value.isfinite(), float("nan"))
    return plan, (centred.scale * f + centred.row).squeeze(-1).masked_fill(problem.a == 0, 0)


def _infeasibility(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    rows, columns = plan.sum(-1, keepdim=True), plan.sum(-2, keepdim=True)
    return (a - rows).abs().sum(-2, keepdim=True) + (b - columns).abs().sum(-1, keepdim=True)


def _start(problem: Problem, centred) -> tuple[Tensor, Tensor, Tensor]:
    """A plan inside the polytope and potentials that leave every arc some slack: (B, n, m), (B, n, 1), (B, 1, m)."""
    a, b = problem.a.unsqueeze(-1), problem.b.unsqueeze(-2)
    start = entropic_start(problem, centred, _EPSILON, _ITERATIONS)
    plan = round_to_marginals(a * start.density * b, [problem.a, problem.b])
    plan = (1 - _MIX) * plan + _MIX * a * b
    cost = centred.cost.masked_fill(~problem.valid, _HUGE)
    g = (cost - start.f).amin(-2, keepdim=True).masked_fill(b == 0, 0)
    f = (cost - g).amin(-1, keepdim=True).masked_fill(a == 0, 0)
    gap = (plan * centred.cost).sum((-2, -1), keepdim=True) - a.mT @ f - g @ b.mT
    return plan, f - 0.5 * gap - 1e-6, g


def _step(
    problem: Problem, plan: Tensor, f: Tensor, g: Tensor, slack: Tensor, gap: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One predictor-corrector step.

    With X the plan, S the slack and D = X / S, Newton's equations for X∘S = target read dX = target/S − X + D∘(df ⊕ dg),
    and the marginals of dX give a linear system in (df, dg).
    """
    a, b = problem.a.unsqueeze(-1), problem.b.unsqueeze(-2)
    system = _NormalEquations(plan / slack, problem)
    # Predictor: the step towards complementarity zero. `change` is dS/S, and dX/X is −1 − change.
    df, dg = system.solve(a, b)
    change = (df + dg).div(slack).neg_()
    primal = 1 / (1 + change.amax((-2, -1), keepdim=True)).clamp_min(1)
    dual = 1 / change.amin((-2, -1), keepdim=True).neg().clamp_min(1)
    # The gap that this step would leave tells how much centring the real one needs (Mehrotra's cubic rule).
    left = (plan * slack * (1 - primal * (1 + change)) * (1 + dual * change)).sum((-2, -1), keepdim=True)
    arcs = problem.valid.sum((-2, -1), keepdim=True).clamp_min(1)
    centre = (left / gap).clamp(0, 1) ** 3 * gap / arcs
    # Corrector: towards the central path, with the predictor's second-order term −dX∘dS.
    target = (centre / slack).addcmul_(plan, change * (1 + change)).masked_fill_(~problem.valid, 0)
    df, dg = system.solve(a - target.sum(-1, keepdim=True), b - target.sum(-2, keepdim=True))
    change = (df + dg).div(slack).neg_()
    growth = (target / plan).sub_(1).sub_(change).masked_fill_(~problem.valid, 0)  # dX/X
    primal = _DAMPING / growth.amin((-2, -1), keepdim=True).neg().clamp_min(_DAMPING)
    dual = _DAMPING / change.amin((-2, -1), keepdim=True).neg().clamp_min(_DAMPING)
    return growth.mul_(primal).add_(1).mul_(plan), f + dual * df, g + dual * dg


class _NormalEquations:
    """Solves Σ_j D_ij (x_i + y_j) = r_i, Σ_i D_ij (x_i + y_j) = s_j for several right-hand sides.

    Eliminating y leaves the Laplacian of the graph that joins two rows through every column, W = D diag(1/c) Dᵀ. Its
    diagonal is taken as the sum of the off-diagonal entries: subtracting would lose all digits near the optimum.
    """

    def __init__(self, ratio: Tensor, problem: Problem):
        self.ratio = ratio
        self.row_weights = problem.a.unsqueeze(-1)
        column_present = (problem.b > 0).unsqueeze(-2)
        self.column_inverse = torch.where(column_present, 1 / ratio.sum(-2, keepdim=True), 0)
        weights = (ratio * self.column_inverse) @ ratio.mT
        weights.diagonal(dim1=-2, dim2=-1).zero_()
        degree = weights.sum(-1)
        # Absent rows, and a lone one, have degree 0: any positive diagonal will do.
        degree = torch.where(degree > 0, degree * (1 + _RIDGE), 1)
        self.factor, _ = torch.linalg.cholesky_ex(torch.diag_embed(degree) - weights)

    def solve(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, n, 1) and y (B, 1, m) for right-hand sides of the same shapes; both 0 at padding."""
        r = rows - self.ratio @ (columns * self.column_inverse).mT
        # The system is solvable only for sums of zero, which rounding breaks; a light row must not bear a heavy one's.
        r = r - self.row_weights * r.sum(-2, keepdim=True)
        x = torch.linalg.solve_triangular(self.factor, r, upper=False)
        x = torch.linalg.solve_triangular(self.factor.mT, x, upper=True)
        return x, (columns - x.mT @ self.ratio) * self.column_inverse


@contextlib.contextmanager
def _full_precision_products() -> Iterator[None]:
    """No TF32 in matrix products: with its ten bits the steps lose their direction (measured)."""
    precision = torch.get_float32_matmul_precision()
    if precision == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
