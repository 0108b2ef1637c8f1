"""From an almost feasible plan to one with exact marginals."""

from collections.abc import Sequence

import torch
from torch import Tensor


def round_to_marginals(plan: Tensor, marginals: Sequence[Tensor]) -> Tensor:
    """A plan with exactly the given marginals, at most twice as far from ``plan`` (L1) as its marginals were off.

    Algorithm 2 of Altschuler, Weed and Rigollet (2017), in its form for any number of marginals (Lin et al., 2022):
    shrink every slice that holds too much mass, then spread what is missing as a product of the deficits.

    Args:
        plan: (B, K_1, …, K_M), nonnegative.
        marginals: M tensors (B, K_m), all of the same mass per problem.
    """
    axes = range(1, plan.dim())
    for axis, marginal in zip(axes, marginals, strict=True):
        held = _sum_to(plan, axis)
        plan = plan * _along(axis, (marginal / torch.where(held > 0, held, 1)).clamp_max(1), plan)
    deficits = [(marginal - _sum_to(plan, axis)).clamp_min(0) for axis, marginal in zip(axes, marginals, strict=True)]
    missing = deficits[0].sum(-1, keepdim=True)
    # Deficits agree in mass up to rounding; each but the first is used as a distribution.
    spread = _along(1, deficits[0], plan)
    for axis, deficit in zip(axes[1:], deficits[1:], strict=True):
        total = deficit.sum(-1, keepdim=True)
        spread = spread * _along(axis, deficit / torch.where(total > 0, total, 1), plan)
    return torch.where(_along(1, missing > 0, plan), plan + spread, plan)


def _sum_to(plan: Tensor, axis: int) -> Tensor:
    others = [k for k in range(1, plan.dim()) if k != axis]
    return plan.sum(others) if others else plan


def _along(axis: int, vector: Tensor, plan: Tensor) -> Tensor:
    shape = [1] * plan.dim()
    shape[0], shape[axis] = vector.shape
    return vector.reshape(shape)
