import threading

import pytest
import torch
import torch.nn.functional as F

from hf_mmalign.layers.kernels import attention as module
from hf_mmalign.layers.kernels.attention import attention
from hf_mmalign.layers.kernels.dropout import dropped_indices


def make_inputs(scale: float = 1.0, batch: int = 3, heads: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(batch, heads, 5, 4), (batch, heads, 7, 4), (batch, heads, 7, 4)]
    queries, keys, values = (torch.randn(shape) for shape in shapes)
    return [part.requires_grad_() for part in (queries * scale, keys, values)]


def results(function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The output, and the gradients of a fixed functional of it."""
    output = function(*inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad((output * weights).sum(), inputs)]


def in_double(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [part.detach().double().requires_grad_() for part in inputs]


def some_keys() -> torch.Tensor:
    mask = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    mask[0, ..., 3:] = False
    mask[2, ..., 0] = False
    return mask


@pytest.mark.parametrize(
    "mask", [None, torch.ones(3, 1, 1, 7, dtype=torch.bool), some_keys()], ids=["no", "all", "some"]
)
@pytest.mark.parametrize("block_bytes", [1, 300, 1 << 20])  # blocks of one row, of two, and all rows in one
def test_values_and_gradients_are_those_of_pytorch(mask, block_bytes, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    inputs = make_inputs()
    ours = results(lambda *qkv: attention(*qkv, mask), inputs)
    reference = results(lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=mask), in_double(inputs))
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=2e-6, rtol=1e-5)


def test_scores_far_beyond_the_range_of_exp():
    inputs = make_inputs(scale=300)  # scores in the hundreds, whose exponentials overflow
    ours = results(attention, inputs)
    reference = results(F.scaled_dot_product_attention, in_double(inputs))
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("score", [-200.0, -40.0, 40.0, 200.0])
def test_a_common_shift_of_all_scores_changes_nothing(score):
    """The softmax does not see it, whether or not its exponentials overflow or vanish."""
    queries, keys, values = (part.detach() for part in make_inputs())
    reference = F.scaled_dot_product_attention(*(part.double() for part in (queries, keys, values)))
    # A fifth feature, 1 in every query, adds a constant; d grows from 4 to 5, which the scale of the queries makes up for.
    scale = (5 / 4) ** 0.5
    queries = torch.cat([queries * scale, torch.ones(3, 2, 5, 1)], dim=-1).requires_grad_()
    keys = torch.cat([keys, torch.full((3, 2, 7, 1), score * 5**0.5)], dim=-1)
    values = torch.cat([values, torch.zeros(3, 2, 7, 1)], dim=-1)
    output = attention(queries, keys, values)
    torch.testing.assert_close(output[..., :4].double(), reference, atol=1e-4, rtol=1e-4)
    output.sum().backward()
    assert torch.isfinite(queries.grad).all()


def test_a_sample_without_any_key_has_zeros():
    mask = some_keys()
    mask[1] = False
    inputs = make_inputs()
    ours = results(lambda *qkv: attention(*qkv, mask), inputs)
    reference = results(lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=mask), in_double(inputs))
    assert not ours[0][1].any()
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_not_hidden(bad):
    queries, keys, values = make_inputs()
    with torch.no_grad():
        keys[1, 0, 2, 1] = bad
    output = attention(queries, keys, values)
    assert output[1, 0].isnan().any()
    assert torch.isfinite(output[[0, 2]]).all()


@pytest.mark.parametrize("scale", [1.0, 100.0])  # without and with the largest score subtracted
@pytest.mark.parametrize("masked", [False, True])
def test_dropout_is_that_of_the_weights(scale, masked, monkeypatch):
    """Against the plain formula with the same weights dropped, of which there is one block here."""
    p, inputs, mask = 0.4, make_inputs(scale), some_keys() if masked else None
    seen = []
    monkeypatch.setattr(module, "dropped_indices", lambda *args: seen.append(dropped_indices(*args)) or seen[-1])
    ours = results(lambda *qkv: attention(*qkv, mask, p), inputs)
    (dropped,) = seen

    def plain(queries, keys, values):
        scores = queries @ keys.mT / 2
        if masked:
            scores = scores.masked_fill(~mask, -torch.inf)
        kept = torch.ones(6, 7, 5, dtype=torch.float64)
        kept.view(-1)[dropped] = 0  # keys before queries
        return (scores.softmax(-1) * kept.mT.view(3, 2, 5, 7) / (1 - p)) @ values

    assert len(dropped) > 0
    for mine, theirs in zip(ours, results(plain, in_double(inputs)), strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-6 * max(1, scale**2), rtol=1e-4)


def test_dropout_follows_the_seed_and_keeps_the_mean():
    queries, keys, values = (part.detach() for part in make_inputs())
    runs = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        runs.append(attention(queries, keys, values, dropout_p=0.3))
    torch.testing.assert_close(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])
    torch.manual_seed(0)
    mean = torch.stack([attention(queries, keys, values, dropout_p=0.3) for _ in range(1000)]).mean(dim=0)
    torch.testing.assert_close(mean, attention(queries, keys, values), atol=0.16, rtol=0)  # over 5 standard errors


def test_other_precisions_take_the_stock_path(monkeypatch):
    monkeypatch.setattr(module, "_BlockwiseAttention", None)
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [part.detach().to(dtype).requires_grad_() for part in make_inputs()]
        torch.testing.assert_close(attention(*inputs), F.scaled_dot_product_attention(*inputs))
    torch.autograd.gradcheck(attention, in_double(make_inputs(batch=1)))


def test_training_goes_on_after_inference_mode(monkeypatch):
    monkeypatch.setattr(module, "_scratch", threading.local())  # as in a process whose first call this is
    inputs = [torch.randn(2, 2, 5, 4, requires_grad=True) for _ in range(3)]
    with torch.inference_mode():
        attention(*inputs, dropout_p=0.3)
    attention(*inputs).sum().backward()
    reference = torch.autograd.grad(F.scaled_dot_product_attention(*inputs).sum(), inputs)
    for part, expected in zip(inputs, reference, strict=True):
        torch.testing.assert_close(part.grad, expected, atol=1e-5, rtol=1e-4)
