"""Scaled dot-product attention that is quick to train on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import dropped_indices

# Weights are made block by block, so that a block stays in a core's cache from the first product to the last.
_BLOCK_BYTES = 1 << 19
# Without dropout, PyTorch's kernel, which makes the weights anew in backward, is better than keeping more than this.
_MOST_BYTES = 1 << 26
# exp of such a score, and the sum of any number of them that fits in memory, is far from overflow and from underflow.
_LARGEST_SCORE = 60.0


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """softmax(Q Kᵀ / √d) V per head, with dropout on the softmax.

    This is [`torch.nn.functional.scaled_dot_product_attention`], and calls it except for training in single precision on
    a CPU. There PyTorch has no fused kernel with dropout; and for the few, narrow heads and short sequences of multimodal
    fusion, keeping the weights for backward and multiplying in the layout that suits the matrix library is faster.

    Args:
        queries (`torch.Tensor` of shape `(B, heads, T, d)`), keys, values (`(B, heads, S, d)`): Of one dtype.
        mask (`torch.BoolTensor` of shape `(B, 1, 1, S)`, *optional*): Keys to attend to, at least one per sample.
        dropout_p (`float`): Probability in [0, 1) with which a weight is dropped.

    Returns:
        `torch.Tensor` of shape `(B, heads, T, d)`.
    """
    if queries.device.type == "cpu" and queries.dtype == torch.float32:
        trained = torch.is_grad_enabled() and any(part.requires_grad for part in (queries, keys, values))
        small = queries[..., 0].numel() * keys.shape[2] * queries.element_size() <= _MOST_BYTES
        if dropout_p > 0 or (trained and small):
            return _KeptAttention.apply(queries, keys, values, mask, dropout_p)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout_p)


class _KeptAttention(torch.autograd.Function):
    """Keeps for backward the exponentials E of the scores, before normalisation: softmax is E / (sum of E over keys).

    All heads of all samples make one batch of N, and E is laid out `(N, S, T)`, keys first: then products with it have a
    long last axis, where the matrix library would waste most of its vector registers on the few features of a head.
    """

    @staticmethod
    def forward(ctx, queries, keys, values, mask, dropout_p):
        ctx.scale, ctx.value_scale = queries.shape[-1] ** -0.5, 1 / (1 - dropout_p)
        batch, heads, length, width = queries.shape
        bias = _bias(mask, heads) if mask is not None and not bool(mask.all()) else None
        queries = torch.mul(queries, ctx.scale, out=queries.new_empty(queries.shape)).flatten(0, 1)
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        exponentials = queries.new_empty(batch * heads, keys.shape[1], length)
        sums = queries.new_empty(batch * heads, 1, length)
        output = queries.new_empty(batch * heads, width, length)
        shift = _largest_score(queries, keys) > _LARGEST_SCORE
        dropped, buffer = [], _block_buffer(exponentials)
        for block in _blocks(exponentials):
            weights = torch.bmm(keys[block], queries[block].mT, out=exponentials[block])
            if bias is not None:
                weights += bias[block]
            if shift:
                weights -= weights.amax(dim=1, keepdim=True)
            torch.sum(weights.exp_(), dim=1, keepdim=True, out=sums[block])
            if dropout_p > 0:
                dropped.append(dropped_indices(weights.numel(), dropout_p))
                weights = _without(weights, dropped[-1], buffer)
            torch.bmm(values[block].mT, weights, out=output[block])
        output *= ctx.value_scale / sums
        ctx.save_for_backward(queries, keys, values, exponentials, sums, output, *dropped)
        return output.view(batch, heads, width, length).mT

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        queries, keys, values, exponentials, sums, output, *dropped = ctx.saved_tensors
        shape = gradient.shape
        gradient = gradient.mT.flatten(0, 1) / sums  # (N, d, T)
        # The softmax's backward needs its products with its own gradient, summed over keys: output times gradient.
        products = (gradient * output).sum(dim=1, keepdim=True)
        gradient *= ctx.value_scale
        d_queries, d_keys, d_values = torch.empty_like(output), torch.empty_like(keys), torch.empty_like(values)
        buffer, kept_buffer = _block_buffer(exponentials), _block_buffer(exponentials)
        for i, block in enumerate(_blocks(exponentials)):
            weights = exponentials[block]
            kept = _without(weights, dropped[i], kept_buffer) if dropped else weights
            torch.bmm(kept, gradient[block].mT, out=d_values[block])
            d_scores = torch.bmm(values[block], gradient[block], out=buffer[: len(weights)])
            if dropped:
                d_scores.mul_(kept).addcmul_(weights, products[block], value=-1)
            else:
                d_scores.sub_(products[block]).mul_(weights)
            torch.bmm(keys[block].mT, d_scores, out=d_queries[block])
            torch.bmm(d_scores, queries[block], out=d_keys[block])
        d_queries *= ctx.scale
        key_shape = (*shape[:2], *keys.shape[1:])
        return (
            d_queries.view(*shape[:2], *output.shape[1:]).mT,
            d_keys.view(key_shape),
            d_values.view(key_shape),
            None,
            None,
        )


def _bias(mask: Tensor, heads: int) -> Tensor:
    """A `(B, 1, 1, S)` bool mask as `(B · heads, S, 1)`: 0 on keys to attend to, −∞ elsewhere."""
    bias = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    return bias.expand(-1, heads, -1, -1).reshape(-1, mask.shape[-1], 1)


def _largest_score(queries: Tensor, keys: Tensor) -> float:
    """A bound on |q · k|; infinite or NaN inputs give infinity."""
    bound = (torch.linalg.vecdot(queries, queries).max() * torch.linalg.vecdot(keys, keys).max()).sqrt()
    return float(bound.nan_to_num(torch.inf))


def _blocks(weights: Tensor) -> list[slice]:
    step = max(1, _BLOCK_BYTES // (weights[0].numel() * weights.element_size()))
    return [slice(start, start + step) for start in range(0, len(weights), step)]


def _block_buffer(weights: Tensor) -> Tensor:
    return torch.empty_like(weights[_blocks(weights)[0]])


def _without(weights: Tensor, dropped: Tensor, buffer: Tensor) -> Tensor:
    """A block of weights with 0 where dropped, written into a buffer of at least its length."""
    kept = buffer[: len(weights)].copy_(weights)
    kept.view(-1).index_fill_(0, dropped, 0)
    return kept
