"""Dropout whose random numbers are cheap on a CPU."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dropout(x: Tensor, p: float, training: bool, inplace: bool = False) -> Tensor:
    """Zero each value with probability `p`, independently, and scale the others by 1 / (1 − p).

    On a CPU, PyTorch draws a random number and writes a mask entry for every value, which is the most expensive part of
    training a small transformer there; here the cost is that of the dropped values only (see :func:`dropped_indices`).
    On other devices this is [`torch.nn.functional.dropout`].

    Args:
        x (`torch.Tensor`): Any shape and float dtype.
        p (`float`): Probability in [0, 1).
        training (`bool`): Without it, `x` comes back unchanged.
        inplace (`bool`): Write into `x`, for a result of an operation whose backward does not need it.
    """
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p, inplace=inplace)
    return _Dropout.apply(x, dropped_indices(x.numel(), p), 1 / (1 - p), inplace and x.is_contiguous())


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


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dropped, scale, inplace):
        ctx.save_for_backward(dropped)
        ctx.scale = scale
        if inplace:
            ctx.mark_dirty(x)
        y = x.mul_(scale) if inplace else x.contiguous() * scale
        y.view(-1).index_fill_(0, dropped, 0)
        return y

    @staticmethod
    def backward(ctx, gradient):
        return _Dropout.apply(gradient, *ctx.saved_tensors, ctx.scale, False), None, None, None
