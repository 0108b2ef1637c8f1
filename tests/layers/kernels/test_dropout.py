import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from hf_mmalign.layers.kernels import dropout as module
from hf_mmalign.layers.kernels.dropout import add_dropout_, dropout, dropped_indices, relu_dropout_


def kept_mask(dropped: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    kept = torch.ones_like(like)
    kept.view(-1)[dropped] = 0
    return kept


@pytest.fixture
def drawn(monkeypatch) -> list[torch.Tensor]:
    """The indices that a test's dropouts draw, in order."""
    seen = []
    monkeypatch.setattr(module, "dropped_indices", lambda *args: seen.append(dropped_indices(*args)) or seen[-1])
    return seen


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_each_value_is_dropped_independently(p):
    """Counts of a fixed seed within 5 standard deviations of a binomial's, alone and in pairs of neighbours."""
    torch.manual_seed(0)
    draws, size = 2000, 50
    dropped = torch.stack([1 - kept_mask(dropped_indices(size, p), torch.empty(size)) for _ in range(draws)])
    per_value = dropped.mean(dim=0)
    assert (per_value - p).abs().max() < 5 * math.sqrt(p * (1 - p) / draws)
    pairs = (dropped[:, 1:] * dropped[:, :-1]).mean(dim=0)
    assert (pairs - p**2).abs().max() < 5 * math.sqrt(p**2 * (1 - p**2) / draws)
    # The number dropped in one draw has a binomial's variance, which draws without independence would not give.
    variance = dropped.sum(dim=1).var().item()
    assert variance == pytest.approx(size * p * (1 - p), rel=5 * math.sqrt(2 / draws))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_probabilities_outside_the_range_are_refused(p):
    with pytest.raises(ValueError, match=r"lies in \[0, 1\)"):
        dropped_indices(10, p)


def test_the_seed_decides_and_nothing_is_dropped_without_values():
    torch.manual_seed(3)
    first = dropped_indices(1000, 0.2)
    torch.manual_seed(3)
    assert torch.equal(first, dropped_indices(1000, 0.2))
    assert (first.diff() > 0).all()
    assert dropout(torch.empty(0, 4), 0.5, training=True).shape == (0, 4)
    assert len(dropped_indices(1000, 0.0)) == 0


@pytest.mark.parametrize("transposed", [False, True])
def test_dropout_zeroes_scales_and_passes_the_gradient_of_the_rest(drawn, transposed):
    torch.manual_seed(0)
    x = torch.randn(6, 8).requires_grad_()
    inner = x.t() if transposed else x
    y = dropout(inner, 0.25, training=True)
    kept = kept_mask(drawn[0], torch.empty(inner.shape))
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(y, inner * kept / 0.75)
    weights = torch.randn(inner.shape)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    expected = weights * kept / 0.75
    torch.testing.assert_close(gradient, expected.t() if transposed else expected)


def test_dropout_is_differentiable_twice():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def seeded(x):
        torch.manual_seed(0)
        return dropout(x, 0.3, training=True).square()

    torch.autograd.gradgradcheck(seeded, x)


def test_relu_dropout_is_both_in_one(drawn):
    torch.manual_seed(0)
    x = torch.randn(20, 16, requires_grad=True)
    reference = x.detach().clone().requires_grad_()
    y = relu_dropout_(x * 1, 0.3, training=True)
    expected = F.relu(reference) * kept_mask(drawn[0], y) / 0.7
    torch.testing.assert_close(y, expected)
    weights = torch.randn(20, 16)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, reference.grad)


def test_add_dropout_is_a_residual_connection(drawn):
    torch.manual_seed(0)
    residual, x = (torch.randn(20, 16, requires_grad=True) for _ in range(2))
    y = add_dropout_(residual, x * 1, 0.3, training=True)
    kept = kept_mask(drawn[0], y)
    torch.testing.assert_close(y, residual + x * kept / 0.7)
    weights = torch.randn(20, 16)
    (y * weights).sum().backward()
    torch.testing.assert_close(residual.grad, weights)
    torch.testing.assert_close(x.grad, weights * kept / 0.7)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_nothing_happens_without_dropout(p, training):
    x, residual = torch.randn(5, 4), torch.randn(5, 4)
    assert dropout(x, p, training) is x
    torch.testing.assert_close(add_dropout_(residual, x.clone(), p, training), residual + x)
    torch.testing.assert_close(relu_dropout_(x.clone(), p, training), x.relu())


def test_what_is_not_contiguous_is_dropped_too():
    torch.manual_seed(0)
    x = torch.randn(64, 32).t()
    y = relu_dropout_(x.clone(memory_format=torch.preserve_format), 0.5, training=True)
    z = add_dropout_(torch.zeros(32, 64), x.clone(memory_format=torch.preserve_format), 0.5, training=True)
    torch.testing.assert_close(y[y != 0], 2 * x.relu()[y != 0])
    torch.testing.assert_close(z[z != 0], 2 * x[z != 0])
    assert 0.4 < (z == 0).float().mean() < 0.6


def test_indices_of_several_rounds(monkeypatch):
    torch.manual_seed(0)
    # Draws half of what is needed in each round, where a single one suffices but for one time in 10^14.
    monkeypatch.setattr(
        "hf_mmalign.layers.kernels.dropout.math", SimpleNamespace(sqrt=lambda x: -x / 16, log1p=math.log1p)
    )
    count, p = 200_000, 0.1
    indices = dropped_indices(count, p)
    assert (indices.diff() > 0).all()
    assert indices[0] >= 0
    assert indices[-1] < count
    assert len(indices) / count == pytest.approx(p, abs=5 * (p * (1 - p) / count) ** 0.5)
    halves = torch.bincount(indices // (count // 8), minlength=8) / (count // 8)
    assert ((halves - p).abs() < 5 * (p * (1 - p) / (count // 8)) ** 0.5).all()
