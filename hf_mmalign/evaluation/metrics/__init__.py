"""Metrics by task, computed locally: nothing here reaches for a Hub.

One file per family. A new family is a new file with its `evaluate.Metric` classes and a function of (logits, labels),
which :func:`as_compute_metrics` turns into what Trainer calls, and its lines in :mod:`..metric_names`.
"""

from collections.abc import Callable
from functools import partial

from transformers import EvalPrediction

from ..metric_names import GREATER_IS_BETTER
from .base import LocalMetric, as_compute_metrics
from .classification import AUROC, F1, Accuracy, multi_label_metrics, single_label_metrics
from .regression import MeanAbsoluteError, PearsonCorrelation, regression_metrics

__all__ = [
    "AUROC",
    "F1",
    "GREATER_IS_BETTER",
    "Accuracy",
    "LocalMetric",
    "MeanAbsoluteError",
    "PearsonCorrelation",
    "as_compute_metrics",
    "compute_metrics_for",
    "multi_label_metrics",
    "primary_metric",
    "regression_metrics",
    "single_label_metrics",
]


def compute_metrics_for(
    problem_type: str, num_labels: int, threshold: float = 0.5
) -> Callable[[EvalPrediction], dict[str, float]]:
    """The `compute_metrics` of Trainer and of :func:`hf_mmalign.evaluate_robustness` for one task.

    Args:
        problem_type (`str`): As in the model's config: `"single_label_classification"` gives accuracy, AUROC and F1;
            `"multi_label_classification"` F1 and AUROC; `"regression"` MAE and Pearson correlation.
        num_labels (`int`): Width of the logits.
        threshold (`float`, *optional*, defaults to 0.5): Probability (sigmoid of the logit) from which on a label of a
            multi-label problem counts as predicted.

    Raises:
        ValueError: If the problem type is unknown, a single-label problem has fewer than two classes, or the threshold
            lies outside (0, 1).
    """
    primary_metric(problem_type, num_labels)  # refuses what is no task of ours
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is a probability between 0 and 1, not {threshold}.")
    if problem_type == "regression":
        return as_compute_metrics(partial(regression_metrics, num_labels=num_labels))
    if problem_type == "multi_label_classification":
        return as_compute_metrics(partial(multi_label_metrics, num_labels=num_labels, threshold=threshold))
    return as_compute_metrics(partial(single_label_metrics, num_labels=num_labels))


def primary_metric(problem_type: str, num_labels: int) -> tuple[str, bool]:
    """The one metric that selects checkpoints and heads tables, and whether greater is better.

    Binary single-label problems: AUROC; more classes: accuracy; regression: MAE, all three as the WMA paper has them
    (section 4.1). Its "F1" on MM-IMDb is not specified. It reports 0.55 for a fine-tuned ViLT, where the weighted and
    the micro average of far weaker models already exceed 0.6, and the missing-modality literature on MM-IMDb uses the
    macro average: we read it as `f1_macro`.

    Raises:
        ValueError: If the problem type is unknown, or a single-label problem has fewer than two classes.
    """
    if problem_type == "single_label_classification":
        if num_labels < 2:
            raise ValueError(f"A single-label problem needs at least 2 classes, not num_labels={num_labels}.")
        return ("auroc", True) if num_labels == 2 else ("accuracy", True)
    if problem_type == "multi_label_classification":
        return "f1_macro", True
    if problem_type == "regression":
        return "mae", False
    raise ValueError(
        f"Unknown problem_type {problem_type!r}: it is 'single_label_classification', 'multi_label_classification' or "
        "'regression'."
    )
