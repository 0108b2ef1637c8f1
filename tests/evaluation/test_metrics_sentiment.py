"""Sentiment and emotion metrics against cases computed by hand and against scikit-learn."""

import warnings

import evaluate
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score
from transformers import EvalPrediction

from hf_mmalign.evaluation.metric_names import METRICS
from hf_mmalign.evaluation.metrics import (
    BinarySentiment,
    EmotionScores,
    SentimentLevels,
    SimsSentiment,
    compute_metrics_for,
    emotion_metrics,
    precision_recall_metrics,
    primary_metric,
    sentiment_levels,
    sentiment_metrics,
    sims_levels,
    sims_metrics,
)

REGRESSION, SINGLE = "regression", "single_label_classification"


def test_sentiment_of_a_hand_computed_case():
    labels = np.array([-3.0, -1.2, 0.0, 0.0, 1.5, 2.5], dtype=np.float32)
    predictions = np.array([[-3.7], [0.4], [-0.2], [0.3], [2.0], [0.0]], dtype=np.float32)
    metrics = sentiment_metrics(predictions, labels)
    assert metrics["mae"] == pytest.approx((0.7 + 1.6 + 0.2 + 0.3 + 0.5 + 2.5) / 6)
    assert metrics["pearson"] == pytest.approx(np.corrcoef(predictions[:, 0], labels)[0, 1], abs=1e-6)
    # Non-zero: −, −, +, + against −, +, +, − (a prediction of 0 is not positive). Each class has TP 1, FP 1, FN 1.
    assert metrics["acc2_nonzero"] == 0.5
    assert metrics["f1_nonzero"] == pytest.approx(0.5)
    # With zeros: −, −, +, +, +, + against −, +, −, +, +, + (0 is positive on both sides).
    assert metrics["acc2_with_zeros"] == pytest.approx(4 / 6)
    # Negative: TP 1, FP 1, FN 1, F1 1/2, 2 samples. Positive: TP 3, FP 1, FN 1, F1 3/4, 4 samples.
    assert metrics["f1_with_zeros"] == pytest.approx((2 * 1 / 2 + 4 * 3 / 4) / 6)
    # Levels of 7: −3 −1 0 0 2 2 against −3 0 0 0 2 0; of 5: −2 −1 0 0 2 2 against −2 0 0 0 2 0.
    assert metrics["acc7"] == metrics["acc5"] == pytest.approx(4 / 6)


def test_f1_is_weighted_by_true_samples():
    # All four predictions positive, one of the references: weighting by predictions would give the F1 of that class alone.
    metrics = sentiment_metrics(np.array([1.0, 1.1, 1.2, 1.3]), np.array([1.0, -1.0, -1.0, -1.0]))
    assert metrics["f1_nonzero"] == pytest.approx((3 * 0 + 1 * 2 / 5) / 4)


@pytest.mark.parametrize(
    ("prediction", "label", "acc5", "acc7"),
    [
        (2.4, 3.0, 1, 0),  # beyond ±2 the five levels see no difference
        (0.5, 0.0, 1, 1),  # halves go to the even side
        (1.5, 2.0, 1, 1),
        (2.5, 2.0, 1, 1),
        (-0.5, 0.0, 1, 1),
        (-2.5, -3.0, 1, 0),
        (0.51, 0.0, 0, 0),
        (9.0, 3.0, 1, 1),
    ],
)
def test_levels_round_half_to_even_after_clipping(prediction, label, acc5, acc7):
    scores = SentimentLevels().score(np.array([prediction]), np.array([label]))
    assert scores == {"acc5": acc5, "acc7": acc7}


def test_class_ids_of_the_seven_levels():
    assert sentiment_levels(np.array([-5.0, -2.6, -0.4, 0.0, 0.5, 1.5, 2.9])).tolist() == [0, 0, 3, 3, 3, 5, 6]


