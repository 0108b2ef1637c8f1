"""A simplex that only looks at promising arcs, and proof that the others do not matter.

An optimal plan uses at most n + m − 1 of the n·m arcs, and a few Sinkhorn iterations tell rather well which ones. So:

1. rank all arcs by a rough entropic plan and shortlist a few per token (`_shortlist`);
2. solve exactly on the shortlist, several problems to a call, over threads (`_solve_on_shortlist`); where it carries no
   feasible flow, widen it by a staircase of arcs that does, whatever the weights are (`_add_staircase`);
3. price all arcs with the dual solution: this gives a lower bound on the true optimum. Where value and bound differ
   by more than the tolerance, add the arcs that violate the dual constraints and go back to 2 (column generation).

Each round of 3 can only improve the value, and a problem without violated arcs is solved exactly. One that is still
open after `_ROUNDS` goes to the dense simplex, so the tolerance holds by construction, not by luck.
"""

import numpy as np
import torch
from torch import Tensor

from .exact import solve_into
from .problem import Problem
from .simplex import ArcSolution, over_threads, solve_on_arcs
from .sinkhorn import sinkhorn

# Strength (in units of the costs' spread) and iterations of the entropic ranking. A smaller one would serve unrelated
# tokens better, but of a copy it would rank all arcs but one last, and its surplus has to go somewhere.
_EPSILON, _ITERATIONS = 0.6, 5
# Arcs shortlisted per token: fewer make each round faster and more rounds needed.
_ARCS_PER_TOKEN = 6
# Up to so many times the shortlist's size, ranking costs more than simply passing every arc.
_WORTH_RANKING = 1.5
_SAMPLE = 1024  # arcs per problem that the shortlist's threshold is estimated from
_ROUNDS = 6
_TOKENS_PER_CALL = 400  # problems are joined up to this size, to spare calls


def shortlist(problem: Problem, *, tolerance: float = 3e-3) -> tuple[Tensor, Tensor]:
    """Plans within ``tolerance`` of the optimal value, relative to it; most are exactly optimal.

    Runs on the CPU (an accelerator's tensors are copied there and waited for).

    Args:
        problem: the batch.
        tolerance: largest certified gap (value − bound) / |value|. Gaps below the rounding of the largest cost in the
            cost's dtype do not count.

    Returns:
        plan (B, n, m) with exact marginals, and row potentials (B, n), in the cost's dtype and on its device; NaN for a
        problem with a cost that is NaN or −∞, or without a plan that avoids the pairs of cost +∞.
    """
    device, problem = problem.cost.device, problem.detach().cpu()
    plan, f = _ColumnGeneration(problem).run(tolerance) if problem.cost.numel() else (problem.cost, problem.a)
    return plan.to(device), f.to(device)


