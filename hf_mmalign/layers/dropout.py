"""Dropout whose random numbers are cheap on a CPU, alone and joined with what a transformer computes before or after it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each value with probability `p`, independently, and scale the others by 1 / (1 − p).

    On a CPU, PyTorch draws a random number and writes a mask entry for every value, which is the most expensive part of
    training a small transformer there; here the cost is that of the dropped values only (see :func:`dropped_indices`).
    On other devices this is [`torch.nn.functional.dropout`].

    Args:
        x (`torch.Tensor`): Any shape and float dtype.
        p (`float`): Probability in [0, 1).
        training (`bool`): Without it, `x` comes back unchanged.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return _Dropout.apply(x, dropped_indices(x.numel(), p), 1 / (1 - p))


def relu_dropout_(x: Tensor, p: float, training: bool) -> Tensor:
    """`dropout(relu(x), p, training)`, written into `x`: one pass backward serves both.

    Args:
        x (`torch.Tensor`): Any shape and float dtype; the result of an operation whose backward does not need it, and no
            view, which autograd would have to copy.
        p (`float`), training (`bool`): As of :func:`dropout`.
    """
    if not training or p == 0 or x.device.type != "cpu" or not x.is_contiguous():
        return dropout(x.relu_(), p, training)
    return _ReluDropout.apply(x, dropped_indices(x.numel(), p), 1 / (1 - p))


def add_dropout_(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """`residual + dropout(x, p, training)`, written into `x`.

    Args:
        residual (`torch.Tensor`): Of the shape and dtype of `x`.
        x (`torch.Tensor`), p (`float`), training (`bool`): As of :func:`relu_dropout_`.
    """
    if not training or p == 0 or x.device.type != "cpu" or not x.is_contiguous():
        return residual + dropout(x, p, training)
    return _AddDropout.apply(residual, x, dropped_indices(x.numel(), p), 1 / (1 - p))


def dropped_indices(count: int, p: float) -> Tensor:
    """Which of `count` values to drop: each with probability `p`, independent of the others. `(n,)` int64, some repeated.

    Of Poisson(−ln(1 − p) · count) darts thrown at the values uniformly, each value receives a Poisson(−ln(1 − p)) number
    independent of the others', and so at least one with probability p. They come from PyTorch's default generator:
    `torch.manual_seed` and a restored generator state reproduce them.
    """
    if not 0 <= p < 1:
        raise ValueError(f"A dropout probability lies in [0, 1), not {p}.")
    darts = int(torch.poisson(torch.tensor(-math.log1p(-p) * count, dtype=torch.float64)))
    return torch.randint(max(count, 1), (darts,))


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
        return torch.ops.aten.threshold_backward(gradient, result, 0).mul_(ctx.scale), None, None


class _AddDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, x, dropped, scale):
        ctx.mark_dirty(x)
        ctx.save_for_backward(dropped)
        ctx.scale = scale
        return torch.add(residual, zero_(x, dropped), alpha=scale, out=x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, _Dropout.apply(gradient, *ctx.saved_tensors, ctx.scale), None, None
