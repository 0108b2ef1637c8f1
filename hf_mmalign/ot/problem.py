"""What every solver takes and gives: a batch of transport problems with padding, and its result."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .costs import full_precision
from .values import values_at_hand


class TransportResult(NamedTuple):
    """A batch of solved transport problems.

    Attributes:
        plan: (…, n, m); rows sum to ``a``, columns to ``b``; 0 at padding. Detached unless the solve was unrolled.
        value: (…), ⟨cost, plan⟩, differentiable with respect to the cost.
        lower_bound: (…), a value that no plan can go below, up to the rounding of the cost's dtype, so that
            ``value − lower_bound`` bounds the error; detached. ``None`` unless asked for.
    """

    plan: Tensor
    value: Tensor
    lower_bound: Tensor | None


@dataclass
class Problem:
    """A flat batch of problems: costs without padding's garbage, weights normalised per problem.

    Attributes:
        cost: (B, n, m) fp32 or fp64, 0 wherever ``valid`` is False.
        a: (B, n), sums to 1, or is all zero for an empty problem.
        b: (B, m), likewise; empty exactly where ``a`` is.
        valid: (B, n, m) bool, True where both tokens have weight.
    """

    cost: Tensor
    a: Tensor
    b: Tensor
    valid: Tensor

    @classmethod
    def build(cls, cost: Tensor, a: Tensor | None, b: Tensor | None) -> "Problem":
        """Flattens, checks and normalises what a user passed to :func:`hf_mmalign.ot.solve`."""
        if cost.dim() < 2 or not cost.is_floating_point():
            raise ValueError(f"cost must be a floating tensor (…, n, m), got {cost.dtype} {tuple(cost.shape)}")
        *batch, n, m = cost.shape
        cost = full_precision(cost).reshape(math.prod(batch), n, m)
        a = _weights("a", a, (*batch, n), cost)
        b = _weights("b", b, (*batch, m), cost)
        solvable = ((a.sum(-1) > 0) & (b.sum(-1) > 0)).unsqueeze(-1)
        a, b = _normalise(a * solvable), _normalise(b * solvable)
        valid = (a > 0).unsqueeze(-1) & (b > 0).unsqueeze(-2)
        return cls(cost.masked_fill(~valid, 0), a, b, valid)

    def scaled(self) -> tuple["Problem", Tensor]:
        """The same problems with their largest finite cost between 1 and 2, and the powers of two, (B, 1, 1), between.

        Solvers compare costs with absolute tolerances (POT's simplex does) and square them. The factor is a power of two,
        so that nothing is rounded.
        """
        if not self.cost.numel():
            return self, self.cost.new_ones(self.cost.shape[0], 1, 1)
        largest = self.cost.masked_fill(~self.cost.isfinite(), 0).abs().amax((-2, -1), keepdim=True)
        mantissa, _ = torch.frexp(largest)  # largest = mantissa · 2^k with a mantissa of at least ½ and below 1
        scale = torch.where(largest > 0, largest / (2 * mantissa), 1)
        return Problem(self.cost / scale, self.a, self.b, self.valid), scale

    def detach(self) -> "Problem":
        return Problem(self.cost.detach(), self.a, self.b, self.valid)

    def cpu(self) -> "Problem":
        return Problem(self.cost.cpu(), self.a.cpu(), self.b.cpu(), self.valid.cpu())

    def __getitem__(self, index: Tensor) -> "Problem":
        """The problems of these indices."""
        return Problem(self.cost[index], self.a[index], self.b[index], self.valid[index])

    @property
    def mT(self) -> "Problem":  # noqa: N802, torch's own name for it
        """The same problems with the two sides exchanged."""
        return Problem(self.cost.mT.contiguous(), self.b, self.a, self.valid.mT)

    def centred(self) -> "CentredCost":
        """Costs with the row and column means taken out and scaled to unit spread.

        Every plan's cost changes by the same constant, so the optimal plan does not change, while a solver sees the
        same scale whether tokens fill the sphere or a narrow cone. Padding is 0.
        """
        a, b = self.a.unsqueeze(-1), self.b.unsqueeze(-2)
        row = self.cost @ b.mT
        cost = self.cost - row
        column = a.mT @ cost
        cost = (cost - column).masked_fill_(~self.valid, 0)
        spread = (a.mT @ cost.square() @ b.mT).sqrt()
        # All-equal costs have no spread but rounding errors; those must not be blown up to look like a problem.
        rounding = 10 * torch.finfo(cost.dtype).eps * (a.mT @ row.abs() + column.abs() @ b.mT)
        scale = torch.maximum(spread, rounding).clamp_min(1e-30)
        return CentredCost(cost.div_(scale), row, column, scale)


class CentredCost(NamedTuple):
    """``cost = scale · centred + row + column`` wherever both tokens have weight."""

    cost: Tensor  # (B, n, m)
    row: Tensor  # (B, n, 1)
    column: Tensor  # (B, 1, m)
    scale: Tensor  # (B, 1, 1)


def _weights(name: str, weights: Tensor | None, shape: tuple[int, ...], cost: Tensor) -> Tensor:
    """Weights of any dtype (masks are) as a flat (B, n) batch of the cost's dtype, on its device."""
    if weights is None:
        return cost.new_ones(cost.shape[0], shape[-1])
    weights = weights.detach().to(device=cost.device, dtype=cost.dtype)
    try:
        weights = weights.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} must have (or broadcast to) the shape {shape}, got {tuple(weights.shape)}") from None
    # Reading a value on an accelerator would stall it, so only CPU tensors are checked; elsewhere negatives count as 0.
    if values_at_hand(weights) and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"{name} must hold nonnegative finite weights (0 is padding)")
    return weights.clamp_min(0).reshape(cost.shape[0], shape[-1])


def _normalise(weights: Tensor) -> Tensor:
    """Weights of sum 1. Those far below the dtype's rounding of that 1 become 0: no value could show them."""
    total = weights.sum(-1, keepdim=True)
    weights = weights / torch.where(total > 0, total, 1)
    return weights.masked_fill(weights < 1e-3 * torch.finfo(weights.dtype).eps, 0)
