"""From a sequence to one vector."""

from torch import Tensor


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """`(B, T, d)` tokens to the `(B, d)` mean of those where the `(B, T)` mask is not 0; zeros where there is none."""
    weight = mask.to(tokens.dtype)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)
    return (weight.unsqueeze(1) @ tokens).squeeze(1)
