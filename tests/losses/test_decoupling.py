import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine

from hf_mmalign.losses.decoupling import decoupling_loss
from tests.losses.problems import GARBAGE, assert_finite_with_gradient


def pair(batch=5, steps=3, width=4, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(batch)
    return (scale * torch.randn(2, batch, steps, width, generator=generator, dtype=dtype)).unbind()


@pytest.mark.parametrize("form", ["squared_cosine", "cosine"])
def test_the_mean_cosine_of_present_samples(form):
    unique, common = pair()
    present = torch.tensor([True, False, True, True, False])
    unique[1], common[4] = GARBAGE, -GARBAGE
    cosines = [1 - cosine(unique[n].flatten().numpy(), common[n].flatten().numpy()) for n in (0, 2, 3)]
    expected = sum(value**2 if form == "squared_cosine" else value for value in cosines) / 3
    assert decoupling_loss(unique, common, present, form).item() == pytest.approx(expected, rel=1e-12)


def test_where_each_form_has_its_minimum():
    x, present = torch.randn(1, 2, 4, dtype=torch.float64), torch.ones(1, dtype=torch.bool)
    orthogonal = torch.zeros_like(x)
    orthogonal[0, 0, :2] = torch.stack([-x[0, 0, 1], x[0, 0, 0]])
    assert decoupling_loss(x, orthogonal, present) == pytest.approx(0)
    assert decoupling_loss(x, -x, present) == pytest.approx(1)
    assert decoupling_loss(x, -x, present, "cosine") == pytest.approx(-1)


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_scale_does_not_matter(first, second):
    unique, common = pair(dtype=torch.float32)
    present = torch.ones(5, dtype=torch.bool)
    expected = decoupling_loss(unique, common, present)
    torch.testing.assert_close(decoupling_loss(first * unique, second * common, present), expected)


@pytest.mark.parametrize("form", ["squared_cosine", "cosine"])
def test_gradcheck(form):
    unique, common = (x.requires_grad_() for x in pair(3))
    present = torch.tensor([True, True, False])
    assert torch.autograd.gradcheck(lambda u, c: decoupling_loss(u, c, present, form), (unique, common))


def test_degenerate_batches_are_finite():
    ones = torch.ones(2, dtype=torch.bool)
    for unique, common in (pair(2), pair(2, dtype=torch.bfloat16), torch.zeros(2, 2, 3, 4), torch.ones(2, 2, 3, 4)):
        inputs = unique.clone().requires_grad_(), common.clone().requires_grad_()
        assert_finite_with_gradient(decoupling_loss(*inputs, ones), *inputs)
        absent = decoupling_loss(*inputs, ~ones)
        assert absent == 0
        assert_finite_with_gradient(absent, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert decoupling_loss(*pair(2, dtype=torch.bfloat16), ones).dtype == torch.float32


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form is one of"):
        decoupling_loss(*pair(), torch.ones(5, dtype=torch.bool), "sine")
