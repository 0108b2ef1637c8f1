"""Multi-marginal entropic optimal transport in the log domain."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .costs import full_precision, no_autocast
from .rounding import round_to_marginals
from .values import require_tensors, values_at_hand

EpsilonScale = Literal["mean_cost", "absolute"]
_CHECK_EVERY = 5


class MultiMarginalResult(NamedTuple):
    """Plans over products of M sets.

    Attributes:
        plan: (…, K_1, …, K_M), mass 1, with the given marginals. Detached unless the solve was unrolled.
        value: (…), ⟨cost, plan⟩, differentiable with respect to the cost.
        marginals: how many axes of ``plan`` are marginals (M); the others are batch.
    """

    plan: Tensor
    value: Tensor
    marginals: int

    def pairwise(self, i: int, j: int) -> Tensor:
        """The plan's joint marginal of sets i ≠ j, (…, K_i, K_j): a transport plan between these two."""
        if i == j or not (0 <= i < self.marginals and 0 <= j < self.marginals):
            raise ValueError(f"i and j must be two different marginals below {self.marginals}, got {i} and {j}")
        first = self.plan.dim() - self.marginals
        others = [first + k for k in range(self.marginals) if k not in (i, j)]
        joint = self.plan.sum(others) if others else self.plan
        return joint if i < j else joint.mT


def multi_marginal(
    cost: Tensor,
    marginals: Sequence[Tensor],
    epsilon: float = 0.1,
    *,
    epsilon_scale: EpsilonScale = "mean_cost",
    iterations: int = 1000,
    tolerance: float = 1e-5,
    unroll: bool = False,
) -> MultiMarginalResult:
    """Entropic multi-marginal transport, min ⟨cost, T⟩ + ε KL(T | ⊗ marginals) (Eqs. 7–8 of the DecAlign paper).

    Cyclic Sinkhorn iterations on log-potentials, so that no scale of the cost can underflow the plan, and a rounding
    onto the marginals at the end: mass and marginals are right to rounding however early the iterations stop.

    Args:
        cost: (…, K_1, …, K_M) with M >= 2 marginals, any floating dtype; solved in fp32 (fp64 if given).
        marginals: M nonnegative weights (…, K_m), 0 for absent entries; normalised to sum 1.
        epsilon: entropic strength ε, positive.
        epsilon_scale: ``"mean_cost"`` takes it relative to the mean absolute cost over entries with weight,
            ``"absolute"`` in units of the cost.
        iterations: at most so many rounds over all marginals.
        tolerance: on the CPU, where looking costs nothing, stop when the marginals are off by less than this (L1).
            Elsewhere all iterations are run, so lower ``iterations`` to what the problem needs.
        unroll: differentiate through the iterations, plan included. Otherwise the plan is a constant.

    Returns:
        :class:`MultiMarginalResult`. A problem with an all-zero marginal has plan 0 and value 0.

    Raises:
        TypeError: for what is no tensor.
        ValueError: for shapes that do not fit, and an ``epsilon`` or its scale that have no meaning.
    """
    require_tensors(cost=cost, **{f"marginals[{k}]": marginal for k, marginal in enumerate(marginals)})
    count = len(marginals)
    if count < 2 or cost.dim() < count or not cost.is_floating_point():
        raise ValueError(f"need a floating cost with one axis per marginal and at least 2 marginals, got {count} and "
                         f"{cost.dtype} {tuple(cost.shape)}")  # fmt: skip
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if epsilon_scale not in get_args(EpsilonScale):
        raise ValueError(f"epsilon_scale must be one of {', '.join(get_args(EpsilonScale))}; got {epsilon_scale!r}")
    options = (epsilon, epsilon_scale, iterations, tolerance)
    if torch.compiler.is_compiling() and not unroll:
        plan = _plan_operator(cost.detach(), [marginal.detach() for marginal in marginals], *options)
        with no_autocast(cost.device):
            value = (plan * full_precision(cost).masked_fill(plan == 0, 0)).sum(tuple(range(-count, 0)))
        return MultiMarginalResult(plan, value, count)
    batch, sizes = cost.shape[: cost.dim() - count], cost.shape[cost.dim() - count :]
    with no_autocast(cost.device):
        flat = full_precision(cost).reshape(-1, *sizes) if batch else full_precision(cost).unsqueeze(0)
        weights = [_weights(k, w, (*batch, sizes[k]), flat) for k, w in enumerate(marginals)]
        solvable = torch.stack([w.sum(-1) > 0 for w in weights]).all(0)
        weights = [w * solvable.unsqueeze(-1) / w.sum(-1, keepdim=True).clamp_min(1e-30) for w in weights]
        present = _outer([w > 0 for w in weights])
        flat = flat.masked_fill(~present, 0)
        with torch.set_grad_enabled(unroll and torch.is_grad_enabled()):
            plan = _sinkhorn(flat, weights, present, *options)
            plan = round_to_marginals(plan, weights)
        value = (plan * flat).flatten(1).sum(-1)
    return MultiMarginalResult(plan.reshape(cost.shape), value.reshape(batch), count)


