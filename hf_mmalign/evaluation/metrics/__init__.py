"""Metrics by task, computed locally: nothing here reaches for a Hub.

One file per family. A new family is a new file with its `evaluate.Metric` classes and a function of (logits, labels),
which :func:`as_compute_metrics` turns into what Trainer calls, and its lines in :mod:`..metric_names` and, if it is chosen
by name, in `_FAMILIES` here.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from transformers import EvalPrediction

from ..metric_names import GREATER_IS_BETTER
from .base import LocalMetric, as_compute_metrics
from .classification import (
    AUROC,
    F1,
    Accuracy,
    PrecisionRecall,
    multi_label_metrics,
    precision_recall_metrics,
    single_label_metrics,
)
from .emotion import EmotionScores, emotion_metrics
from .regression import MeanAbsoluteError, PearsonCorrelation, regression_metrics
from .sentiment import BinarySentiment, SentimentLevels, sentiment_levels, sentiment_metrics
from .sims import SimsSentiment, sims_levels, sims_metrics
from .translation import (
    TRANSLATION_FAMILIES,
    TRANSLATION_METRICS,
    Bleu,
    ChrF,
    Meteor,
    TranslationMetrics,
    translation_metrics,
)

__all__ = [
    "AUROC",
    "F1",
    "GREATER_IS_BETTER",
    "Accuracy",
    "BinarySentiment",
    "Bleu",
    "ChrF",
    "EmotionScores",
    "LocalMetric",
    "MeanAbsoluteError",
    "Meteor",
    "PearsonCorrelation",
    "PrecisionRecall",
    "SentimentLevels",
    "SimsSentiment",
    "TranslationMetrics",
    "as_compute_metrics",
    "compute_metrics_for",
    "emotion_metrics",
    "metric_names_for",
    "multi_label_metrics",
    "precision_recall_metrics",
    "primary_metric",
    "regression_metrics",
    "sentiment_levels",
    "sentiment_metrics",
    "sims_levels",
    "sims_metrics",
    "single_label_metrics",
    "translation_metrics",
]


@dataclass(frozen=True)
class _Family:
    """Metrics that a field of research reports, for one problem type."""

    problem_type: str
    primary: str
    function: Callable[..., dict[str, float]] | None = (
        None  # of logits and labels; none of translations, which are texts
    )


_FAMILIES = {
    "sentiment": _Family("regression", "mae", sentiment_metrics),
    "sims": _Family("regression", "sims_mae", sims_metrics),
    "emotion": _Family("single_label_classification", "wacc", emotion_metrics),
    "prf": _Family("single_label_classification", "f1_macro", precision_recall_metrics),
    **{name: _Family("translation", scores[0]) for name, scores in TRANSLATION_FAMILIES.items()},
}


def compute_metrics_for(
    problem_type: str, num_labels: int, threshold: float = 0.5, metrics: str | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """The `compute_metrics` of Trainer and of :func:`hf_mmalign.evaluate_robustness` for one task.

    Args:
        problem_type (`str`): As in the model's config. Without `metrics`, `"single_label_classification"` gives accuracy,
            AUROC and F1; `"multi_label_classification"` F1 and AUROC; `"regression"` MAE and Pearson correlation.
        num_labels (`int`): Width of the logits.
        threshold (`float`, *optional*, defaults to 0.5): Probability (sigmoid of the logit) from which on a label of a
            multi-label problem counts as predicted.
        metrics (`str`, *optional*): What a field of research reports instead: `"sentiment"` (CMU-MOSI, CMU-MOSEI),
            `"sims"` (CH-SIMS), `"emotion"` (IEMOCAP) or `"prf"` (precision, recall, F1 and accuracy); see
            :func:`sentiment_metrics`, :func:`sims_metrics`, :func:`emotion_metrics` and :func:`precision_recall_metrics`.

    Raises:
        ValueError: If the problem type or `metrics` is unknown or they do not fit, a single-label problem has fewer than
            two classes, or the threshold lies outside (0, 1).
    """
    if problem_type == "translation":
        raise ValueError("Translations are scored by translation_metrics(processor), which knows the tokenizer.")
    primary_metric(problem_type, num_labels, metrics)  # refuses what is no task of ours
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is a probability between 0 and 1, not {threshold}.")
    if metrics is not None:
        function = _FAMILIES[metrics].function
        if problem_type == "single_label_classification":
            function = partial(function, num_labels=num_labels)
    elif problem_type == "regression":
        function = partial(regression_metrics, num_labels=num_labels)
    elif problem_type == "multi_label_classification":
        function = partial(multi_label_metrics, num_labels=num_labels, threshold=threshold)
    else:
        function = partial(single_label_metrics, num_labels=num_labels)
    return as_compute_metrics(function)


def metric_names_for(problem_type: str, num_labels: int, metrics: str | None = None) -> list[str]:
    """What :func:`compute_metrics_for` of these arguments computes; raises as it does."""
    if problem_type == "translation":
        primary_metric(problem_type, num_labels, metrics)
        return list(TRANSLATION_METRICS if metrics is None else TRANSLATION_FAMILIES[metrics])
    compute = compute_metrics_for(problem_type, num_labels, metrics=metrics)
    logits = np.eye(max(num_labels, 2), num_labels)
    labels = logits.argmax(axis=1) if problem_type == "single_label_classification" else logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(compute(EvalPrediction(logits, labels[:, 0] if num_labels == 1 else labels)))


def primary_metric(problem_type: str, num_labels: int, metrics: str | None = None) -> tuple[str, bool]:
    """The one metric that selects checkpoints and heads tables, and whether greater is better.

    Binary single-label problems: AUROC; more classes: accuracy; regression: MAE, all three as the WMA paper has them
    (section 4.1). Its "F1" on MM-IMDb is not specified. It reports 0.55 for a fine-tuned ViLT, where the weighted and
    the micro average of far weaker models already exceed 0.6, and the missing-modality literature on MM-IMDb uses the
    macro average: we read it as `f1_macro`.

    Translations: BLEU. Of the named families it is the first column of DecAlign's Tables 1 and 2: MAE, of CH-SIMS after
    clipping, and WAcc; of translations' families BLEU too.

    Raises:
        ValueError: If the problem type or `metrics` is unknown or they do not fit, or a single-label problem has fewer
            than two classes.
    """
    if metrics is not None:
        return _named_primary(problem_type, num_labels, metrics)
    if problem_type == "single_label_classification":
        if num_labels < 2:
            raise ValueError(f"A single-label problem needs at least 2 classes, not num_labels={num_labels}.")
        return ("auroc", True) if num_labels == 2 else ("accuracy", True)
    if problem_type == "multi_label_classification":
        return "f1_macro", True
    if problem_type == "regression":
        return "mae", False
    if problem_type == "translation":
        return "bleu", True
    raise ValueError(
        f"Unknown problem_type {problem_type!r}: it is 'single_label_classification', 'multi_label_classification', "
        "'regression' or 'translation'."
    )


def _named_primary(problem_type: str, num_labels: int, metrics: str) -> tuple[str, bool]:
    if metrics not in _FAMILIES:
        raise ValueError(f"metrics is one of {list(_FAMILIES)}, or left out; not {metrics!r}.")
    family = _FAMILIES[metrics]
    primary_metric(problem_type, num_labels)
    if problem_type != family.problem_type or (problem_type == "regression" and num_labels != 1):
        wanted = {
            "regression": "regression of one target",
            "single_label_classification": "single-label classification",
        }
        found = problem_type if problem_type == "translation" else f"{problem_type} with {num_labels} labels"
        raise ValueError(
            f"metrics: {metrics} is for {wanted.get(family.problem_type, family.problem_type)}, and this is a {found}. "
            "Leave it out, or choose the label column and task it is for."
        )
    return family.primary, GREATER_IS_BETTER[family.primary]
