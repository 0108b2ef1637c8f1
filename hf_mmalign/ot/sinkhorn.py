"""Sinkhorn iterations at one entropic strength: a building block of the default solvers, not a solver."""

from typing import NamedTuple

import torch
from torch import Tensor

from .problem import Problem

# exp(-60) is 1e-26: small enough to mean nothing, large enough to stay away from denormal numbers, which make a CPU's
# arithmetic tens of times slower (why IPOT is slow on well-aligned tokens).
_LARGEST_EXPONENT = 60.0


class Entropic(NamedTuple):
    """An entropic plan relative to the product of the marginals, and its potentials, for centred costs."""

    density: Tensor  # (B, n, m): the plan is a · density · b; its rows are right, its columns nearly; 0 at padding
    f: Tensor  # (B, n, 1)
    g: Tensor  # (B, 1, m)


def sinkhorn(
    problem: Problem,
    cost: Tensor,
    epsilon: float,
    iterations: int,
    start: Entropic | None = None,
    relaxation: float = 1.0,
) -> Entropic:
    """``iterations`` Sinkhorn iterations of strength ``epsilon``, from the potentials of ``start``.

    Works on scalings of the kernel at the starting potentials, so that small strengths are safe from underflow if
    approached in steps. ``relaxation`` between 1 and 2 over-relaxes all but the last update (Thibault et al., 2021),
    which speeds up convergence and can, rarely, blow a problem up to infinities or NaN.

    Args:
        problem: the batch, for its weights and padding.
        cost: (B, n, m) centred costs; 0 at padding.
    """
    a, b = problem.a.unsqueeze(-2), problem.b.unsqueeze(-2)
    exponent = -cost if start is None else (start.f + start.g).sub_(cost)
    kernel = exponent.div_(epsilon).clamp_(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).exp_()
    # A row vector times a matrix is three times faster than a matrix times a column, hence the transposed copy.
    transposed = kernel.mT.contiguous()
    left, right = torch.ones_like(a), torch.ones_like(b)
    for k in range(iterations):
        right = _rescale(right, (a * left) @ kernel, relaxation)
        left = _rescale(left, (b * right) @ transposed, relaxation if k < iterations - 1 else 1.0)
    density = kernel.mul_(left.mT).mul_(right).masked_fill_(~problem.valid, 0)
    f, g = epsilon * left.mT.log(), epsilon * right.log()
    return Entropic(density, f, g) if start is None else Entropic(density, f.add_(start.f), g.add_(start.g))


def _rescale(scaling: Tensor, held: Tensor, relaxation: float) -> Tensor:
    """``scaling · (held · scaling)^−relaxation``; with relaxation 1 the scaling that makes this marginal right."""
    if relaxation == 1:
        return held.reciprocal_()
    return held.mul_(scaling).log_().mul_(-relaxation).exp_().mul_(scaling)
