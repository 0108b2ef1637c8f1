"""CAL's contribution metric and OGM-GE's coefficients, against numbers computed by hand in double precision."""

import math

import pytest
import torch
from torch.testing import assert_close

from hf_mmalign.losses.contribution import (
    cal_coefficients,
    contribution,
    contribution_sums,
    dynamic_potential,
    log_likelihood,
    measured,
    ogm_coefficients,
    performance_trend,
    smoothed_performance,
)
from hf_mmalign.losses.task import task_loss

LABELS = {
    "single_label_classification": torch.tensor([0, 2, 1, 1, 0]),
    "multi_label_classification": torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]]).float(),
    "regression": torch.tensor([[0.3, -1.0, 2.0], [0.1, 0.2, 0.4], [1.0, 3.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.5, 0.1]]),
}


def double(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("problem_type", LABELS)
def test_log_likelihoods_average_to_minus_the_task_loss(problem_type):
    scale = 2 if problem_type == "regression" else 1
    mean = -scale * log_likelihood(logits(0), LABELS[problem_type], problem_type).mean()
    assert_close(mean, task_loss(logits(0), LABELS[problem_type], problem_type))


def test_the_marginal_contribution_is_the_mean_gain_in_log_likelihood():
    labels, full, without = LABELS["single_label_classification"], logits(0), [logits(1), logits(2)]
    present = torch.ones(2, 5, dtype=torch.bool)
    sums = contribution_sums(full, without, without[::-1], labels, present, "single_label_classification")
    found = measured(sums, "single_label_classification")

    def log_probability(scores: torch.Tensor) -> list[float]:
        rows = scores.double().tolist()
        return [row[y] - math.log(sum(math.exp(v) for v in row)) for row, y in zip(rows, labels.tolist(), strict=True)]

    base = log_probability(full)
    for m in range(2):
        gains = [a - b for a, b in zip(base, log_probability(without[m]), strict=True)]
        assert found.phi[m].item() == pytest.approx(sum(gains) / 5, abs=1e-6)
        alone = without[1 - m]
        assert found.performance[m].item() == (alone.argmax(1) == labels).double().mean().item()
        truth = [math.exp(value) for value in log_probability(alone)]
        assert found.score[m].item() == pytest.approx(sum(truth) / 5, abs=1e-6)


def test_performance_of_several_labels_is_f1_and_of_values_r2():
    alone, present = [logits(1), logits(2)], torch.ones(2, 5, dtype=torch.bool)
    labels = LABELS["multi_label_classification"]
    sums = contribution_sums(logits(0), alone, alone, labels, present, "multi_label_classification")
    found = measured(sums, "multi_label_classification")
    for m in range(2):
        true, said = labels.bool(), alone[m] > 0
        precision, recall = (true & said).sum() / said.sum(), (true & said).sum() / true.sum()
        assert found.performance[m].item() == pytest.approx((2 * precision * recall / (precision + recall)).item())
        sure = torch.where(true, alone[m].sigmoid(), 1 - alone[m].sigmoid())
        assert found.score[m].item() == pytest.approx(sure.mean().item(), rel=1e-5)
    values = LABELS["regression"][:, 0]
    close, far, full = values[:, None] + 0.1, values[:, None] + 5.0, values[:, None] * 1.0
    found = measured(contribution_sums(full, [far, close], [close, far], values, present, "regression"), "regression")
    variance = values.double().var(correction=0).item()
    assert found.performance.tolist() == pytest.approx([1 - 0.01 / variance, 0.0], abs=1e-6)
    assert found.phi.tolist() == pytest.approx([12.5 / variance, 0.005 / variance], rel=1e-5)
    assert found.score.tolist() == pytest.approx([math.exp(-0.005 / variance), math.exp(-12.5 / variance)], rel=1e-5)


@pytest.mark.parametrize("problem_type", LABELS)
def test_sums_of_parts_of_a_batch_add_up_to_those_of_the_whole(problem_type):
    labels, present = LABELS[problem_type], torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 0, 1]]).bool()

    def sums(rows: slice) -> torch.Tensor:
        given = [logits(seed)[rows] for seed in range(5)]
        return contribution_sums(given[0], given[1:3], given[3:], labels[rows], present[:, rows], problem_type)

    assert_close(sums(slice(0, 2)) + sums(slice(2, 5)), sums(slice(0, 5)))