class _ColumnGeneration:
    """The state of one call; arrays are numpy views of the batch, indices count problems, rows and columns."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.cost = problem.cost.numpy()
        # Weights normalised in fp32 sum to 1 up to 1e-7; the simplex wants equal sums in float64.
        self.a, self.b = (_exactly_normalised(w.numpy().astype(np.float64)) for w in (problem.a, problem.b))
        self.row_rank, self.column_rank = (np.cumsum(w > 0, axis=1) - 1 for w in (self.a, self.b))
        self.tokens = np.count_nonzero(self.a, axis=1) + np.count_nonzero(self.b, axis=1)
        self.plan = np.zeros_like(self.cost)
        self.f, self.g = np.zeros_like(self.a), np.zeros_like(self.b)
        self.value = np.zeros(len(self.cost))
        self.magnitude = problem.cost.abs().amax((1, 2)).numpy()

    def run(self, tolerance: float) -> tuple[Tensor, Tensor]:
        finite = np.isfinite(self.magnitude)
        open_problems = np.flatnonzero(finite & (self.tokens > 0))
        shortlisted, complete = _shortlist(self.problem)
        for _ in range(_ROUNDS):
            if not open_problems.size:
                break
            infeasible = self._solve_on_shortlist(open_problems, shortlisted)
            _add_staircase(self.problem, infeasible, shortlisted)
            priced = np.setdiff1d(open_problems, infeasible)
            priced = priced[~complete[priced]]
            unproven, violated = self._price(priced, tolerance)
            shortlisted[priced[unproven]] |= violated[unproven]
            open_problems = np.union1d(infeasible, priced[unproven])
        self._solve_densely(np.union1d(open_problems, np.flatnonzero(~finite)))
        return torch.from_numpy(self.plan), torch.from_numpy(self.f).to(self.problem.cost.dtype)

    def _solve_on_shortlist(self, problems: np.ndarray, shortlisted: np.ndarray) -> np.ndarray:
        """Optimal flows on the shortlisted arcs, into ``plan``, ``f``, ``g`` and ``value``.

        Returns the problems whose group of problems has no feasible flow on its arcs.
        """
        _, n, m = self.cost.shape
        arcs = np.flatnonzero(shortlisted if len(problems) == len(self.cost) else shortlisted[problems])
        which, place = np.divmod(arcs, n * m)
        row, column = np.divmod(place, m)
        # A group of problems is one problem for the simplex, its tokens numbered through; no arc links its parts.
        groups = np.array_split(np.arange(len(problems)), self._number_of_groups(problems))
        group_start = np.repeat([group[0] for group in groups], [len(group) for group in groups])
        number = problems[which]
        source = self.row_rank[number, row] + _tokens_before(self.a[problems], group_start)[which]
        target = self.column_rank[number, column] + _tokens_before(self.b[problems], group_start)[which]
        arc_cost = self.cost.reshape(-1)[number * (n * m) + place].astype(np.float64)
        first_arc = np.searchsorted(which, [group[0] for group in groups] + [len(problems)])
        solutions: list[ArcSolution | None] = [None] * len(groups)

        def solve_group(k: int) -> None:
            members, arcs = problems[groups[k]], slice(first_arc[k], first_arc[k + 1])
            a, b = self.a[members], self.b[members]
            solutions[k] = solve_on_arcs(a[a > 0], b[b > 0], source[arcs], target[arcs], arc_cost[arcs])

        over_threads(solve_group, len(groups))
        self.plan[problems] = 0
        infeasible = [problems[:0]]
        for group, solution in zip(groups, solutions, strict=True):
            if solution is None:
                infeasible.append(problems[group])
            else:
                self._store(problems[group], solution)
        return np.concatenate(infeasible)

    def _number_of_groups(self, problems: np.ndarray) -> int:
        by_size = -(-int(self.tokens[problems].sum()) // _TOKENS_PER_CALL)
        return min(len(problems), max(by_size, 4 * torch.get_num_threads()))

    def _store(self, members: np.ndarray, solution: ArcSolution) -> None:
        of_row, row = np.nonzero(self.a[members])
        of_column, column = np.nonzero(self.b[members])
        k, i, j = members[of_row[solution.source]], row[solution.source], column[solution.target]
        self.plan[k, i, j] = solution.flow
        self.value[members] = np.bincount(
            of_row[solution.source], self.cost[k, i, j] * solution.flow, minlength=len(members)
        )
        # Potentials are free up to a constant per problem, which in a group can be huge; fp32 needs it gone.
        f_mean = np.bincount(of_row, solution.f) / np.bincount(of_row)
        self.f[members[of_row], row] = solution.f - f_mean[of_row]
        self.g[members[of_column], column] = solution.g + f_mean[of_column]

    def _price(self, problems: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        """Which problems' gaps exceed the tolerance (k,), and the arcs that violate the dual constraints (k, n, m)."""
        if not problems.size:
            return np.zeros(0, dtype=bool), np.zeros((0, *self.cost.shape[1:]), dtype=bool)
        f = torch.from_numpy(np.where(self.a > 0, self.f, -np.inf)[problems]).to(self.problem.cost.dtype)
        g = torch.from_numpy(np.where(self.b > 0, self.g, -np.inf)[problems]).to(self.problem.cost.dtype)
        cost = self.problem.cost if len(problems) == len(self.cost) else self.problem.cost[torch.from_numpy(problems)]
        reduced = cost - f.unsqueeze(-1)  # infinite in padded rows
        bound = (self.a[problems] * self.f[problems]).sum(1) + (self.b[problems] * reduced.amin(1).numpy()).sum(1)
        rounding = 8 * torch.finfo(cost.dtype).eps * self.magnitude[problems]
        value = self.value[problems]
        unproven = value - bound > tolerance * np.abs(value) + rounding
        if not unproven.any():
            return unproven, np.zeros(cost.shape, dtype=bool)
        g -= torch.from_numpy(rounding).to(g).unsqueeze(-1)
        violated = (reduced < g.unsqueeze(-2)).numpy()
        return unproven & violated.any((1, 2)), violated

    def _solve_densely(self, problems: np.ndarray) -> None:
        plans = np.zeros((len(problems), *self.cost.shape[1:]))

        def solve_one(k: int) -> None:
            i = problems[k]
            solve_into(plans[k], self.f[i], self.cost[i].astype(np.float64), self.a[i], self.b[i])

        over_threads(solve_one, len(problems))
        self.plan[problems] = plans


