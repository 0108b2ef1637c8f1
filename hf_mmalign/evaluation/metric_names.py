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
    "precision_macro": MetricDescription(
        "precision macro",
        True,
        "unweighted mean over the classes that occur of the share of their predictions that is right",
    ),
    "recall_macro": MetricDescription(
        "recall macro", True, "unweighted mean over the classes that occur of the share of their samples that is found"
    ),
    "mae": MetricDescription("MAE", False, "mean absolute error, in the unit of the labels"),
    "pearson": MetricDescription(
        "Pearson r", True, "Pearson correlation of predictions and labels; 0 where one of them is constant"
    ),
    "acc2_nonzero": MetricDescription(
        "Acc-2 (non-zero)", True, "accuracy of negative against positive (> 0), samples labelled 0 left out"
    ),
    "f1_nonzero": MetricDescription(
        "F1 (non-zero)",
        True,
        "F1 of negative and of positive (> 0), weighted by their number of true samples, samples labelled 0 left out",
    ),
    "acc2_with_zeros": MetricDescription(
        "Acc-2 (with zeros)", True, "accuracy of negative (< 0) against non-negative (≥ 0), all samples"
    ),
    "f1_with_zeros": MetricDescription(
        "F1 (with zeros)",
        True,
        "F1 of negative (< 0) and of non-negative (≥ 0), weighted by their number of true samples, all samples",
    ),
    "acc5": MetricDescription(
        "Acc-5", True, "agreement of prediction and label after clipping to ±2 and rounding (half to even)"
    ),
    "acc7": MetricDescription(
        "Acc-7", True, "agreement of prediction and label after clipping to ±3 and rounding (half to even)"
    ),
    "sims_mae": MetricDescription("MAE (SIMS)", False, "mean absolute error after clipping to ±1"),
    "sims_pearson": MetricDescription(
        "Pearson r (SIMS)", True, "Pearson correlation after clipping to ±1; 0 where predictions or labels are constant"
    ),
    "sims_acc2": MetricDescription("Acc-2 (SIMS)", True, "accuracy of ≤ 0 against > 0"),
    "sims_acc3": MetricDescription(
        "Acc-3 (SIMS)", True, "accuracy over the intervals [−1, −0.1], (−0.1, 0.1] and (0.1, 1]"
    ),
    "sims_acc5": MetricDescription(
        "Acc-5 (SIMS)",
        True,
        "accuracy over the intervals [−1, −0.7], (−0.7, −0.1], (−0.1, 0.1], (0.1, 0.7] and (0.7, 1]",
    ),
    "sims_f1": MetricDescription("F1 (SIMS)", True, "F1 of ≤ 0 and of > 0, weighted by their number of true samples"),
    "bleu": MetricDescription(
        "BLEU", True, "BLEU-4 of the corpus in percent, by sacreBLEU with its default tokenization (13a), case kept"
    ),
    "bleu_1": MetricDescription("BLEU-1", True, "BLEU of single words, by sacreBLEU (13a), with the brevity penalty"),
    "bleu_2": MetricDescription("BLEU-2", True, "BLEU of up to two words in a row, by sacreBLEU (13a)"),
    "bleu_3": MetricDescription("BLEU-3", True, "BLEU of up to three words in a row, by sacreBLEU (13a)"),
    "bleu_4": MetricDescription("BLEU-4", True, "the same as BLEU"),
    "bleu_intl": MetricDescription(
        "BLEU (intl)", True, "BLEU-4 of the corpus in percent, by sacreBLEU with its international tokenization"
    ),
    "chrf": MetricDescription("chrF", True, "chrF2 of the corpus in percent, by sacreBLEU"),
    "meteor": MetricDescription(
        "METEOR (exact)",
        True,
        "METEOR of 2005 over the corpus in percent, by its stage of equal words alone, in lower case: the stages of stems, "
        "synonyms and paraphrases need resources of each language, so that published values are higher",
    ),
    "wacc": MetricDescription(
        "WAcc", True, "recall of every class weighted by its number of true samples, which is the plain accuracy"
    ),
    "uacc": MetricDescription("UAcc", True, "unweighted mean of the recall of every class"),
    "waf1": MetricDescription("WAF1", True, "F1 of every class weighted by its number of true samples"),
}


GREATER_IS_BETTER: dict[str, bool] = {name: metric.greater_is_better for name, metric in METRICS.items()}
