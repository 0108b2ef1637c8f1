"""Lower bounds by duality: how wrong a plan can be, without an exact solve."""

from torch import Tensor

from .problem import Problem


def lower_bound(problem: Problem, f: Tensor) -> Tensor:
    """The dual value of any row potentials: no plan costs less.

    The column potentials are the largest that keep ``f_i + g_j <= cost_ij`` (the c-transform), and the rows' are then
    raised likewise, which only tightens the bound. By weak duality ``⟨a, f⟩ + ⟨b, g⟩ <= min ⟨cost, plan⟩``.

    Args:
        problem: the batch.
        f: (B, n) row potentials, ignored at padding.

    Returns:
        (B,), in the cost's dtype; 0 for an empty problem, NaN where a cost or potential is.
    """
    infinity, cost = float("inf"), problem.cost.detach()
    if not cost.numel():
        return cost.new_zeros(cost.shape[0])
    # Potentials are free up to a constant per problem, in which, where it is large, a sum's digits are lost.
    f = f - (f.masked_fill(problem.a == 0, 0) * problem.a).sum(-1, keepdim=True)
    reduced = (cost - f.unsqueeze(-1)).masked_fill_(~problem.valid, infinity)
    g = reduced.amin(-2).masked_fill(problem.b == 0, 0)
    reduced = (cost - g.unsqueeze(-2)).masked_fill_(~problem.valid, infinity)
    f = reduced.amin(-1).masked_fill(problem.a == 0, 0)
    return (f * problem.a).sum(-1) + (g * problem.b).sum(-1)
