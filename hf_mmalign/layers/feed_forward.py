"""The feed-forward network of a transformer layer, as one function that is quick to train on a CPU."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .dropout import dropped_indices, relu_dropout_, zero_


def feed_forward(x: Tensor, first: nn.Linear, second: nn.Linear, p: float, training: bool) -> Tensor:
    """`second(dropout(relu(first(x)), p, training))`.

    Args:
        x (`torch.Tensor` of shape `(N, d)`): Tokens.
        first, second (`torch.nn.Linear`): Anything that takes their place (LoRA, a quantised layer) or hooks them is called
            as a module; else training in single precision on a CPU takes their weights and makes fewer passes over the
            widest activation of the layer.
        p (`float`): Probability with which a value between the two is dropped.
        training (`bool`): Without it, nothing is dropped.
    """
    single = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if training and p > 0 and single and _is_plain(first) and _is_plain(second):
        dropped = dropped_indices(len(x) * first.out_features, p)
        return _FeedForward.apply(x, first.weight, first.bias, second.weight, second.bias, dropped, 1 / (1 - p))
    return second(relu_dropout_(first(x), p, training))


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is its matrix product and no more."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return type(module) is nn.Linear and module.bias is not None and not hooked


class _FeedForward(torch.autograd.Function):
    """What the ReLU zeroes and what is dropped have the same gradient, none; the scale goes with the smaller weights."""

    @staticmethod
    def forward(ctx, x, first, first_bias, second, second_bias, dropped, scale):
        hidden = zero_(torch.addmm(first_bias, x, first.T).relu_(), dropped)
        ctx.save_for_backward(x, first, second, hidden)
        ctx.scale = scale
        return torch.addmm(second_bias, hidden, second.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, first, second, hidden = ctx.saved_tensors
        d_hidden = gradient @ (second * ctx.scale)
        torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden)
        d_second = (gradient.T @ hidden).mul_(ctx.scale)
        return d_hidden @ first, d_hidden.T @ x, d_hidden.sum(0), d_second, gradient.sum(0), None, None
