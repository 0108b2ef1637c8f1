"""Scaled dot-product attention that is quick to train on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import dropped_indices

# Weights are made block by block, so that a block stays in a core's cache from the first product to the last.
_BLOCK_BYTES = 1 << 20
# exp of such a score, and the sum of as many of them as fit in memory, is far from overflow and from underflow.
_LARGEST_SCORE = 70.0


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """softmax(Q Kᵀ / √d) V per head, with dropout on the softmax.

    This is [`torch.nn.functional.scaled_dot_product_attention`], and calls it except for training in single precision on a
    CPU. There PyTorch has no fused kernel with dropout; and its kernel without is made for wider heads and longer sequences
    than those of multimodal fusion.

    Args:
        queries (`torch.Tensor` of shape `(B, heads, T, d)`), keys, values (`(B, heads, S, d)`): Of one dtype.
        mask (`torch.BoolTensor` of shape `(B, 1, 1, S)`, *optional*): Keys to attend to, at least one per sample.
        dropout_p (`float`): Probability in [0, 1) with which a weight is dropped.

    Returns:
        `torch.Tensor` of shape `(B, heads, T, d)`.
    """
    trained = torch.is_grad_enabled() and any(part.requires_grad for part in (queries, keys, values))
    if (trained or dropout_p > 0) and queries.device.type == "cpu" and queries.dtype == torch.float32:
        return _BlockwiseAttention.apply(queries, keys, values, mask, dropout_p)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout_p)


class _BlockwiseAttention(torch.autograd.Function):
    """Keeps no weights for backward: making a block of them again is cheaper than fetching it from memory.

    All heads of all samples make one batch of N. Its weights E = exp(scores), normalised by their sum over keys only in the
    result, are laid out `(N, S, T)`, keys first: products with them then have a long last axis, where the few features of a
    head would leave most of a vector register empty.
    """

    @staticmethod
    def forward(ctx, queries, keys, values, mask, dropout_p):
        ctx.shape, ctx.scale, ctx.value_scale = queries.shape, queries.shape[-1] ** -0.5, 1 / (1 - dropout_p)
        batch, heads, length, width = queries.shape
        queries = torch.mul(queries, ctx.scale, out=queries.new_empty(queries.shape)).flatten(0, 1)
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        bias = None if mask is None or bool(mask.all()) else _bias(mask, heads)
        shift = queries.new_empty(len(queries), 1, length) if _largest_score(queries, keys) > _LARGEST_SCORE else None
        sums = queries.new_empty(len(queries), 1, length)
        output = queries.new_empty(len(queries), width, length)
        blocks, dropped = _blocks(queries, keys), []
        buffer = queries.new_empty(blocks[0].stop, keys.shape[1], length)
        for block in blocks:
            weights = torch.bmm(keys[block], queries[block].mT, out=buffer[: block.stop - block.start])
            if bias is not None:
                weights += bias[block]
            if shift is not None:
                weights -= torch.amax(weights, dim=1, keepdim=True, out=shift[block])
            torch.sum(weights.exp_(), dim=1, keepdim=True, out=sums[block])
            if dropout_p > 0:
                dropped.append(dropped_indices(weights.numel(), dropout_p))
                weights.view(-1).index_fill_(0, dropped[-1], 0)
            torch.bmm(values[block].mT, weights, out=output[block])
        output *= ctx.value_scale / sums
        ctx.blocks = blocks
        ctx.save_for_backward(queries, keys, values, bias, shift, sums, output, *dropped)
        return output.view(batch, heads, width, length).mT

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        queries, keys, values, bias, shift, sums, output, *dropped = ctx.saved_tensors
        gradient = gradient.mT.flatten(0, 1) / sums  # (N, d, T)
        # The softmax's backward needs its products with its own gradient, summed over keys: output times gradient.
        products = (gradient * output).sum(dim=1, keepdim=True)
        gradient *= ctx.value_scale
        d_queries, d_keys, d_values = torch.empty_like(output), torch.empty_like(keys), torch.empty_like(values)
        buffers = queries.new_empty(3 if dropped else 2, ctx.blocks[0].stop, keys.shape[1], queries.shape[1])
        for i, block in enumerate(ctx.blocks):
            weights, d_scores, *kept = buffers[:, : block.stop - block.start]
            torch.bmm(keys[block], queries[block].mT, out=weights)
            if bias is not None:
                weights += bias[block]
            if shift is not None:
                weights -= shift[block]
            weights.exp_()
            torch.bmm(values[block], gradient[block], out=d_scores)
            if dropped:
                kept = kept[0].copy_(weights)
                kept.view(-1).index_fill_(0, dropped[i], 0)
                d_scores.mul_(kept).addcmul_(weights, products[block], value=-1)
            else:
                kept = weights
                d_scores.sub_(products[block]).mul_(weights)
            torch.bmm(kept, gradient[block].mT, out=d_values[block])
            torch.bmm(keys[block].mT, d_scores, out=d_queries[block])
            torch.bmm(d_scores, queries[block], out=d_keys[block])
        d_queries *= ctx.scale
        batch, heads, length, width = ctx.shape
        d_keys, d_values = (part.view(batch, heads, -1, width) for part in (d_keys, d_values))
        return d_queries.view(batch, heads, width, length).mT, d_keys, d_values, None, None


def _bias(mask: Tensor, heads: int) -> Tensor:
    """A `(B, 1, 1, S)` bool mask as `(B · heads, S, 1)`: 0 on keys to attend to, −∞ elsewhere."""
    bias = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    return bias.expand(-1, heads, -1, -1).reshape(-1, mask.shape[-1], 1)


def _largest_score(queries: Tensor, keys: Tensor) -> float:
    """A bound on |q · k|; infinity for inputs that are not finite."""
    bound = (torch.linalg.vecdot(queries, queries).max() * torch.linalg.vecdot(keys, keys).max()).sqrt()
    return float(bound.nan_to_num(torch.inf))


def _blocks(queries: Tensor, keys: Tensor) -> list[slice]:
    """Slices of the batch, the first one the longest, whose weights fill a block each."""
    size, count = queries.shape[1] * keys.shape[1] * queries.element_size(), len(queries)
    step = max(1, _BLOCK_BYTES // size)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
