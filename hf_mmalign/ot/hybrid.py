"""The default solver on CPUs: annealed Sinkhorn, checked by duality, and the simplex for what fails the check.

Tokens that are unrelated or crowd a narrow cone make costs on which some thirty over-relaxed Sinkhorn iterations of
falling strength come within a few tenths of a percent. Copies whose weights do not match up make costs on which
thousands would not, but there the simplex is quick. Which is which shows after four iterations in how far the marginals
are off, and for certain in the gap to the dual bound, which every result has to pass.
"""

import torch
from torch import Tensor

from .certificates import lower_bound
from .problem import CentredCost, Problem
from .rounding import round_to_marginals
from .shortlist import shortlist
from .sinkhorn import Entropic, sinkhorn

# Strengths (in units of the costs' spread) and iterations: of the start, and of the over-relaxed descent from it.
_START = (0.3, 4)
_DESCENT = ((0.1, 8), (0.05, 10), (0.03, 15))
_RELAXATION = 1.7
# Marginals off by more than this (L1) after the start: the descent would not arrive.
_PROMISING = 0.1
# Problems of at most so many arcs go to the simplex at once.
_SMALL = 300


def hybrid(problem: Problem, *, tolerance: float = 3e-3) -> tuple[Tensor, Tensor]:
    """Plans proven to be within ``tolerance`` of the optimal value, relative to it.

    Runs on the CPU (an accelerator's tensors are copied there and waited for).

    Args:
        problem: the batch.
        tolerance: largest certified gap (value − bound) / |value|. Below about 1e-3 the simplex does all the work.

    Returns:
        plan (B, n, m) with exact marginals, and row potentials (B, n), in the cost's dtype and on its device; NaN for a
        problem with a cost that is NaN or −∞, or without a plan that avoids the pairs of cost +∞.
    """
    device, problem = problem.cost.device, problem.detach().cpu()
    _, n, m = problem.cost.shape
    if n * m <= _SMALL or not problem.cost.numel():
        plan, f = shortlist(problem, tolerance=tolerance)
        return plan.to(device), f.to(device)
    centred = problem.centred()
    start = sinkhorn(problem, centred.cost, *_START)
    off = ((problem.a.unsqueeze(-2) @ start.density - 1).abs() * problem.b.unsqueeze(-2)).sum((-2, -1))
    plan, f = torch.zeros_like(problem.cost), torch.zeros_like(problem.a)
    unproven = torch.ones(len(plan), dtype=torch.bool)
    tried = torch.nonzero(off < _PROMISING).squeeze(-1)
    if len(tried) == len(plan):
        plan, f, unproven = _descend(problem, centred, start, tolerance)
    elif len(tried):
        part, its_start = CentredCost(*(x[tried] for x in centred)), Entropic(*(x[tried] for x in start))
        plan[tried], f[tried], unproven[tried] = _descend(problem[tried], part, its_start, tolerance)
    left = torch.nonzero(unproven).squeeze(-1)
    if len(left) == len(plan):
        plan, f = shortlist(problem, tolerance=tolerance)
    elif len(left):
        plan[left], f[left] = shortlist(problem[left], tolerance=tolerance)
    return plan.to(device), f.to(device)


def _descend(
    problem: Problem, centred: CentredCost, start: Entropic, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Plans, row potentials, and which problems (B,) are not proven to be within the tolerance."""
    state = start
    for epsilon, iterations in _DESCENT:
        state = sinkhorn(problem, centred.cost, epsilon, iterations, state, _RELAXATION)
    plan = state.density.mul_(problem.a.unsqueeze(-1)).mul_(problem.b.unsqueeze(-2))
    plan = round_to_marginals(plan, [problem.a, problem.b])
    f = (centred.scale * state.f + centred.row).squeeze(-1)
    value = (plan * problem.cost).sum((-2, -1))
    proven = value - lower_bound(problem, f) <= tolerance * value.abs()
    return plan, f, ~proven
