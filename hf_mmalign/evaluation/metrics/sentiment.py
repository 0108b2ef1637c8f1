"""Sentiment strength on the scale of CMU-MOSI and CMU-MOSEI, −3 (highly negative) to 3 (highly positive)."""

import warnings

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from .regression import MeanAbsoluteError, PearsonCorrelation, RegressionMetric, select_targets


class BinarySentiment(RegressionMetric):
    """Acc-2 and F1 of the sign of sentiment strengths, in the two readings that share these names in the literature.

    - `acc2_nonzero`, `f1_nonzero`: negative against positive. Samples whose reference is exactly 0 are left out; a
      prediction counts as positive where it is > 0. What most papers print, DecAlign's Table 1 among them ("Non0").
    - `acc2_with_zeros`, `f1_with_zeros`: negative against non-negative, over all samples. Positive is ≥ 0 on both sides
      ("Has0").

    F1 is the mean of the F1 of both classes weighted by their number of true samples (some public code swaps the
    arguments and weights by predicted samples). Where every reference is 0 the non-zero metrics are NaN, with a warning.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        polar = references != 0
        if polar.any():
            accuracy, f1 = _binary_scores(predictions[polar] > 0, references[polar] > 0)
        else:
            warnings.warn(
                f"All {len(references)} references are 0: Acc-2 and F1 of non-zero labels are not defined, hence NaN.",
                UserWarning,
                stacklevel=2,
            )
            accuracy = f1 = float("nan")
        scores = {"acc2_nonzero": accuracy, "f1_nonzero": f1}
        scores["acc2_with_zeros"], scores["f1_with_zeros"] = _binary_scores(predictions >= 0, references >= 0)
        return scores


class SentimentLevels(RegressionMetric):
    """Acc-5 and Acc-7: the share of samples whose prediction falls into the reference's sentiment level.

    A level is the value clipped to ±2 (`acc5`) or ±3 (`acc7`) and rounded to the nearest integer, on both sides. A value
    half-way between two integers goes to the even one, as `numpy.round` has it and with it MMSA and the papers that
    report from its code: 0.5 is level 0, 1.5 and 2.5 are level 2.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {
            f"acc{2 * bound + 1}": float(np.mean(_levels(predictions, bound) == _levels(references, bound)))
            for bound in (2, 3)
        }


_MAE, _PEARSON = MeanAbsoluteError(), PearsonCorrelation()
_BINARY, _LEVELS = BinarySentiment(), SentimentLevels()


def sentiment_metrics(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """MAE, Pearson correlation, Acc-2 and weighted F1 without and with zeros, Acc-5 and Acc-7.

    Args:
        predictions (`np.ndarray` of shape `(N,)` or `(N, 1)`): Predicted sentiment strength; MAE and correlation take it
            as it is, unclipped.
        labels (`np.ndarray` of shape `(N,)` or `(N, 1)`): True sentiment strength; samples labelled NaN are left out.

    Raises:
        ValueError: If shapes do not fit, no label is given or a prediction is not finite.
    """
    predictions, labels = (values[:, 0] for values in select_targets(predictions, labels))
    scores = {}
    for metric in (_MAE, _PEARSON, _BINARY, _LEVELS):
        scores |= metric.score(predictions, labels)
    return scores


def sentiment_levels(values: np.ndarray) -> np.ndarray:
    """The seven levels −3 … 3 of :class:`SentimentLevels` as class ids 0 … 6, int64, of the shape of `values`."""
    return _levels(values, 3) + 3


def _levels(values: np.ndarray, bound: int) -> np.ndarray:
    return np.round(np.clip(values, -bound, bound)).astype(np.int64)


def _binary_scores(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    f1 = f1_score(true, predicted, average="weighted", zero_division=0)
    return float(accuracy_score(true, predicted)), float(f1)
