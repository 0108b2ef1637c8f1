"""Transformer over one modality whose attention reads the others (MulT, Tsai et al. 2019; DecAlign's Section 3.4)."""

from torch import Tensor, nn

from .kernels.attention import attention
from .kernels.dropout import add_dropout_, relu_dropout_
from .kernels.transposed_linear import TransposedLinear
from .kernels.when import by_hand


class CrossModalTransformer(nn.Module):
    """Post-norm transformer layers whose queries come from one modality and keys and values from a fixed context.

    The context, the embedded tokens of the other modalities, is the same for every layer, as in MulT.

    Args:
        hidden_size (`int`): Width d of tokens and context.
        num_layers (`int`), num_heads (`int`): Layers, and heads of each attention; `num_heads` divides `hidden_size`.
        attention_dropout (`float`): On attention weights.
        activation_dropout (`float`): After the feed-forward's ReLU.
        residual_dropout (`float`): On what each sublayer adds.
        layer_norm_eps (`float`): Of every layer norm.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        layer_norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            CrossModalLayer(
                hidden_size, num_heads, attention_dropout, activation_dropout, residual_dropout, layer_norm_eps
            )
            for _ in range(num_layers)
        )

    def forward(
        self,
        tokens: Tensor,
        context: Tensor | None,
        context_mask: Tensor | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Encode one modality's tokens.

        Args:
            tokens (`torch.Tensor` of shape `(B, T, d)`): Queries. Padded ones come out as finite garbage.
            context (`torch.Tensor` of shape `(B, S, d)`, *optional*): Keys and values. Without it, and for samples without
                a valid one, attention adds nothing.
            context_mask (`torch.BoolTensor` of shape `(B, S)`, *optional*): Valid context tokens; left out, all are.
            states (`list`, *optional*): Takes the tokens as they enter and after each layer, `(B, T, d)` each.

        Returns:
            `torch.Tensor` of shape `(B, T, d)`.
        """
        batch = tokens.shape[0]
        attended = None
        if context_mask is not None and by_hand(context_mask) and bool(context_mask.all()):
            context_mask = None  # no value to wait for on a CPU, and each layer is spared the masking
        if context_mask is not None:
            attended = context_mask.any(dim=1)
            # A row of the softmax without any valid key would be NaN: let such a sample attend to all, then drop it.
            context_mask = (context_mask | ~attended.unsqueeze(1))[:, None, None]  # (B, 1, 1, S)
            attended = attended.to(tokens.dtype).repeat_interleave(tokens.shape[1]).unsqueeze(1)
        # Layers work on (B · T, d): the result of a linear layer on three axes is a view, and to write into a view costs
        # autograd a copy.
        tokens = tokens.flatten(0, 1)
        for layer in self.layers:
            if states is not None:
                states.append(tokens.unflatten(0, (batch, -1)))
            tokens = layer(tokens, context, context_mask, attended)
        tokens = tokens.unflatten(0, (batch, -1))
        if states is not None:
            states.append(tokens)
        return tokens


class CrossModalLayer(nn.Module):
    """Attention to the context, then a feed-forward network, each with a residual and a layer norm."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        attention_dropout: float,
        activation_dropout: float,
        residual_dropout: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.residual_dropout = residual_dropout
        self.query_projection = TransposedLinear(hidden_size, hidden_size)
        # A bias would add the same to all scores of a query, which the softmax does not see.
        self.key_projection = TransposedLinear(hidden_size, hidden_size, bias=False)
        self.value_projection = TransposedLinear(hidden_size, hidden_size)
        self.output_projection = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.feed_forward_in = nn.Linear(hidden_size, 4 * hidden_size)
        self.feed_forward_out = nn.Linear(4 * hidden_size, hidden_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, tokens: Tensor, context: Tensor | None, mask: Tensor | None, attended: Tensor | None) -> Tensor:
        """`(B · T, d)` tokens and `(B, S, d)` context; mask `(B, 1, 1, S)` bool; `attended` `(B · T, 1)`, 0 or 1."""
        if context is not None:
            update = self.output_projection(self._attend(tokens, context, mask))
            if attended is not None:
                update = update * attended
            tokens = add_dropout_(tokens, update, self.residual_dropout, self.training)
        tokens = self.attention_norm(tokens)
        hidden = relu_dropout_(self.feed_forward_in(tokens), self.activation_dropout, self.training)
        update = self.feed_forward_out(hidden)
        return self.feed_forward_norm(add_dropout_(tokens, update, self.residual_dropout, self.training))

    def _attend(self, tokens: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        queries, keys, values = (
            projected.view(context.shape[0], -1, self.num_heads, projected.shape[-1] // self.num_heads).transpose(1, 2)
            for projected in (
                self.query_projection(tokens.view(context.shape[0], -1, tokens.shape[1])),
                self.key_projection(context),
                self.value_projection(context),
            )
        )  # (B, heads, T or S, d / heads)
        attended = attention(queries, keys, values, mask, self.attention_dropout if self.training else 0.0)
        return attended.transpose(1, 2).reshape(tokens.shape)