def _shortlist(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Arcs worth looking at (B, n, m), and for which problems these are all arcs (B,)."""
    valid = problem.valid.numpy()
    rows, columns = np.count_nonzero(problem.a, axis=1), np.count_nonzero(problem.b, axis=1)
    arcs, wanted = rows * columns, _ARCS_PER_TOKEN * (rows + columns)
    complete = arcs <= _WORTH_RANKING * wanted
    if complete.all():
        return valid, complete
    rank = sinkhorn(problem, problem.centred().cost, _EPSILON, _ITERATIONS).density.numpy()
    # The threshold that leaves `wanted` arcs, estimated from evenly spread positions among a problem's valid arcs. A
    # multiple of the golden ratio, unlike a stride, does not fall into step with the rows.
    valid_ranks = rank[valid]
    spread = (np.arange(1, _SAMPLE + 1) * 0.6180339887498949) % 1
    first = np.concatenate([[0], np.cumsum(arcs)])[:-1]
    positions = first[:, None] + (spread * arcs[:, None]).astype(np.int64)
    sample = np.sort(valid_ranks[np.minimum(positions, len(valid_ranks) - 1)], axis=1)
    place = (_SAMPLE * (1 - wanted / np.maximum(arcs, 1))).astype(np.int64).clip(0, _SAMPLE - 1)
    threshold = np.where(complete, 0, sample[np.arange(len(sample)), place])
    return (rank >= threshold[:, None, None]) & valid, complete


def _add_staircase(problem: Problem, numbers: np.ndarray, shortlisted: np.ndarray) -> None:
    """Adds the north-west corner rule's arcs to some problems' shortlists, on which a flow exists for any weights."""
    if not numbers.size:
        return
    number = torch.from_numpy(numbers)
    a, b = problem.a[number].double(), problem.b[number].double()
    a_end, b_end = (a / a.sum(1, keepdim=True)).cumsum(1), (b / b.sum(1, keepdim=True)).cumsum(1)
    ends = torch.cat([a_end, b_end], dim=1).sort(1).values
    middles = torch.cat([ends[:, :1] / 2, (ends[:, 1:] + ends[:, :-1]) / 2], dim=1)
    # Where a row and a column end together the two sides round apart, which keeps the staircase connected.
    row = torch.searchsorted(a_end, middles).clamp_max(a.shape[1] - 1)
    column = torch.searchsorted(b_end, middles, right=True).clamp_max(b.shape[1] - 1)
    number = number.unsqueeze(-1).expand_as(row)
    shortlisted[number.numpy(), row.numpy(), column.numpy()] |= problem.valid[number, row, column].numpy()


def _tokens_before(weights: np.ndarray, group_start: np.ndarray) -> np.ndarray:
    """Number of tokens that the earlier problems of a problem's group have."""
    before = np.cumsum(np.count_nonzero(weights, axis=1))
    before = np.concatenate([[0], before[:-1]])
    return before - before[group_start]


def _exactly_normalised(weights: np.ndarray) -> np.ndarray:
    total = weights.sum(1, keepdims=True)
    return weights / np.where(total > 0, total, 1)
