import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_mmalign.layers.cross_modal_transformer import CrossModalTransformer

WIDTH, HEADS, LAYERS, EPS = 8, 2, 3, 1e-5


def build(**fields) -> CrossModalTransformer:
    torch.manual_seed(0)
    model = CrossModalTransformer(WIDTH, LAYERS, HEADS, layer_norm_eps=EPS, **fields)
    for parameter in model.parameters():  # biases and norms too, lest their gradients go unseen
        nn.init.normal_(parameter, mean=0.1, std=0.4)
    return model


def make_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, context, and a mask whose third sample has no context at all."""
    torch.manual_seed(1)
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[1, 3:], mask[2], mask[3, 0] = False, False, False
    return torch.randn(4, 5, WIDTH), torch.randn(4, 7, WIDTH), mask


class PlainLayer(nn.Module):
    """The same layer made of PyTorch's own attention, in float64."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        parts = (layer.query_projection, layer.key_projection, layer.value_projection)
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            biases = [torch.zeros(WIDTH) if part.bias is None else part.bias for part in parts]
            self.attention.in_proj_bias.copy_(torch.cat(biases))
        self.attention.out_proj.load_state_dict(layer.output_projection.state_dict())
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, eps=EPS) for _ in range(2))
        self.norms[0].load_state_dict(layer.attention_norm.state_dict())
        self.norms[1].load_state_dict(layer.feed_forward_norm.state_dict())
        self.inner, self.outer = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.inner.load_state_dict(layer.feed_forward_in.state_dict())
        self.outer.load_state_dict(layer.feed_forward_out.state_dict())

    def forward(self, tokens, context, mask):
        if context is not None:
            attended = mask.any(dim=1)
            update = tokens.new_zeros(tokens.shape)
            update[attended] = self.attention(
                tokens[attended], context[attended], context[attended], key_padding_mask=~mask[attended]
            )[0]
            tokens = tokens + update
        tokens = self.norms[0](tokens)
        return self.norms[1](tokens + self.outer(F.relu(self.inner(tokens))))


def compare(masked: bool, with_context: bool = True) -> None:
    model, (tokens, context, mask) = build(), make_batch()
    plain = nn.ModuleList(PlainLayer(layer) for layer in model.layers).double()
    given = [tokens.clone().requires_grad_(), context.clone().requires_grad_()]
    output = model(given[0], given[1] if with_context else None, mask if masked else None)
    reference = [tokens.double().requires_grad_(), context.double().requires_grad_()]
    expected, full = reference[0], mask if masked else torch.ones_like(mask)
    for layer in plain:
        expected = layer(expected, reference[1] if with_context else None, full)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)

    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, theirs in zip(given[: 1 + with_context], reference, strict=False):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-4, rtol=1e-4)
    for layer, other in zip(model.layers, plain, strict=True):
        pairs = [(layer.feed_forward_in, other.inner), (layer.feed_forward_out, other.outer)]
        pairs += [(layer.attention_norm, other.norms[0]), (layer.feed_forward_norm, other.norms[1])]
        pairs += [(layer.output_projection, other.attention.out_proj)] if with_context else []
        for mine, theirs in pairs:
            torch.testing.assert_close(mine.weight.grad.double(), theirs.weight.grad, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(mine.bias.grad.double(), theirs.bias.grad, atol=1e-4, rtol=1e-4)
        if with_context:
            parts = (layer.query_projection, layer.key_projection, layer.value_projection)
            packed = torch.cat([part.weight.grad for part in parts])
            torch.testing.assert_close(packed.double(), other.attention.in_proj_weight.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_pytorch_attention(masked):
    compare(masked)


def test_without_context_only_the_feed_forward_network_is_left():
    compare(masked=False, with_context=False)


def test_without_training_the_result_is_the_same():
    model, batch = build(attention_dropout=0.3, activation_dropout=0.3, residual_dropout=0.3).eval(), make_batch()
    with torch.no_grad():
        quiet = model(*batch)
    torch.testing.assert_close(model(*batch), quiet, atol=1e-5, rtol=1e-5)


def test_a_context_that_is_masked_out_does_not_matter():
    model, (tokens, context, mask) = build(), make_batch()
    other = torch.where(mask.unsqueeze(-1), context, 50.0)
    torch.testing.assert_close(model(tokens, other, mask), model(tokens, context, mask))


def test_dropout_follows_the_seed_and_every_parameter_learns():
    model, batch = build(attention_dropout=0.2, activation_dropout=0.2, residual_dropout=0.2), make_batch()
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(model(*batch))
    torch.testing.assert_close(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])
    weights = torch.linspace(-1, 1, runs[0].numel()).view(runs[0].shape)
    (runs[0] * weights).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert missing == []


def test_hooks_and_replaced_projections_take_part():
    """A projection is called as a module, so that adapters put in its place are not passed over."""
    model, batch = build(), make_batch()
    before = model(*batch)
    for name in ("query_projection", "value_projection", "feed_forward_in", "feed_forward_out", "output_projection"):
        layer = model.layers[0]
        inner = getattr(layer, name)
        setattr(layer, name, nn.Sequential(inner, nn.Linear(inner.out_features, inner.out_features)))
        assert not torch.allclose(model(*batch), before)
        setattr(layer, name, inner)
    torch.testing.assert_close(model(*batch), before)