# Hundreds of small steps would take minutes to compile.
# The schema is written out, since PyTorch before 2.7 infers none from a `collections.abc.Sequence`.
@torch.library.custom_op(
    "hf_mmalign::multi_marginal",
    mutates_args=(),
    schema="(Tensor cost, Tensor[] marginals, float epsilon, str epsilon_scale, int iterations, float tolerance) -> Tensor",
)
def _plan_operator(
    cost: Tensor, marginals: Sequence[Tensor], epsilon: float, epsilon_scale: str, iterations: int, tolerance: float
) -> Tensor:
    """The plan as one operator of a compiled graph."""
    options = {"epsilon_scale": epsilon_scale, "iterations": iterations, "tolerance": tolerance}
    return multi_marginal(cost, marginals, epsilon, **options).plan


@_plan_operator.register_fake
def _(cost: Tensor, *_) -> Tensor:
    return full_precision(cost).new_empty(cost.shape)


def _sinkhorn(
    cost: Tensor,
    weights: list[Tensor],
    present: Tensor,
    epsilon: float,
    epsilon_scale: EpsilonScale,
    iterations: int,
    tolerance: float,
) -> Tensor:
    """Plan (B, K_1, …, K_M) from cyclic log-domain scalings of ⊗ marginals · exp(−cost / ε)."""
    axes = list(range(1, cost.dim()))
    strength = epsilon
    if epsilon_scale == "mean_cost":
        mean = cost.abs().sum(axes, keepdim=True) / present.sum(axes, keepdim=True).clamp_min(1)
        # Where every cost is 0 so is the exponent, whatever the divisor.
        strength = epsilon * mean.where(mean > 0, torch.ones_like(mean))
    exponent = -cost / strength
    log_weights = [w.where(w > 0, torch.ones_like(w)).log() for w in weights]
    prior = sum(_place(log_weights[k], k, len(axes)) for k in range(len(axes)))
    exponent = (exponent + prior).masked_fill(~present, -float("inf"))
    log_plan = exponent
    for iteration in range(iterations):
        off = []
        for k, axis in enumerate(axes):
            held = torch.logsumexp(log_plan, [other for other in axes if other != axis])
            # Absent entries hold nothing (−∞) and keep their scaling.
            update = torch.where(weights[k] > 0, log_weights[k] - held, 0)
            log_plan = log_plan + _place(update, k, len(axes))
            if iteration % _CHECK_EVERY == 0:
                off.append((weights[k] * update.detach().neg().expm1()).abs().sum(-1))
        if off and values_at_hand(cost) and not bool((sum(off) > tolerance).any()):
            break
    return log_plan.exp()


def _weights(k: int, weights: Tensor, shape: tuple[int, ...], cost: Tensor) -> Tensor:
    if weights.shape != shape:
        raise ValueError(f"marginal {k} must have the shape {tuple(shape)}, got {tuple(weights.shape)}")
    return weights.detach().to(device=cost.device, dtype=cost.dtype).clamp_min(0).reshape(cost.shape[0], shape[-1])


def _place(vector: Tensor, k: int, count: int) -> Tensor:
    """(B, K_k) shaped to broadcast along the k-th of ``count`` axes."""
    shape = [vector.shape[0]] + [1] * count
    shape[k + 1] = vector.shape[1]
    return vector.reshape(shape)


def _outer(masks: list[Tensor]) -> Tensor:
    present = _place(masks[0], 0, len(masks))
    for k, mask in enumerate(masks[1:], start=1):
        present = present & _place(mask, k, len(masks))
    return present
