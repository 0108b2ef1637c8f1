"""A small LSTM over a feature sequence."""

import torch
from torch import Tensor, nn


class LSTMEncoder(nn.Module):
    """Encodes `(B, T, D)` features step by step, forwards in time; padding, wherever it stands, is passed over.

    Args:
        feature_size (`int`), hidden_size (`int`): Widths before and after.
        num_layers (`int`): LSTMs on top of each other.
        dropout (`float`): Between them.
    """

    def __init__(self, feature_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0):
        super().__init__()
        between = dropout if num_layers > 1 else 0.0  # PyTorch warns of a dropout without effect
        self.lstm = nn.LSTM(feature_size, hidden_size, num_layers, batch_first=True, dropout=between)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """`(B, T, D)` features and their `(B, T)` bool mask to `(B, T, hidden_size)`; padded steps are finite garbage."""
        # Valid steps first: what follows them cannot reach back. Packing would have the host wait for the lengths.
        order = torch.argsort((~mask).int(), dim=1, stable=True)
        states, _ = self.lstm(features.gather(1, order.unsqueeze(-1).expand_as(features)))
        return torch.zeros_like(states).scatter(1, order.unsqueeze(-1).expand_as(states), states)
