"""A linear layer whose result lies in memory as attention on a CPU reads it."""

import torch
from torch import Tensor, nn

from .when import by_hand


class TransposedLinear(nn.Linear):
    """[`torch.nn.Linear`] with a result `(B, T, out_features)` that lies in memory feature by feature.

    :func:`.attention.attention` reads it like that when it trains on a CPU, where a copy would cost as much as the product.
    Elsewhere (see `when.py`) this is its base class.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, in_features)` to `(B, T, out_features)`."""
        if not torch.is_grad_enabled() or not by_hand(x, self.weight):
            return super().forward(x)
        weight = self.weight.expand(len(x), -1, -1)
        if self.bias is None:
            return torch.bmm(weight, x.mT).mT
        return torch.baddbmm(self.bias.unsqueeze(1), weight, x.mT).mT
