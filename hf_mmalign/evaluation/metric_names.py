"""What each metric is called, which end of it is better, and how it is defined. No heavy imports here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricDescription:
    """A metric for readers of tables.

    Args:
        label (`str`): Its name in tables and plots.
        greater_is_better (`bool`): Which end is better.
        definition (`str`): One sentence that leaves no doubt which of its variants is meant.
    """

    label: str
    greater_is_better: bool
    definition: str


METRICS: dict[str, MetricDescription] = {
    "accuracy": MetricDescription("accuracy", True, "share of samples whose predicted class is the true one"),
    "auroc": MetricDescription(
        "AUROC",
        True,
        "area under the ROC curve; with several classes or labels the unweighted mean of each against the rest",
    ),
    "f1_micro": MetricDescription(
        "F1 micro", True, "F1 of the true and false positives of all classes counted together"
    ),
    "f1_macro": MetricDescription("F1 macro", True, "unweighted mean of the F1 of every class"),
    "f1_weighted": MetricDescription(
        "F1 weighted", True, "mean of the F1 of every class, weighted by its number of true samples"
    ),
    "mae": MetricDescription("MAE", False, "mean absolute error, in the unit of the labels"),
    "pearson": MetricDescription(
        "Pearson r", True, "Pearson correlation of predictions and labels; 0 where one of them is constant"
    ),
}


GREATER_IS_BETTER: dict[str, bool] = {name: metric.greater_is_better for name, metric in METRICS.items()}
