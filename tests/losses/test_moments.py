from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import skew

from hf_mmalign.losses.moments import moments, semantic_loss
from tests.losses.problems import SIZES, assert_finite_with_gradient, samples


def equation_10(alone: list[torch.Tensor], reduction: str) -> float:
    total, pairs = 0.0, list(combinations([x.numpy() for x in alone], 2))
    reduce = np.sum if reduction == "sum" else np.mean
    for x, y in pairs:
        total += reduce((x.mean(0) - y.mean(0)) ** 2)
        total += reduce((np.cov(x.T) - np.cov(y.T)) ** 2)
        total += reduce((skew(x) - skew(y)) ** 2)
    modalities = len(alone)
    return total / (modalities * (modalities - 1)) if reduction == "sum" else total / len(pairs)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equation_10_on_the_present_samples(sizes, reduction):
    z, present, alone = samples(sizes)
    assert semantic_loss(z, present, reduction).item() == pytest.approx(equation_10(alone, reduction), rel=1e-10)


def test_skewness_is_standardised():
    x = torch.distributions.Gamma(2.0, 1.0).sample((1, 4000, 1)).double()
    skewness = moments(torch.cat([x, 100 * x + 7], dim=-1), torch.ones(1, 4000, dtype=torch.bool))[2]
    torch.testing.assert_close(skewness[0, 1], skewness[0, 0])
    np.testing.assert_allclose(skewness[0, 0].item(), skew(x.flatten().numpy()))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_modality_of_fewer_than_two_samples_leaves_every_pair(missing):
    z, present, alone = samples((6, missing, 5))
    expected = equation_10([alone[0], alone[2]], "mean")
    assert semantic_loss(z, present).item() == pytest.approx(expected, rel=1e-10)


def test_gradcheck():
    z, present, _ = samples((4, 5, 3), width=2)
    assert torch.autograd.gradcheck(lambda z: semantic_loss(z, present, "sum"), z.requires_grad_())


def test_degenerate_batches_are_finite():
    for sizes in [(1, 1), (0, 0), (0, 3, 0)]:
        z, present, _ = samples(sizes, dtype=torch.bfloat16)
        loss = semantic_loss(z.requires_grad_(), present)
        assert loss == 0
        assert_finite_with_gradient(loss, z)
    z, present = torch.ones(2, 4, 3, requires_grad=True), torch.ones(2, 4, dtype=torch.bool)
    assert_finite_with_gradient(semantic_loss(z, present), z)
    with torch.autocast("cpu", torch.bfloat16):
        z, present, alone = samples((6, 4, 5), dtype=torch.bfloat16)
        expected = equation_10([x.double() for x in alone], "mean")
        torch.testing.assert_close(semantic_loss(z, present), torch.tensor(expected).float())
