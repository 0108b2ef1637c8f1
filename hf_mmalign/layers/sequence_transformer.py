"""A small transformer over a feature sequence."""

import torch.nn.functional as F
from torch import Tensor, nn

from .feature_embedding import sinusoidal_positions
from .kernels.attention import attention
from .kernels.dropout import dropout


class SequenceTransformer(nn.Module):
    """Linear projection, sinusoidal positions, and pre-norm layers of self-attention (Vaswani et al., 2017).

    Args:
        feature_size (`int`), hidden_size (`int`): Widths before and after.
        num_layers (`int`), num_heads (`int`): Layers, and heads of each attention; `num_heads` divides `hidden_size`.
        dropout (`float`): On what enters the layers, on attention weights, and on what each sublayer adds.
    """

    def __init__(
        self, feature_size: int, hidden_size: int, num_layers: int = 1, num_heads: int = 4, dropout: float = 0.0
    ):
        super().__init__()
        self.dropout = dropout
        self.projection = nn.Linear(feature_size, hidden_size)
        self.layers = nn.ModuleList(_Layer(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """`(B, T, D)` features and their `(B, T)` bool mask to `(B, T, hidden_size)`; padded steps are finite garbage."""
        # A row of the softmax without any valid key would be NaN: a sample without steps attends to its padding.
        keys = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]  # (B, 1, 1, T)
        tokens = self.projection(features)
        positions = sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        tokens = dropout(tokens + positions.to(tokens.dtype), self.dropout, self.training)
        for layer in self.layers:
            tokens = layer(tokens, keys)
        return self.norm(tokens)


class _Layer(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_projection = nn.Linear(hidden_size, hidden_size)
        self.key_projection = nn.Linear(hidden_size, hidden_size)
        self.value_projection = nn.Linear(hidden_size, hidden_size)
        self.output_projection = nn.Linear(hidden_size, hidden_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.feed_forward_out = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, tokens: Tensor, keys: Tensor) -> Tensor:
        normed = self.attention_norm(tokens)
        projections = (self.query_projection, self.key_projection, self.value_projection)
        heads = (projection(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for projection in projections)
        attended = attention(*heads, keys, self.dropout if self.training else 0.0).transpose(1, 2).flatten(2)
        tokens = tokens + dropout(self.output_projection(attended), self.dropout, self.training)
        hidden = F.relu(self.feed_forward_in(self.feed_forward_norm(tokens)))
        return tokens + dropout(self.feed_forward_out(hidden), self.dropout, self.training)
