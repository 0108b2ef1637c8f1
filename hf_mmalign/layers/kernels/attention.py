"""Scaled dot-product attention that is quick to train on a CPU."""

import math
import threading
from collections.abc import Iterator
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import dropped_indices, zero_
from .when import by_hand

# Weights are made block by block, so that a block stays in a core's cache from the first product to the last.
_BLOCK_BYTES = 1 << 20
_scratch = threading.local()
# Sums of exponentials between these lost nothing to overflow or underflow, and leave room for products with gradients.
_SMALLEST_SUM, _LARGEST_SUM = 1e-25, 1e25


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """softmax(Q Kᵀ / √d) V per head, with dropout on the softmax.

    This is [`torch.nn.functional.scaled_dot_product_attention`], and calls it except for training in single precision on a
    CPU (see `when.py`). There PyTorch has no fused kernel with dropout; and its kernel without is made for wider heads and
    longer sequences than those of multimodal fusion.

    Args:
        queries (`torch.Tensor` of shape `(B, heads, T, d)`), keys, values (`(B, heads, S, d)`): Of one dtype.
        mask (`torch.BoolTensor` of shape `(B, 1, 1, S)`, *optional*): Keys to attend to. Without any, the result is 0.
        dropout_p (`float`): Probability in [0, 1) with which a weight is dropped.

    Returns:
        `torch.Tensor` of shape `(B, heads, T, d)`.
    """
    trained = torch.is_grad_enabled() and any(part.requires_grad for part in (queries, keys, values))
    if (trained or dropout_p > 0) and queries.dtype == torch.float32 and by_hand(queries, keys, values):
        return _BlockwiseAttention.apply(queries, keys, values, mask, dropout_p)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout_p)


