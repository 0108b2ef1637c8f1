import math

import pytest
import torch

from hf_mmalign.losses.polarity import polarity_loss
from tests.losses.problems import assert_finite_with_gradient


def test_cross_entropy_on_the_sign_of_labels_that_have_one():
    logits, labels = torch.tensor([[0.3], [-1.2], [2.0], [0.1]]), torch.tensor([0.4, 0.0, -0.6, 1.0])
    probability = [1 / (1 + math.exp(-value)) for value in (0.3, 2.0, 0.1)]
    expected = -(math.log(probability[0]) + math.log(1 - probability[1]) + math.log(probability[2])) / 3
    assert polarity_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_degenerate_batches_are_finite():
    logits = torch.tensor([[1e4], [-1e4]], dtype=torch.bfloat16, requires_grad=True)
    assert_finite_with_gradient(polarity_loss(logits, torch.tensor([-1.0, 1.0])), logits)
    neutral = polarity_loss(logits, torch.zeros(2))
    assert neutral == 0
    assert_finite_with_gradient(neutral, logits)
