"""The default solver on accelerators: a batched primal-dual interior point method.

Entropic solvers need ever more iterations as the strength falls; an interior point method (Mehrotra, 1992) needs about
ten for any costs, each a handful of batched kernels and one batched Cholesky factorisation of a graph Laplacian with
one row per token of the smaller side. Nothing inside the loop waits for the device, and the number of iterations is
fixed beforehand. The best iterate is kept per problem; the dual is always feasible, so that its error is known.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from .problem import Problem
from .rounding import round_to_marginals
from .sinkhorn import sinkhorn
from .values import values_at_hand

# Strength (in units of the costs' spread) and iterations of the entropic plan to start from, and how much of the
# product plan to mix in: the start must lie well inside the polytope.
_EPSILON, _ITERATIONS, _MIX = 0.5, 3, 0.1
# How far towards the boundary a step may go, and how much of the gap the centring may keep.
_DAMPING, _MAX_CENTRING = 0.9, 0.2
# Share of the tolerance at which a problem counts as done; rounding to the marginals needs some too.
_MARGIN = 0.1
# What moving a unit of mass to repair the marginals may cost, in units of the costs' spread.
_PENALTY = 4.0
# Added to the Laplacian's diagonal, relative to it and in units of the dtype's rounding: potentials are free up to a
# constant, which makes it singular.
_RIDGE = 8.0
# Stands for infinity in padding, where products with zero must remain zero.
_HUGE = 1e30


def interior_point(problem: Problem, *, tolerance: float = 3e-3, iterations: int = 14) -> tuple[Tensor, Tensor]:
    """Plans whose value is within about ``tolerance`` of the optimum, relative to it.

    Args:
        problem: the batch; solved on its device, in the cost's dtype.
        tolerance: gap (value − bound) / |value| at which a problem counts as done. On the CPU, where looking costs
            nothing, the loop ends when all are; elsewhere it has no effect.
        iterations: at most so many. 14 suffice for 0.1 % at 512×512 tokens, 10 at 40×145.

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
    state = best = _start(problem, centred)
    step = _Step(problem)
    error = torch.full_like(constant, float("inf"))
    with _full_precision_products():
        for left in reversed(range(iterations + 1)):
            slack = cost - state[1] - state[2]
            gap = (state[0] * slack).sum((-2, -1), keepdim=True)
            new_error = torch.add(gap, _infeasibility(state[0], a, b), alpha=_PENALTY)
            # Near the limits of fp32 a step may do harm, or be NaN, from which a problem does not come back.
            better = new_error < error
            best = tuple(torch.where(better, new, old) for new, old in zip(state, best, strict=True))
            error = torch.where(better, new_error, error)
            if not left:
                break
            if values_at_hand(cost):
                value = (best[0] * centred.cost).sum((-2, -1), keepdim=True) + constant
                if bool(((error <= _MARGIN * tolerance * value.abs() + rounding) | ~constant.isfinite()).all()):
                    break
            state = step(*state, slack, gap)
    plan, f, _ = best
    plan = round_to_marginals(plan, [problem.a, problem.b]).masked_fill(~constant.isfinite(), float("nan"))
    return plan, (centred.scale * f + centred.row).squeeze(-1).masked_fill(problem.a == 0, 0)