@pytest.mark.parametrize("problem_type", LABELS)
def test_only_samples_that_have_a_modality_count_for_its_performance(problem_type):
    labels, present = LABELS[problem_type], torch.tensor([[1, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    right = labels * 20 - 10 if problem_type != "single_label_classification" else torch.eye(3)[labels] * 20
    right = labels if problem_type == "regression" else right
    wrong = torch.where(present[0].unsqueeze(1), right, -right)
    full = logits(0)
    found = measured(contribution_sums(full, [full, full], [wrong, wrong], labels, present, problem_type), problem_type)
    assert found.performance[0].item() == pytest.approx(1.0)
    assert all(values[1].isnan() for values in found)
    assert found.phi[0] == 0


def test_labels_that_cross_entropy_ignores_count_nothing():
    labels = torch.tensor([0, -100, 1, -100, 0])
    rows = labels != -100
    present = torch.ones(2, 5, dtype=torch.bool)
    found = contribution_sums(
        logits(0), [logits(1)] * 2, [logits(2)] * 2, labels, present, "single_label_classification"
    )
    expected = contribution_sums(
        logits(0)[rows],
        [logits(1)[rows]] * 2,
        [logits(2)[rows]] * 2,
        labels[rows],
        present[:, rows],
        "single_label_classification",
    )
    assert_close(found, expected)


def test_equal_labels_have_no_variance_to_divide_by():
    same, far = torch.full((4,), 2.0), torch.zeros(4, 1)
    present = torch.ones(2, 4, dtype=torch.bool)
    found = measured(contribution_sums(far, [far] * 2, [far] * 2, same, present, "regression"), "regression")
    assert all(torch.isfinite(values).all() for values in found)


def test_smoothing_trend_and_potential():
    first, second, third = double(0.4, 0.8), double(0.6, 0.7), double(0.9, 0.7)
    one = smoothed_performance(first, None, 0.2)
    two = smoothed_performance(second, one, 0.2)
    three = smoothed_performance(third, two, 0.2)
    assert_close(one, first)
    assert_close(two, double(0.44, 0.78))
    assert_close(three, double(0.532, 0.764))
    assert_close(performance_trend(one.unsqueeze(0), 5), double(0.0, 0.0))
    trend = performance_trend(torch.stack([one, two, three]), 5)
    assert_close(trend, double(0.092 / 0.42, -0.016 / 0.79), atol=1e-7, rtol=1e-6)
    short = performance_trend(torch.stack([one, two, three]), 1)
    assert_close(short, double(0.092 / 0.44, -0.016 / 0.78), atol=1e-7, rtol=1e-6)
    expected = double(0.3 * 0.468 + 0.7 * 0.092 / 0.42, 0.3 * 0.236 - 0.7 * 0.016 / 0.79)
    assert_close(dynamic_potential(three, trend, 0.3), expected, atol=1e-7, rtol=1e-6)
    assert torch.isfinite(performance_trend(torch.zeros(3, 2, dtype=torch.float64), 5)).all()


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("phi_times_potential", [0.06, 0.0, 0.0]),
        ("phi", [0.3, 0.0, 1.0]),
        ("potential", [0.2, 0.5, 0.0]),
        ("phi_plus_potential", [0.5, 0.5, 1.0]),
        ("performance_times_potential", [0.18, 0.2, 0.0]),
    ],
)
def test_contributions_of_table_5_with_negative_parts_at_0(variant, expected):
    phi, potential, performance = double(0.3, -0.4, 1.0), double(0.2, 0.5, -0.1), double(0.9, 0.4, 0.8)
    assert_close(contribution(phi, potential, performance, variant), double(*expected))


def test_two_negative_parts_make_no_contribution():
    assert contribution(double(-0.5, 0.1), double(-0.6, 0.1), double(0.5, 0.5)).tolist() == [0, pytest.approx(0.01)]
    with pytest.raises(ValueError, match="not 'phi_r'"):
        contribution(double(1.0), double(1.0), double(1.0), "phi_r")


def test_coefficients_and_their_inverse():
    worth = double(0.1, 0.5, 0.2)
    parts = [math.exp(4 * w) for w in (0.1, 0.5, 0.2)]
    assert cal_coefficients(worth, 4.0).tolist() == pytest.approx([part / sum(parts) for part in parts])
    parts = [math.exp(-4 * w) for w in (0.1, 0.5, 0.2)]
    assert cal_coefficients(worth, -4.0).tolist() == pytest.approx([part / sum(parts) for part in parts])
    # The printed temperature multiplies: none at all is uniform.
    assert cal_coefficients(worth, 0.0).tolist() == pytest.approx([1 / 3] * 3)
    assert cal_coefficients(worth, 1e3).argmax() == 1


def test_ogm_weakens_what_is_ahead():
    coefficient, ratio = ogm_coefficients(double(0.6, 0.3), 0.8)
    assert ratio.tolist() == pytest.approx([2.0, 0.5])
    assert coefficient.tolist() == pytest.approx([1 - math.tanh(1.6), 1.0])
    coefficient, ratio = ogm_coefficients(double(0.6, 0.3, 0.1), 0.8)
    assert ratio.tolist() == pytest.approx([3.0, 0.3 / 0.35, 0.1 / 0.45])
    assert coefficient.tolist() == pytest.approx([1 - math.tanh(2.4), 1.0, 1.0])
    assert torch.isfinite(ogm_coefficients(double(0.5, 0.0), 0.8)[0]).all()