def test_sims_of_a_hand_computed_case():
    labels = np.array([-1.0, -0.8, 0.0, 0.2, 0.8])
    predictions = np.array([-1.4, -0.6, 0.06, 0.1, 0.9])
    metrics = sims_metrics(predictions, labels)
    assert metrics["sims_mae"] == pytest.approx((0 + 0.2 + 0.06 + 0.1 + 0.1) / 5)
    assert metrics["sims_pearson"] == pytest.approx(np.corrcoef(np.clip(predictions, -1, 1), labels)[0, 1])
    assert metrics["sims_acc2"] == pytest.approx(4 / 5)  # 0 is the negative side, 0.06 the positive one
    assert metrics["sims_acc3"] == pytest.approx(4 / 5)  # 0.1 is still neutral
    assert metrics["sims_acc5"] == pytest.approx(3 / 5)  # −0.6 is only weakly negative
    # ≤ 0: TP 2, FN 1, F1 4/5, 3 samples. > 0: TP 2, FP 1, F1 4/5, 2 samples.
    assert metrics["sims_f1"] == pytest.approx(4 / 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_edge_of_sims_belongs_to_the_interval_below(dtype):
    edges = np.array([-1.0, -0.7, -0.1, 0.0, 0.1, 0.7, 1.0], dtype=dtype)
    assert sims_levels(edges).tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert sims_levels(edges, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert sims_levels(edges, 2).tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_emotions_of_a_hand_computed_case():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 0, 1, 1, 0, 5])
    metrics = emotion_metrics(np.eye(6)[predicted], labels, 6)
    assert metrics["wacc"] == pytest.approx(4 / 7)
    assert metrics["uacc"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    # F1: class 0 has 6/(6+1+1), class 1 has 2/(2+1+1), class 2 has 0.
    assert metrics["waf1"] == pytest.approx((4 * 6 / 8 + 2 * 2 / 4) / 7)


def test_precision_recall_and_f1_of_a_hand_computed_case():
    # Class 0: 2 of 3 predictions right, 2 of 2 found; class 1: 1 of 1, 1 of 3; class 2, of a prediction only: 0.
    labels, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 2])
    metrics = precision_recall_metrics(np.eye(4)[predicted], labels, 4)
    assert metrics["precision_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert metrics["recall_macro"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert metrics["f1_macro"] == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert metrics["accuracy"] == pytest.approx(0.6)
    assert compute_metrics_for(SINGLE, 4, metrics="prf")(EvalPrediction(np.eye(4)[predicted], labels)) == metrics


def test_emotions_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 6)), np.arange(200) % 6
    labels[rng.random(200) < 0.5] = 4
    metrics, predicted = emotion_metrics(logits, labels, 6), logits.argmax(axis=1)
    assert metrics["waf1"] == pytest.approx(f1_score(labels, predicted, average="weighted"))
    assert metrics["uacc"] == pytest.approx(balanced_accuracy_score(labels, predicted))


@pytest.mark.parametrize(("metrics", "key"), [("sentiment", "pearson"), ("sims", "sims_pearson")])
def test_constant_predictions_have_correlation_zero_and_one_warning(metrics, key):
    compute = compute_metrics_for(REGRESSION, 1, metrics=metrics)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = compute(EvalPrediction(np.full((4, 1), 0.3), np.array([-1.0, 0.0, 0.5, 1.0])))
    assert scores[key] == 0
    assert np.isfinite(list(scores.values())).all()
    assert ["predictions equal 0.3" in str(warning.message) for warning in caught] == [True]


def test_without_polar_labels_the_non_zero_metrics_are_not_defined():
    with pytest.warns(UserWarning, match="All 3 references are 0"):
        scores = BinarySentiment().score(np.array([-1.0, 0.0, 1.0]), np.zeros(3))
    assert np.isnan([scores["acc2_nonzero"], scores["f1_nonzero"]]).all()
    assert scores["acc2_with_zeros"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("metrics", "problem_type", "width"),
    [("sentiment", REGRESSION, 1), ("sims", REGRESSION, 1), ("emotion", SINGLE, 6), ("prf", SINGLE, 6)],
)
def test_every_family_is_described_skips_unlabelled_samples_and_refuses_nan(metrics, problem_type, width):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(30, width))
    labels = np.arange(30) % 6 if problem_type == SINGLE else rng.uniform(-1, 1, 30)
    compute = compute_metrics_for(problem_type, width, metrics=metrics)
    expected = compute(EvalPrediction(logits[5:], labels[5:]))
    labels[:5] = -100 if problem_type == SINGLE else np.nan
    assert compute(EvalPrediction(logits, labels)) == pytest.approx(expected)
    assert set(expected) <= set(METRICS)
    primary, greater_is_better = primary_metric(problem_type, width, metrics)
    assert primary in expected
    assert METRICS[primary].greater_is_better is greater_is_better
    logits[7] = np.nan
    with pytest.raises(ValueError, match=r"1 of 30 samples hold NaN or Inf \(first: sample 7\)"):
        compute(EvalPrediction(logits, labels))


@pytest.mark.parametrize(
    ("metrics", "problem_type", "width", "message"),
    [
        ("mosi", REGRESSION, 1, r"\['sentiment', 'sims', 'emotion', .*'multi30k'\]"),
        ("sentiment", SINGLE, 3, "sentiment is for regression of one target"),
        ("sims", REGRESSION, 2, "regression with 2 labels"),
        ("emotion", REGRESSION, 1, "emotion is for single-label"),
        ("emotion", SINGLE, 1, "at least 2 classes"),
    ],
)
def test_a_family_that_does_not_fit_is_refused(metrics, problem_type, width, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics_for(problem_type, width, metrics=metrics)


def test_they_are_evaluate_metrics():
    values, references = [0.5, -0.4, 0.9], [1.0, -1.0, -0.2]
    for metric, key in (
        (BinarySentiment(), "acc2_nonzero"),
        (SimsSentiment(), "sims_acc2"),
        (SentimentLevels(), "acc7"),
    ):
        assert isinstance(metric, evaluate.Metric)
        assert metric.compute(predictions=values, references=references)[key] == pytest.approx(
            metric.score(np.array(values), np.array(references))[key]
        )
    assert EmotionScores().compute(predictions=[0, 1, 1], references=[0, 1, 0])["wacc"] == pytest.approx(2 / 3)
