"""Batch norm over the rows that count, against PyTorch's on those rows alone."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hf_mmalign.layers.masked_batch_norm import MaskedBatchNorm


def test_it_is_batch_norm_of_the_rows_that_count():
    torch.manual_seed(0)
    rows, counted = torch.randn(7, 3) * 2 + 1, torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    stock, ours = nn.BatchNorm1d(3), MaskedBatchNorm(3)
    with torch.no_grad():
        stock.weight.uniform_()
        stock.bias.uniform_()
    ours.load_state_dict(stock.state_dict())
    for _ in range(3):
        one, other = (rows.clone().requires_grad_() for _ in range(2))
        expected, found = stock(one[counted]), ours(other, counted)
        assert_close(found[counted], expected)
        weight = torch.randn_like(expected)
        (expected * weight).sum().backward()
        (found[counted] * weight).sum().backward()
        assert_close(other.grad, one.grad)
    assert_close(ours.state_dict(), stock.state_dict())
    assert_close(ours.eval()(rows), stock.eval()(rows))
    assert_close(ours.train()(rows), stock.train()(rows))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_take_what_it_has_learnt(count):
    norm = MaskedBatchNorm(3).train()
    norm(torch.randn(8, 3) + 2)
    before = copy.deepcopy(norm.state_dict())
    given = torch.randn(4, 3)
    found = norm(given, torch.arange(4) < count)
    assert_close(found, norm.eval()(given))
    assert_close(norm.state_dict(), before, atol=0, rtol=0)


def test_half_precision_comes_back_as_it_came():
    assert MaskedBatchNorm(3)(torch.randn(4, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
