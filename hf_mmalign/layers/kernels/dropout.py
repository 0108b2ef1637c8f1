"""Dropout whose random numbers are cheap on a CPU, alone and joined with what a transformer computes before or after it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .when import by_hand

# 0 has no logarithm.
_SMALLEST_UNIFORM = 2.0**-32


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each value with probability `p`, independently, and scale the others by 1 / (1 − p).

    On a CPU, PyTorch draws a random number and writes a mask entry for every value, which is the most expensive part of
    training a small transformer there; here the cost is that of the dropped values only (see :func:`dropped_indices`).
    Elsewhere (see `when.py`) this is [`torch.nn.functional.dropout`].

    Args:
        x (`torch.Tensor`): Any shape and float dtype.
        p (`float`): Probability in [0, 1).
        training (`bool`): Without it, `x` comes back unchanged.
    """
    if not training or p == 0:
        return x
    if not by_hand(x):
        return F.dropout(x, p)
    return _Dropout.apply(x, dropped_indices(x.numel(), p), 1 / (1 - p))


def relu_dropout_(x: Tensor, p: float, training: bool) -> Tensor:
    """`dropout(relu(x), p, training)`, written into `x`: one pass backward serves both.

    Args:
        x (`torch.Tensor`): Any shape and float dtype; the result of an operation whose backward does not need it, and no
            view, which autograd would have to copy.
        p (`float`), training (`bool`): As of :func:`dropout`.
    """
    if not training or p == 0 or not by_hand(x) or not x.is_contiguous():
        return dropout(x.relu_(), p, training)
    return _ReluDropout.apply(x, dropped_indices(x.numel(), p), 1 / (1 - p))


def add_dropout_(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """`residual + dropout(x, p, training)`, written into `x`.

    Args:
        residual (`torch.Tensor`): Of the shape and dtype of `x`.
        x (`torch.Tensor`), p (`float`), training (`bool`): As of :func:`relu_dropout_`.
    """
    if not training or p == 0 or not by_hand(residual, x) or not x.is_contiguous():
        return residual + dropout(x, p, training)
    return _AddDropout.apply(residual, x, dropped_indices(x.numel(), p), 1 / (1 - p))


def dropped_indices(count: int, p: float) -> Tensor:
    """Which of `count` values to drop: each with probability `p`, independent of the others. `(n,)` int64, ascending.

    The gaps between successes of independent trials are geometric, so that only as many random numbers are drawn as
    values dropped; and writing in ascending order is several times as fast as in any other. They come from PyTorch's
    default generator: `torch.manual_seed` and a restored generator state reproduce them.
    """
    if not 0 <= p < 1:
        raise ValueError(f"A dropout probability lies in [0, 1), not {p}.")
    if p == 0 or count == 0:
        return torch.empty(0, dtype=torch.int64)
    found, start = [], 0
    while True:  # one round but for one time in 10^14
        left = (count - start) * p
        # Integers of 31 bits: PyTorch takes twice as long to draw floats.
        uniform = torch.empty(int(left + 8 * math.sqrt(left)) + 16, dtype=torch.int32).random_() * 2.0**-31
        # P(gap > g) = (1 − p)^g for 1 + ⌊log u / log(1 − p)⌋ with u uniform.
        gaps = torch.add(1, uniform.clamp_(min=_SMALLEST_UNIFORM).log_(), alpha=1 / math.log1p(-p)).long()
        indices = gaps.cumsum_(0).add_(start - 1)
        inside = int(torch.searchsorted(indices, count))
        if inside < len(indices):
            found.append(indices[:inside])
            return torch.cat(found) if len(found) > 1 else found[0]
        found.append(indices)
        start = int(indices[-1]) + 1


def zero_(x: Tensor, dropped: Tensor) -> Tensor:
    """Zero a contiguous tensor in place at indices of its flat form, as :func:`dropped_indices` gives them."""
    x.view(-1).index_fill_(0, dropped, 0)
    return x


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dropped, scale):
        ctx.save_for_backward(dropped)
        ctx.scale = scale
        return zero_(torch.mul(x, scale, out=x.new_empty(x.shape)), dropped)

    @staticmethod
    def backward(ctx, gradient):
        return _Dropout.apply(gradient, *ctx.saved_tensors, ctx.scale), None, None


class _ReluDropout(torch.autograd.Function):
    """What the ReLU zeroes and what is dropped have the same gradient, none, so that the result tells all of it."""

    @staticmethod
    def forward(ctx, x, dropped, scale):
        ctx.mark_dirty(x)
        ctx.scale = scale
        zero_(x.relu_().mul_(scale), dropped)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (result,) = ctx.saved_tensors
        # Of ELU with α = 0, which is a scaled ReLU: one pass where ReLU's own and a product are two.
        return torch.ops.aten.elu_backward(gradient, 0, ctx.scale, 1, True, result), None, None


class _AddDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, x, dropped, scale):
        ctx.mark_dirty(x)
        ctx.save_for_backward(dropped)
        ctx.scale = scale
        return torch.add(residual, zero_(x, dropped), alpha=scale, out=x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (dropped,) = ctx.saved_tensors
        scaled = torch.mul(gradient, ctx.scale, out=gradient.new_empty(gradient.shape))
        return gradient, zero_(scaled, dropped), None, None
