import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmalign import ot


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.sampled_from([1e-3, 1.0, 1e3]), st.integers(0, 99))
def test_agrees_with_torch_cosine_similarity(n, m, width, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(2, 3, n, width, generator=generator)
    y = torch.randn(2, 3, m, width, generator=generator)
    expected = 1 - torch.cosine_similarity(x.unsqueeze(-2), y.unsqueeze(-3), dim=-1)
    torch.testing.assert_close(ot.cosine_cost(x, y), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_computed_in_fp32(dtype):
    x, y = torch.randn(2, 5, 8).to(dtype), torch.randn(2, 3, 8).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        cost = ot.cosine_cost(x, y)
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, ot.cosine_cost(x.double(), y.double()).float(), atol=1e-6, rtol=0)


def test_fp64_stays_fp64():
    x, y = torch.randn(4, 8, dtype=torch.float64), torch.randn(3, 8)
    assert ot.cosine_cost(x, y).dtype == torch.float64
    assert torch.autograd.gradcheck(
        ot.cosine_cost, (x.requires_grad_(), torch.randn(3, 8, dtype=torch.float64, requires_grad=True))
    )


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-12])
def test_vectors_without_direction_cost_one_and_take_no_gradient(length):
    x, y = torch.randn(3, 8), torch.randn(4, 8)
    x[1], y[2] = length * torch.ones(8), 0.0
    x.requires_grad_(), y.requires_grad_()
    cost = ot.cosine_cost(x, y)
    assert (cost[1] == 1).all()
    assert (cost[:, 2] == 1).all()
    cost.square().sum().backward()
    assert (x.grad[1] == 0).all()
    assert (y.grad[2] == 0).all()
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


def test_widths_that_differ_are_an_error():
    with pytest.raises(ValueError, match="same feature size"):
        ot.cosine_cost(torch.randn(3, 8), torch.randn(3, 7))