class _BlockwiseAttention(torch.autograd.Function):
    """Keeps no weights for backward: making a block of them again is cheaper than fetching it from memory.

    All heads of all samples make one batch of N. Queries, keys and values are laid out `(N, d, T or S)`, and weights
    E = exp(scores), normalised by their sum over keys only in the result, `(N, S, T)`: all products then have a long last
    axis, where the few features of a head would leave most of a vector register empty.
    """

    @staticmethod
    def forward(ctx, queries, keys, values, mask, dropout_p):
        *_, length, width = ctx.shape = queries.shape
        ctx.scale, ctx.value_scale = width**-0.5, 1 / (1 - dropout_p)
        queries, keys, values = (part.mT.flatten(0, 1) for part in (queries, keys, values))
        count, _, steps = keys.shape
        bias = None if mask is None or bool(mask.all()) else _bias(mask, ctx.shape[1])
        ctx.blocks = max(1, min(count, math.ceil(4 * count * steps * length / _BLOCK_BYTES)))
        dropped = None
        if dropout_p > 0:
            dropped = [dropped_indices(k.shape[0] * steps * length, dropout_p) for k in keys.chunk(ctx.blocks)]
        # Subtracting the largest score takes two more passes, and the sums tell whether it was needed: it hardly ever is.
        shift = None
        sums, sum_of_values = _sums(queries, keys, values, ctx.scale, bias, shift, dropped, ctx.blocks)
        lowest, highest = sums.aminmax()
        if not (lowest.item() > _SMALLEST_SUM and highest.item() < _LARGEST_SUM):
            shift = _largest_scores(queries, keys, ctx.scale, bias, ctx.blocks)
            sums, sum_of_values = _sums(queries, keys, values, ctx.scale, bias, shift, dropped, ctx.blocks)
            sums.clamp_(min=1)  # less only for a query without any key, whose values sum to 0
        normalizer = sums.reciprocal_()
        ctx.save_for_backward(queries, keys, values, bias, shift, normalizer, sum_of_values, *(dropped or ()))
        return _by_query(sum_of_values, normalizer * ctx.value_scale, ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        queries, keys, values, bias, shift, normalizer, sum_of_values, *dropped = ctx.saved_tensors
        gradient = gradient.mT.flatten(0, 1) * (normalizer * ctx.value_scale)  # of sum_of_values, (N, d, T)
        # The softmax's backward needs the sum over keys of its result times its gradient.
        products = (gradient * sum_of_values).sum(dim=1, keepdim=True).mul_(normalizer)
        d_queries, d_keys, d_values = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        buffers = _memory(2, ctx.blocks, len(keys), keys.shape[2], queries.shape[2])
        operands = (queries, keys, values, gradient, products, bias, shift, d_queries, d_keys, d_values)
        for q, k, v, g, product, b, s, d_q, d_k, d_v, drop in _blocks(ctx.blocks, *operands, dropped=dropped or None):
            weights, d_scores = (buffer[: q.shape[0]] for buffer in buffers)
            _weights(q, k, ctx.scale, b, s, out=weights)
            torch.bmm(v.mT, g, out=d_scores)
            if drop is not None:
                zero_(d_scores, drop)
            d_scores.sub_(product).mul_(weights)
            if drop is not None:
                zero_(weights, drop)
            torch.bmm(g, weights.mT, out=d_v)
            d_q.baddbmm_(k, d_scores, beta=0, alpha=ctx.scale)
            d_k.baddbmm_(q, d_scores.mT, beta=0, alpha=ctx.scale)
        gradients = (part.view(*ctx.shape[:2], *part.shape[1:]).mT for part in (d_queries, d_keys, d_values))
        return *gradients, None, None


def _blocks(blocks: int, *tensors: Tensor | None, dropped: list[Tensor] | None) -> Iterator[tuple[Tensor | None, ...]]:
    """For every block of rows, its part of each tensor, None for those that are None, and its dropped weights."""
    parts = [repeat(None) if tensor is None else tensor.chunk(blocks) for tensor in tensors]
    return zip(*parts, repeat(None) if dropped is None else dropped, strict=False)  # None is repeated for ever


def _sums(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    bias: Tensor | None,
    shift: Tensor | None,
    dropped: list[Tensor] | None,
    blocks: int,
) -> tuple[Tensor, Tensor]:
    """Sums over keys of all weights, `(N, 1, T)`, and of values times those that are not dropped, `(N, d, T)`."""
    count, width, length = queries.shape
    sums, sum_of_values = queries.new_empty(count, 1, length), queries.new_empty(count, width, length)
    (buffer,) = _memory(1, blocks, count, keys.shape[2], length)
    operands = (queries, keys, values, bias, shift, sums, sum_of_values)
    for q, k, v, b, s, total, total_values, drop in _blocks(blocks, *operands, dropped=dropped):
        weights = _weights(q, k, scale, b, s, out=buffer[: q.shape[0]])
        torch.sum(weights, dim=1, keepdim=True, out=total)
        if drop is not None:
            zero_(weights, drop)
        torch.bmm(v, weights, out=total_values)
    return sums, sum_of_values


def _weights(q: Tensor, k: Tensor, scale: float, bias: Tensor | None, shift: Tensor | None, out: Tensor) -> Tensor:
    """exp(scores) of a block, not normalised, `(rows, S, T)`."""
    out.baddbmm_(k.mT, q, beta=0, alpha=scale)
    if bias is not None:
        out += bias
    if shift is not None:
        out -= shift
    return out.exp_()


def _memory(buffers: int, blocks: int, count: int, steps: int, length: int) -> list[Tensor]:
    """At most two buffers for one of the blocks of `(N, S, T)` fp32, uninitialised and kept from call to call.

    The page faults of fresh memory cost as much as a product that fills it.
    """
    shape = (math.ceil(count / blocks), steps, length)
    size = math.prod(shape)
    if size * 4 > _BLOCK_BYTES:
        return [torch.empty(shape) for _ in range(buffers)]
    if not hasattr(_scratch, "memory") or _scratch.memory.numel() < 2 * size:
        with torch.inference_mode(False):  # or nothing could write to it outside that mode
            _scratch.memory = torch.empty(2 * _BLOCK_BYTES // 4)
    return [_scratch.memory[index * size : (index + 1) * size].view(shape) for index in range(buffers)]


def _largest_scores(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None, blocks: int) -> Tensor:
    """The largest score of every query, `(N, 1, T)`; 0 for one without any key."""
    largest = queries.new_empty(len(queries), 1, queries.shape[2])
    for q, k, b, high, _ in _blocks(blocks, queries, keys, bias, largest, dropped=None):
        scores = torch.bmm(k.mT, q).mul_(scale)
        if b is not None:
            scores += b
        torch.amax(scores, dim=1, keepdim=True, out=high)
    return largest.masked_fill_(largest == -torch.inf, 0)


def _by_query(x: Tensor, factor: Tensor, shape: torch.Size) -> Tensor:
    """`x` `(N, d, T)` times a factor as `(B, heads, T, d)`, in memory `(B, T, heads, d)`, as a linear layer reads it."""
    batch, heads, length, width = shape
    result = x.new_empty(batch, length, heads, width).transpose(1, 2)
    return torch.mul(x.view(batch, heads, width, length).mT, factor.view(batch, heads, length, 1), out=result)


def _bias(mask: Tensor, heads: int) -> Tensor:
    """A `(B, 1, 1, S)` bool mask as `(B · heads, S, 1)`: 0 on keys to attend to, −∞ elsewhere."""
    bias = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    return bias.expand(-1, heads, -1, -1).reshape(-1, mask.shape[-1], 1)
