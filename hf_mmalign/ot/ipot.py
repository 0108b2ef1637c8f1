"""IPOT, the inexact proximal point method, as UNITER and ViLT use it."""

import torch
from torch import Tensor

from .problem import Problem


def ipot(
    problem: Problem, *, step: float = 0.5, iterations: int = 50, inner_iterations: int = 1, potentials: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Proximal point iterations in the kernel domain (Xie et al., 2018, Algorithm 1), faithful to the public code.

    A plan after few iterations is biased towards the product of the marginals, its column sums are not exact, and a
    ``step`` below a hundredth of the largest cost underflows; it is here because published results used it.

    Args:
        problem: the batch.
        step: strength of the proximal term (beta in the public code), in units of the cost.
        iterations: proximal steps.
        inner_iterations: Sinkhorn iterations per proximal step.
        potentials: also return row potentials, for a certificate.

    Returns:
        plan (B, n, m), and row potentials (B, n) where asked for. Differentiable with respect to the cost (memory grows
        with the iterations) unless gradients are off.
    """
    a, b = problem.a.unsqueeze(-1), problem.b.unsqueeze(-2)
    kernel = (-problem.cost / step).exp().masked_fill(~problem.valid, 0)
    plan = problem.valid.to(kernel.dtype)
    left = (a > 0).to(kernel.dtype) / (a > 0).sum(-2, keepdim=True).clamp_min(1)
    log_scaling = torch.zeros_like(a)
    for _ in range(iterations):
        scaled = kernel * plan
        for _ in range(inner_iterations):
            right = _divide(b, left.mT @ scaled)
            left = _divide(a, scaled @ right.mT)
        plan = left * scaled * right
        if potentials:
            log_scaling += left.detach().masked_fill(a == 0, 1).log()
    # The plan is kernel**iterations scaled from both sides, that is, an entropic plan of strength step / iterations.
    return plan, (log_scaling * (step / iterations)).squeeze(-1) if potentials else None


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient that is 0 at padding, where a row or column of the kernel is all zero; in backward too."""
    return numerator / denominator.masked_fill(numerator == 0, 1)
