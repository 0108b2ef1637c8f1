import pytest
import torch
from torch import nn

from hf_mmalign.layers import dropout as dropout_module
from hf_mmalign.layers import feed_forward as module
from hf_mmalign.layers.dropout import dropped_indices
from hf_mmalign.layers.feed_forward import feed_forward

P = 0.3


@pytest.fixture
def layers() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(6, 10), nn.Linear(10, 4)


@pytest.fixture
def drawn(monkeypatch) -> list[torch.Tensor]:
    """The indices that are dropped, whichever path draws them."""
    seen = []
    for place in (module, dropout_module):
        monkeypatch.setattr(place, "dropped_indices", lambda *args: seen.append(dropped_indices(*args)) or seen[-1])
    return seen


def results(function, x, layers) -> list[torch.Tensor]:
    inputs = [x, *(parameter for layer in layers for parameter in layer.parameters())]
    output = function(*inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad((output * weights).sum(), inputs)]


def test_values_and_gradients_are_those_of_the_plain_formula(layers, drawn):
    x = torch.randn(5, 6, requires_grad=True)
    ours = results(lambda *_: feed_forward(x, *layers, P, training=True), x, layers)
    assert ours[0].grad_fn.name() == "_FeedForwardBackward"

    def plain(x, first, first_bias, second, second_bias):
        kept = torch.ones(5, 10, dtype=x.dtype)
        kept.view(-1)[drawn[0]] = 0
        return (x @ first.T + first_bias).relu() * kept / (1 - P) @ second.T + second_bias

    double = [layer.double() for layer in layers]
    reference = results(plain, x.detach().double().requires_grad_(), double)
    assert 0 < len(drawn[0]) < 50
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-6, rtol=1e-5)


def test_without_training_nothing_is_dropped(layers):
    x = torch.randn(5, 6)
    expected = layers[1](layers[0](x).relu())
    assert torch.equal(feed_forward(x, *layers, P, training=False), expected)
    assert torch.equal(feed_forward(x, *layers, 0.0, training=True), expected)


def test_hooks_and_what_replaces_a_layer_are_called(layers):
    x, calls = torch.randn(5, 6), []
    layers[0].register_forward_hook(lambda *_: calls.append("hook"))
    feed_forward(x, *layers, P, training=True)

    class Wrapped(nn.Module):
        def forward(self, hidden):
            calls.append("wrapped")
            return layers[1](hidden)

    feed_forward(x, nn.Linear(6, 10), Wrapped(), P, training=True)
    assert calls == ["hook", "wrapped"]


def test_autocast_is_respected(layers):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert feed_forward(torch.randn(5, 6), *layers, P, training=True).dtype == torch.bfloat16
