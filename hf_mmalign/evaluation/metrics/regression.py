"""Mean absolute error and Pearson correlation."""

import warnings

import evaluate
import numpy as np
from datasets import Features, Value
from scipy.stats import pearsonr
from sklearn.metrics import mean_absolute_error

from .base import LocalMetric, select_labelled


class RegressionMetric(LocalMetric):
    """A metric of `(N,)` real predictions and references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions, references: real numbers",
            features=Features({"predictions": Value("float64"), "references": Value("float64")}),
        )


class MeanAbsoluteError(RegressionMetric):
    """MAE = mean |prediction − reference|, in the unit of the labels. Lower is better."""

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"mae": float(mean_absolute_error(references, predictions))}


class PearsonCorrelation(RegressionMetric):
    """Pearson's product-moment correlation of predictions and references, in [−1, 1].

    A side that does not vary carries no information about the other: the correlation is then 0, with a warning.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        for name, values in (("predictions", predictions), ("references", references)):
            if np.ptp(values) == 0:
                warnings.warn(
                    f"All {len(values)} {name} equal {float(values[0]):.6g}: the Pearson correlation is reported as 0.",
                    UserWarning,
                    stacklevel=2,
                )
                return {"pearson": 0.0}
        return {"pearson": float(pearsonr(predictions, references).statistic)}


_MAE, _PEARSON = MeanAbsoluteError(), PearsonCorrelation()


def regression_metrics(predictions: np.ndarray, labels: np.ndarray, num_labels: int = 1) -> dict[str, float]:
    """MAE and Pearson correlation; with several targets, the mean over targets of each.

    Args:
        predictions (`np.ndarray` of shape `(N,)` or `(N, num_labels)`): Regressed values.
        labels (`np.ndarray` of shape `(N,)` or `(N, num_labels)`): Samples with any label NaN are left out.
        num_labels (`int`, *optional*, defaults to 1): Number of targets.

    Raises:
        ValueError: If shapes do not fit, no label is given or a prediction is not finite.
    """
    predictions, labels = select_targets(predictions, labels, num_labels)
    targets = list(zip(predictions.T, labels.T, strict=True))
    return {
        "mae": float(np.mean([_MAE.score(*target)["mae"] for target in targets])),
        "pearson": float(np.mean([_PEARSON.score(*target)["pearson"] for target in targets])),
    }


def select_targets(predictions: np.ndarray, labels: np.ndarray, num_labels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of the labelled samples, `(N, num_labels)` float64 each.

    Arguments and errors as for :func:`regression_metrics`.
    """
    if predictions.size != len(predictions) * num_labels or labels.size != len(labels) * num_labels:
        raise ValueError(
            f"Expected predictions and labels of shape (N, {num_labels}), got {predictions.shape} and {labels.shape}."
        )
    predictions = predictions.reshape(-1, num_labels).astype(np.float64)
    labels = labels.reshape(-1, num_labels).astype(np.float64)
    return select_labelled(predictions, labels, np.isnan(labels).any(axis=1))