def _infeasibility(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """L1 error of the marginals, (B, 1, 1)."""
    rows, columns = plan.sum(-1, keepdim=True), plan.sum(-2, keepdim=True)
    return torch.linalg.vector_norm(a - rows, 1, dim=(-2, -1), keepdim=True) + torch.linalg.vector_norm(
        b - columns, 1, dim=(-2, -1), keepdim=True
    )


def _start(problem: Problem, centred) -> tuple[Tensor, Tensor, Tensor]:
    """A plan inside the polytope and potentials that leave every arc some slack: (B, n, m), (B, n, 1), (B, 1, m)."""
    a, b = problem.a.unsqueeze(-1), problem.b.unsqueeze(-2)
    start = sinkhorn(problem, centred.cost, _EPSILON, _ITERATIONS)
    plan = round_to_marginals(a * start.density * b, [problem.a, problem.b])
    plan = (1 - _MIX) * plan + _MIX * a * b
    cost = centred.cost.masked_fill(~problem.valid, _HUGE)
    g = (cost - start.f).amin(-2, keepdim=True).masked_fill(b == 0, 0)
    f = (cost - g).amin(-1, keepdim=True).masked_fill(a == 0, 0)
    gap = (plan * centred.cost).sum((-2, -1), keepdim=True) - a.mT @ f - g @ b.mT
    return plan, f - 0.5 * gap - 1e-6, g


class _Step:
    """One predictor-corrector step, written for few kernels: they are small, and launching them is what costs.

    With X the plan, S the slack and D = X / S, Newton's equations for X∘S = target·S read dX = target − X + D∘(x ⊕ y),
    where x, y change f, g; the marginals of dX give a linear system in (x, y), see :meth:`_solve`.
    """

    def __init__(self, problem: Problem):
        self.a, self.b = problem.a.unsqueeze(-1), problem.b.unsqueeze(-2)
        self.padding = ~problem.valid
        self.arcs = problem.valid.sum((-2, -1), keepdim=True).clamp_min(1)
        # Keep padding's equations solvable (their solution is 0), and the single one of a lone row.
        self.no_row = (problem.a == 0).to(problem.a.dtype) + torch.finfo(problem.a.dtype).tiny
        self.no_column = (self.b == 0).to(problem.a.dtype)

    def __call__(self, plan: Tensor, f: Tensor, g: Tensor, slack: Tensor, gap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        system = self._factorise(plan / slack)
        # Predictor, towards complementarity zero: dS/S = −change and dX/X = change − 1.
        x, y = self._solve(*system, self.a, self.b)
        change = (x + y) / slack
        primal = (1 - change.amin((-2, -1), keepdim=True)).clamp_min(1).reciprocal()
        dual = change.amax((-2, -1), keepdim=True).clamp_min(1).reciprocal()
        # The further the predictor gets, the less centring the step needs (after Mehrotra's cubic rule).
        centre = ((1 - torch.minimum(primal, dual)) ** 3).clamp_max(_MAX_CENTRING) * gap / self.arcs
        # Corrector, towards the central path: the target holds the predictor's second-order term −dX∘dS / S.
        target = torch.addcmul(centre / slack, plan, change * (change - 1))
        x, y = self._solve(*system, self.a - target.sum(-1, keepdim=True), self.b - target.sum(-2, keepdim=True))
        change = (x + y) / slack
        growth = (target / plan).add_(change).masked_fill_(self.padding, 1)  # 1 + dX/X
        primal = _DAMPING / (1 - growth.amin((-2, -1), keepdim=True)).clamp_min(_DAMPING)
        dual = _DAMPING / change.amax((-2, -1), keepdim=True).clamp_min(_DAMPING)
        return torch.lerp(plan, growth.mul_(plan), primal), torch.addcmul(f, dual, x), torch.addcmul(g, dual, y)

    def _factorise(self, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cholesky factor of what is left of the equations with y eliminated, for :meth:`_solve`.

        It is the Laplacian of the graph that joins two rows through every column, W = D diag(1/c) Dᵀ. Its diagonal is
        taken as the sum of the off-diagonal entries: subtracting would lose all digits near the optimum.
        """
        inverse = (ratio.sum(-2, keepdim=True) + self.no_column).reciprocal()
        weights = (ratio * inverse) @ ratio.mT
        weights.diagonal(dim1=-2, dim2=-1).zero_()
        degree = torch.add(self.no_row, weights.sum(-1), alpha=1 + _RIDGE * torch.finfo(ratio.dtype).eps)
        factor, _ = torch.linalg.cholesky_ex(torch.diag_embed(degree) - weights)
        return ratio, inverse, factor

    def _solve(
        self, ratio: Tensor, inverse: Tensor, factor: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (B, n, 1), y (B, 1, m) with Σ_j D_ij (x_i + y_j) = rows_i and Σ_i D_ij (x_i + y_j) = columns_j."""
        r = torch.baddbmm(rows, ratio, (columns * inverse).mT, alpha=-1)
        # Solvable only for sums of zero, which rounding breaks; a light row must not bear what a heavy one lacks.
        r = torch.addcmul(r, self.a, r.sum(-2, keepdim=True), value=-1)
        x = torch.linalg.solve_triangular(factor, r, upper=False)
        x = torch.linalg.solve_triangular(factor.mT, x, upper=True)
        return x, torch.baddbmm(columns, x.mT, ratio, alpha=-1) * inverse


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
