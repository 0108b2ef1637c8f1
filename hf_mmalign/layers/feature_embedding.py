"""Feature sequences as transformer tokens."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def sinusoidal_positions(length: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Sinusoidal position table of Vaswani et al. (2017), `(length, width)` fp32; any length, no parameter."""
    position = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width, device=device)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency[: width // 2])
    return table


class FeatureEmbedding(nn.Module):
    """Embed a feature sequence: linear projection, position and modality-type embedding, layer norm (WMA's Eqs. 1–2).

    The projection is normalised before positions are added, so that features of any scale and width have their share; the
    layer norm behind them is like that of the text embeddings, whose values it begins with beside a pretrained backbone.

    Args:
        feature_size (`int`): Width D of the features.
        hidden_size (`int`): Width d of the tokens.
        layer_norm_eps (`float`), dropout (`float`): As in the backbone.
    """

    def __init__(self, feature_size: int, hidden_size: int, layer_norm_eps: float, dropout: float):
        super().__init__()
        self.projection = nn.Linear(feature_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.modality_type = nn.Embedding(1, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(B, T, D)` features of any float dtype to `(B, T, d)` tokens."""
        tokens = self.projection(features.to(self.projection.weight.dtype))
        tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=self.norm.eps)
        positions = sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        return self.dropout(self.norm(tokens + positions.to(tokens.dtype) + self.modality_type.weight))
