"""What every metric family shares."""

from collections.abc import Callable

import evaluate
import numpy as np
from transformers import EvalPrediction

IGNORED_LABEL = -100


class LocalMetric(evaluate.Metric):
    """An `evaluate.Metric` whose definition travels with this package, so that it loads and computes offline.

    Subclasses declare `_info` and a pure `score(predictions, references, **options)` of numpy arrays. `compute`,
    `add_batch` and `evaluate.combine` work as for any metric; code that already holds whole arrays calls `score` and
    saves the Arrow round trip (which takes longer than the scoring for multi-label problems).
    """

    def __init__(self, *args, keep_in_memory: bool = True, **kwargs):
        # Files in the shared cache would need locks, and there is one process here: Trainer gathers before it scores.
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate makes its cache folder even where nothing will be written, and so fails on a read-only home.
        return self._data_dir_root if self.keep_in_memory else super()._build_data_dir()

    def score(self, predictions: np.ndarray, references: np.ndarray, **options) -> dict[str, float]:
        raise NotImplementedError

    def _compute(self, predictions, references, **options) -> dict[str, float]:
        return self.score(np.asarray(predictions), np.asarray(references), **options)


def as_compute_metrics(
    family: Callable[[np.ndarray, np.ndarray], dict[str, float]],
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Turn a function of (logits, labels) into Trainer's `compute_metrics`.

    A model that returns more than logits makes Trainer hand over a tuple; its first element counts.
    """

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        if isinstance(logits, tuple | list):
            logits = logits[0]
        if prediction.label_ids is None:
            raise ValueError("Metrics need labels, and this data set has none (expected the column 'labels').")
        return family(np.asarray(logits), np.asarray(prediction.label_ids))

    return compute_metrics


def select_labelled(logits: np.ndarray, labels: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the samples whose label is missing, `missing` being `(N,)` bool.

    Raises:
        ValueError: If no label is left, lengths differ, or a prediction is NaN or infinite.
    """
    if len(logits) != len(labels):
        raise ValueError(f"{len(logits)} predictions for {len(labels)} labels.")
    if missing.all():
        raise ValueError(f"None of the {len(labels)} samples has a label: there is nothing to score.")
    broken = ~np.isfinite(logits.reshape(len(logits), -1)).all(axis=1)
    if broken.any():
        raise ValueError(
            f"The logits of {broken.sum()} of {len(logits)} samples hold NaN or Inf (first: sample {broken.argmax()}). "
            "Has training diverged, or a feature overflowed half precision?"
        )
    return logits[~missing], labels[~missing]
