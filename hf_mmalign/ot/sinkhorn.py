"""A few Sinkhorn iterations: not a solver, the rough start that both default solvers build on."""

from typing import NamedTuple

from torch import Tensor

from .problem import CentredCost, Problem

# exp(-60) is 1e-26: small enough to mean nothing, large enough to stay away from denormal numbers, which make a CPU's
# arithmetic tens of times slower (why IPOT is slow on well-aligned tokens).
_SMALLEST_EXPONENT = -60.0
# Only an empty problem sums to less; its scalings must stay finite.
_SMALLEST_SUM = 1e-30


class EntropicStart(NamedTuple):
    """Entropic plan relative to the product of marginals, and its dual potentials for the centred cost."""

    density: Tensor  # (B, n, m): the plan is a · density · b; 0 at padding
    f: Tensor  # (B, n, 1)
    g: Tensor  # (B, 1, m)


def entropic_start(problem: Problem, centred: CentredCost, epsilon: float, iterations: int) -> EntropicStart:
    """``iterations`` Sinkhorn iterations at strength ``epsilon``, in units of the centred cost's spread."""
    a, b = problem.a.unsqueeze(-1), problem.b.unsqueeze(-2)
    kernel = (centred.cost / -epsilon).clamp_(_SMALLEST_EXPONENT, -_SMALLEST_EXPONENT).exp_()
    # Scalings relative to the marginals: left = exp(f / epsilon), and padding drops out of every product.
    left = (a > 0).to(a.dtype)
    for _ in range(iterations):
        right = 1 / ((a * left).mT @ kernel).clamp_min(_SMALLEST_SUM)
        left = 1 / (kernel @ (right * b).mT).clamp_min(_SMALLEST_SUM)
    density = kernel.mul_(left).mul_(right).masked_fill_(~problem.valid, 0)
    return EntropicStart(density, epsilon * left.log(), epsilon * right.log())
