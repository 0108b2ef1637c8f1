"""Sentiment strength on the scale of CH-SIMS, −1 (negative) to 1 (positive), as MMSA scores it."""

import numpy as np
from sklearn.metrics import f1_score

from .regression import MeanAbsoluteError, PearsonCorrelation, RegressionMetric, select_targets

_EDGES = {2: (0.0,), 3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}


class SimsSentiment(RegressionMetric):
    """MAE, Pearson correlation, Acc-2, Acc-3, Acc-5 and F1 of CH-SIMS. Predictions and references are clipped to ±1 first.

    - `sims_mae`, `sims_pearson`: of the clipped values, hence not comparable with `mae` and `pearson`.
    - `sims_acc2`, `sims_acc3`, `sims_acc5`: the share of samples whose prediction falls into the reference's interval.
      The edges are 0; −0.1 and 0.1; −0.7, −0.1, 0.1 and 0.7. An edge belongs to the interval below it, so Acc-2 tells
      ≤ 0 from > 0.
    - `sims_f1`: the mean of the F1 of the two classes of Acc-2, weighted by their number of true samples.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        predictions, references = np.clip(predictions, -1, 1), np.clip(references, -1, 1)
        scores = {
            "sims_mae": _MAE.score(predictions, references)["mae"],
            "sims_pearson": _PEARSON.score(predictions, references)["pearson"],
        }
        for classes in _EDGES:
            agree = sims_levels(predictions, classes) == sims_levels(references, classes)
            scores[f"sims_acc{classes}"] = float(np.mean(agree))
        f1 = f1_score(sims_levels(references, 2), sims_levels(predictions, 2), average="weighted", zero_division=0)
        return scores | {"sims_f1": float(f1)}


_MAE, _PEARSON, _SIMS = MeanAbsoluteError(), PearsonCorrelation(), SimsSentiment()


def sims_metrics(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of :class:`SimsSentiment`.

    Args:
        predictions (`np.ndarray` of shape `(N,)` or `(N, 1)`): Predicted sentiment strength.
        labels (`np.ndarray` of shape `(N,)` or `(N, 1)`): True sentiment strength; samples labelled NaN are left out.

    Raises:
        ValueError: If shapes do not fit, no label is given or a prediction is not finite.
    """
    predictions, labels = (values[:, 0] for values in select_targets(predictions, labels))
    return _SIMS.score(predictions, labels)


def sims_levels(values: np.ndarray, classes: int = 5) -> np.ndarray:
    """The intervals of Acc-2, Acc-3 or Acc-5 as class ids 0 … `classes` − 1, from negative to positive."""
    # In single precision, in which models predict and labels are stored: float32(0.1) exceeds the double 0.1, and so a
    # value on the edge would leave its interval.
    return np.digitize(values.astype(np.float32), np.float32(_EDGES[classes]), right=True)
