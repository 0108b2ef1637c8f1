import math

import pytest
import torch
import torch.nn.functional as F

from hf_mmalign.losses.contrastive import label_positives, supervised_contrastive_loss
from tests.losses.problems import assert_finite_with_gradient


def naive(features: torch.Tensor, labels: list[int], temperature: float) -> float:
    """Khosla et al. 2020, Eq. 2, anchor by anchor."""
    z = F.normalize(features.double(), dim=1)
    terms = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        denominator = sum(math.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
        terms.append(-sum(math.log(math.exp(z[i] @ z[p] / temperature) / denominator) for p in positives))
        terms[-1] /= len(positives)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equation_2_by_loops(temperature):
    torch.manual_seed(0)
    features, labels = torch.randn(7, 5, dtype=torch.float64), [0, 1, 0, 2, 1, 0, 3]
    positives = label_positives(torch.tensor(labels), "single_label_classification", (-3, 3))
    loss = supervised_contrastive_loss(features, positives, temperature)
    assert loss.item() == pytest.approx(naive(features, labels, temperature), rel=1e-10)


def test_gradcheck():
    torch.manual_seed(0)
    positives = torch.tensor([0, 1, 0, 1]).unsqueeze(0) == torch.tensor([0, 1, 0, 1]).unsqueeze(1)
    features = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: supervised_contrastive_loss(x, positives), features)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_degenerate_batches_are_finite(size):
    alike, alone = torch.ones(size, size, dtype=torch.bool), torch.eye(size, dtype=torch.bool)
    for features in (torch.ones(size, 3), torch.zeros(size, 3), torch.randn(size, 3).bfloat16()):
        features.requires_grad_()
        assert_finite_with_gradient(supervised_contrastive_loss(features, alike), features)
        loss = supervised_contrastive_loss(features, alone)
        assert loss == 0
        assert_finite_with_gradient(loss, features)


def test_regression_labels_are_binned_by_rounding_to_seven_values():
    labels = torch.tensor([-3.4, -2.6, -0.4, 0.4, 0.6, 2.8, 1.4])
    bins = [-3, -3, 0, 0, 1, 3, 1]
    expected = torch.tensor([[a == b for b in bins] for a in bins])
    assert torch.equal(label_positives(labels, "regression", (-3, 3)), expected)
    # The same labels on another range fall into the same bins.
    assert torch.equal(label_positives(labels / 3, "regression", (-1, 1)), expected)
    assert torch.equal(label_positives((labels + 3).unsqueeze(1), "regression", (0, 6)), expected)


def test_labels_in_common():
    hot = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    expected = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    assert torch.equal(label_positives(hot.float(), "multi_label_classification", (-3, 3)), expected)


def test_rows_that_do_not_count_are_as_if_they_were_not_there():
    torch.manual_seed(0)
    features, labels = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 0, 0, 1, 2])
    positives = label_positives(labels, "single_label_classification", (-3, 3))
    kept = [0, 2, 4, 5]
    counted = torch.zeros(6, dtype=torch.bool)
    counted[kept] = True
    loss = supervised_contrastive_loss(features, positives, 0.5, counted)
    expected = supervised_contrastive_loss(features[kept], positives[kept][:, kept], 0.5)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient.isfinite().all()
    assert gradient[[1, 3]].abs().max() == 0
    for few in ([], [1]):
        counted = torch.zeros(6, dtype=torch.bool)
        counted[few] = True
        assert supervised_contrastive_loss(features, positives, 0.5, counted) == 0
