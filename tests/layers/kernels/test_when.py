import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_mmalign.layers.kernels.attention import attention
from hf_mmalign.layers.kernels.dropout import add_dropout_, dropout, relu_dropout_
from hf_mmalign.layers.kernels.transposed_linear import TransposedLinear
from hf_mmalign.layers.kernels.when import by_hand


def kernels(x: torch.Tensor, linear: torch.nn.Module, p: float = 0.0) -> torch.Tensor:
    """Every kernel of the folder, one after the other, of `(B, T, d)`."""
    y = linear(x)
    y = attention(*(y.unsqueeze(1) for _ in range(3)), dropout_p=p).squeeze(1)
    y = dropout(relu_dropout_(linear(y).contiguous(), p, training=True), p, training=True)
    return add_dropout_(y, linear(y).contiguous(), p, training=True)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return TransposedLinear(4, 4)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def own_kernels(graph: torch.nn.Module) -> list[str]:
    """Names in a traced graph that stand for a kernel written by hand."""
    return [str(node.target) for node in graph.graph.nodes if "autograd_function" in str(node.target)]


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_compiled_graphs_hold_pytorchs_own_operators(layer, p):
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    x = torch.randn(2, 5, 4, requires_grad=True)
    result = torch.compile(kernels, backend=keep, fullgraph=True)(x, layer, p)
    (graph,) = graphs
    assert own_kernels(graph) == []
    assert any("scaled_dot_product_attention" in str(node.target) for node in graph.graph.nodes)
    if not p:
        torch.testing.assert_close(result, kernels(x, layer))


def test_elsewhere_pytorchs_own_operators_serve(layer):
    x = torch.randn(2, 5, 4)
    assert by_hand(x, layer.weight)
    assert not by_hand(x, x.to("meta"))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x)
        assert not by_hand(fake)
        assert kernels(fake, TransposedLinear(4, 4), p=0.3).shape == x.shape
    gradient = torch.func.grad(lambda x: kernels(x, layer).square().sum())(x)
    x.requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(kernels(x, layer).square().sum(), x)[0])
    assert torch.func.vmap(lambda x: kernels(x.unsqueeze(0), layer), randomness="different")(x).shape == (2, 1, 5, 4)
