import warnings

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score
from transformers import EvalPrediction

from hf_mmalign.evaluation.metric_names import METRICS
from hf_mmalign.evaluation.metrics import (
    AUROC,
    F1,
    Accuracy,
    MeanAbsoluteError,
    PearsonCorrelation,
    compute_metrics_for,
    metric_names_for,
    multi_label_metrics,
    primary_metric,
    regression_metrics,
    single_label_metrics,
)

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def logits_of(probabilities):
    return np.log(np.asarray(probabilities))


def test_binary_metrics_of_a_hand_computed_case():
    # Scores of class 1 are 0.9, 0.4, 0.6, 0.2 for the labels 1, 1, 0, 0: predictions 1, 0, 1, 0.
    logits = logits_of([[0.1, 0.9], [0.6, 0.4], [0.4, 0.6], [0.8, 0.2]])
    metrics = single_label_metrics(logits, np.array([1, 1, 0, 0]), 2)
    assert metrics["accuracy"] == 0.5
    assert metrics["auroc"] == 0.75  # 3 of the 4 pairs of a positive and a negative are in order
    assert metrics["f1_macro"] == metrics["f1_weighted"] == metrics["f1_micro"] == 0.5


def test_multi_class_metrics_of_a_hand_computed_case():
    logits = logits_of([[0.8, 0.1, 0.1], [0.2, 0.45, 0.35], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    metrics = single_label_metrics(logits, np.array([0, 1, 2, 2]), 3)
    assert metrics["accuracy"] == 0.75
    # F1: class 0 has 1, class 1 has 2·1/(2·1+1), class 2 has 2·1/(2·1+1).
    assert metrics["f1_macro"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert metrics["f1_weighted"] == pytest.approx((1 * 1 + 1 * 2 / 3 + 2 * 2 / 3) / 4)
    # One against the rest: classes 0 and 1 order all 3 pairs; class 2 orders 3 of 4 (0.3 < 0.35).
    assert metrics["auroc"] == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_multi_label_metrics_of_a_hand_computed_case():
    probabilities = np.array([[0.9, 0.2, 0.6], [0.7, 0.4, 0.3], [0.2, 0.3, 0.8]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    metrics = multi_label_metrics(np.log(probabilities / (1 - probabilities)), labels, 3)
    # Label 0: TP 1, FP 1, FN 0; label 1: TP 0, FP 0, FN 1; label 2: TP 1, FP 1, FN 0.
    assert metrics["f1_micro"] == pytest.approx(4 / (4 + 2 + 1))
    assert metrics["f1_macro"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert metrics["f1_weighted"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert metrics["auroc"] == pytest.approx(1.0)


def test_the_threshold_of_multi_label_problems_is_a_probability():
    probabilities = np.array([[0.35, 0.1], [0.2, 0.9]])
    logits = np.log(probabilities / (1 - probabilities))
    labels = np.array([[1, 0], [0, 1]])
    assert multi_label_metrics(logits, labels, 2, threshold=0.3)["f1_micro"] == 1.0
    assert multi_label_metrics(logits, labels, 2, threshold=0.5)["f1_micro"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="threshold"):
        compute_metrics_for(MULTI, 2, threshold=1.0)


def test_a_single_label_of_a_multi_label_problem_scores_its_positive_class():
    logits, labels = np.array([[3.0], [-2.0], [1.0]]), np.array([[1.0], [1.0], [0.0]])
    metrics = multi_label_metrics(logits, labels, 1)
    assert metrics["f1_micro"] == metrics["f1_macro"] == metrics["f1_weighted"] == pytest.approx(0.5)


@given(st.integers(2, 6), st.integers(8, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_classification_agrees_with_scikit_learn(num_labels, count, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, num_labels)).astype(np.float32)
    labels = np.concatenate([np.arange(num_labels), rng.integers(0, num_labels, count - num_labels)])
    metrics = single_label_metrics(logits, labels, num_labels)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scores = probabilities[:, 1] if num_labels == 2 else probabilities
    assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"), abs=1e-12)
    for average in ("micro", "macro", "weighted"):
        expected = f1_score(labels, logits.argmax(axis=1), average=average)
        assert metrics[f"f1_{average}"] == pytest.approx(expected, abs=1e-12)


@given(st.integers(2, 6), st.integers(4, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_multi_label_agrees_with_scikit_learn(num_labels, count, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(count, num_labels)), rng.integers(0, 2, (count, num_labels))
    labels[0], labels[1] = 0, 1
    metrics = multi_label_metrics(logits, labels.astype(np.float32), num_labels)
    for average in ("micro", "macro", "weighted"):
        expected = f1_score(labels, logits > 0, average=average, zero_division=0)
        assert metrics[f"f1_{average}"] == pytest.approx(expected, abs=1e-12)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, logits, average="macro"), abs=1e-12)


def test_auroc_does_not_tie_where_probabilities_saturate():
    logits = np.array([[0, 40.0], [0, 41.0], [0, 42.0], [0, 43.0]], dtype=np.float32)
    assert single_label_metrics(logits, np.array([0, 0, 1, 1]), 2)["auroc"] == 1.0


def test_auroc_of_one_class_is_nan_and_says_so():
    with pytest.warns(UserWarning, match="AUROC is not defined"):
        metrics = single_label_metrics(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1, 1]), 2)
    assert np.isnan(metrics["auroc"])
    assert metrics["accuracy"] == 0.5


def test_auroc_names_the_classes_it_leaves_out():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    with pytest.warns(UserWarning, match=r"leaves out the classes \[2, 3\]"):
        metrics = single_label_metrics(logits, np.array([0, 0, 0, 1, 1, 1]), 4)
    assert np.isfinite(metrics["auroc"])


def test_constant_scores_have_auroc_one_half_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert single_label_metrics(np.zeros((4, 2)), np.array([0, 1, 0, 1]), 2)["auroc"] == 0.5


def test_regression_of_a_hand_computed_case():
    metrics = regression_metrics(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 2.0]))
    assert metrics["mae"] == pytest.approx(1.0)
    # Deviations (-4/3, -1/3, 5/3) and (-1, 1, 0): covariance sum 1, square sums 42/9 and 2.
    assert metrics["pearson"] == pytest.approx(1 / np.sqrt(42 / 9 * 2))


@pytest.mark.parametrize("constant", ["predictions", "references"])
def test_a_constant_side_has_correlation_zero_and_a_warning(constant):
    varying, flat = np.array([1.0, 2.0, 3.0]), np.full(3, 0.25)
    sides = (flat, varying) if constant == "predictions" else (varying, flat)
    with pytest.warns(UserWarning, match=f"{constant} equal 0.25"):
        assert regression_metrics(*sides)["pearson"] == 0.0


def test_several_regression_targets_are_averaged():
    rng = np.random.default_rng(0)
    predictions, labels = rng.normal(size=(2, 30, 3))
    metrics = regression_metrics(predictions, labels, num_labels=3)
    assert metrics["mae"] == pytest.approx(np.abs(predictions - labels).mean())
    expected = np.mean([np.corrcoef(predictions[:, k], labels[:, k])[0, 1] for k in range(3)])
    assert metrics["pearson"] == pytest.approx(expected)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI, REGRESSION])
def test_samples_with_a_missing_label_are_left_out(problem_type):
    rng = np.random.default_rng(0)
    width = 1 if problem_type == REGRESSION else 3
    logits = rng.normal(size=(20, width))
    if problem_type == SINGLE:
        labels, missing = np.arange(20) % 3, -100
    elif problem_type == MULTI:
        labels, missing = (rng.random((20, 3)) > 0.5).astype(float), np.nan
    else:
        labels, missing = rng.normal(size=20), np.nan
    compute = compute_metrics_for(problem_type, width)
    expected = compute(EvalPrediction(predictions=logits[4:], label_ids=labels[4:]))
    labels[:4] = missing
    assert compute(EvalPrediction(predictions=logits, label_ids=labels)) == pytest.approx(expected)
    labels[:] = missing
    with pytest.raises(ValueError, match="None of the 20 samples has a label"):
        compute(EvalPrediction(predictions=logits, label_ids=labels))


def test_compute_metrics_takes_the_logits_of_a_tuple():
    logits, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    compute = compute_metrics_for(SINGLE, 2)
    assert compute(EvalPrediction(predictions=(logits, np.zeros((2, 7))), label_ids=labels))["accuracy"] == 1.0


def test_broken_input_is_named():
    compute = compute_metrics_for(SINGLE, 2)
    logits = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"0 … 1; found 0 … 2"):
        compute(EvalPrediction(predictions=logits, label_ids=np.array([0, 1, 2])))
    with pytest.raises(ValueError, match="need labels"):
        compute(EvalPrediction(predictions=logits, label_ids=None))
    with pytest.raises(ValueError, match=r"shape \(N, 2\)"):
        compute(EvalPrediction(predictions=np.zeros((3, 5)), label_ids=np.zeros(3, dtype=int)))
    logits[1, 0] = np.nan
    with pytest.raises(ValueError, match=r"1 of 3 samples hold NaN or Inf \(first: sample 1\)"):
        compute(EvalPrediction(predictions=logits, label_ids=np.array([0, 1, 1])))
    with pytest.raises(ValueError, match=r"labels 0 and 1; found \[0\.0, 2\.0\]"):
        multi_label_metrics(np.zeros((2, 2)), np.array([[0, 2.0], [0, 0]]), 2)
    with pytest.raises(ValueError, match="'regression'"):
        compute_metrics_for("ranking", 2)
    with pytest.raises(ValueError, match="at least 2 classes"):
        compute_metrics_for(SINGLE, 1)


def test_primary_metric_is_always_computed_and_described():
    rng = np.random.default_rng(0)
    for problem_type, width in ((SINGLE, 2), (SINGLE, 5), (MULTI, 4), (REGRESSION, 1)):
        logits = rng.normal(size=(40, width))
        labels = {
            SINGLE: np.arange(40) % width,
            MULTI: (rng.random((40, width)) > 0.5).astype(float),
            REGRESSION: rng.normal(size=40),
        }[problem_type]
        metrics = compute_metrics_for(problem_type, width)(EvalPrediction(predictions=logits, label_ids=labels))
        name, greater_is_better = primary_metric(problem_type, width)
        assert name in metrics
        assert set(metrics) <= set(METRICS)
        assert METRICS[name].greater_is_better is greater_is_better


def test_metrics_are_evaluate_metrics_and_work_without_a_hub(tmp_path):
    for metric, predictions, references, name, expected in (
        (Accuracy(cache_dir=str(tmp_path)), [0, 1, 1], [0, 1, 0], "accuracy", 2 / 3),
        (AUROC(cache_dir=str(tmp_path)), [0.1, 0.8, 0.3], [0, 1, 0], "auroc", 1.0),
        (AUROC("multilabel", cache_dir=str(tmp_path)), [[0.1, 2], [0.8, -1]], [[0, 1], [1, 0]], "auroc", 1.0),
        (AUROC("multiclass", cache_dir=str(tmp_path)), [[2, 1, 0], [0, 1, 0], [0, 0, 1]], [0, 1, 2], "auroc", 11 / 12),
        (F1("multilabel", cache_dir=str(tmp_path)), [[0, 1], [1, 1]], [[0, 1], [1, 0]], "f1_micro", 0.8),
        (MeanAbsoluteError(cache_dir=str(tmp_path)), [1.0, 2.0], [1.5, 2.0], "mae", 0.25),
        (PearsonCorrelation(cache_dir=str(tmp_path)), [1.0, 2.0, 4.0], [2.0, 4.0, 8.0], "pearson", 1.0),
    ):
        assert isinstance(metric, evaluate.Metric)
        assert metric.description
        assert metric.compute(predictions=predictions, references=references)[name] == pytest.approx(expected)
        for prediction, reference in zip(predictions, references, strict=True):
            metric.add_batch(predictions=[prediction], references=[reference])
        assert metric.compute()[name] == pytest.approx(expected)

        assert not list(tmp_path.iterdir()), "metrics leave no files behind"


def test_metrics_combine():
    combined = evaluate.combine([Accuracy(), F1()])
    result = combined.compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
    assert result["accuracy"] == 0.75
    assert result["f1_micro"] == 0.75
    assert "f1_macro" in result


def test_unknown_configurations_are_refused():
    with pytest.raises(ValueError, match="'multiclass'"):
        AUROC("multi-class")
    with pytest.raises(ValueError, match="'multilabel'"):
        F1("binary")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("task", "one"),
    [
        ((SINGLE, 2), "auroc"),
        ((SINGLE, 5), "f1_macro"),
        ((MULTI, 3), "f1_macro"),
        ((REGRESSION, 1), "pearson"),
        ((REGRESSION, 1, "sentiment"), "acc7"),
        ((REGRESSION, 1, "sims"), "sims_acc3"),
        ((SINGLE, 6, "emotion"), "waf1"),
    ],
)
def test_names_are_known_before_anything_is_computed(task, one):
    names = metric_names_for(*task)
    assert one in names
    assert primary_metric(*task)[0] in names
    assert set(names) <= set(METRICS)
