"""Accuracy, AUROC and F1 of single-label and multi-label problems."""

import warnings

import evaluate
import numpy as np
from datasets import Features, Sequence, Value
from scipy.special import log_softmax, logit
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from .base import IGNORED_LABEL, LocalMetric, select_labelled


class ClassIdMetric(LocalMetric):
    """A metric of `(N,)` predicted and true class ids."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions, references: class ids",
            features=Features({"predictions": Value("int64"), "references": Value("int64")}),
        )


class Accuracy(ClassIdMetric):
    """The share of samples whose predicted class is the true one.

    Predictions and references are `(N,)` class ids.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class AUROC(LocalMetric):
    """Area under the receiver operating characteristic: the probability that a random positive sample scores higher
    than a random negative one (a tie counts half).

    Three configurations: `AUROC("binary")` (the default) takes `(N,)` scores of class 1; `AUROC("multiclass")`
    `(N, C)` scores and averages each class against the rest; `AUROC("multilabel")` `(N, C)` scores and `(N, C)` 0/1
    references and averages over labels. Scores are compared only within a column, so any increasing function of the
    probability will do. The average is unweighted and runs over the classes that have both positive and negative
    samples: where others are left out a warning names them; where none is left the value is NaN, with a warning.
    """

    def _info(self) -> evaluate.MetricInfo:
        scores, classes = Value("float64"), Value("int64")
        features = {
            "default": {"predictions": scores, "references": classes},
            "binary": {"predictions": scores, "references": classes},
            "multiclass": {"predictions": Sequence(scores), "references": classes},
            "multilabel": {"predictions": Sequence(scores), "references": Sequence(classes)},
        }
        if self.config_name not in features:
            raise ValueError(f"AUROC has the configurations {sorted(features)}, not {self.config_name!r}.")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions: scores, one per sample or one per sample and class; references: class ids",
            features=Features(features[self.config_name]),
        )

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        if self.config_name == "multiclass":
            references = references[:, None] == np.arange(predictions.shape[1])
        elif self.config_name != "multilabel":
            predictions, references = predictions[:, None], references[:, None]
        positives = references.sum(axis=0)
        defined = (positives > 0) & (positives < len(references))
        if not defined.any():
            warnings.warn("AUROC is not defined, hence NaN: all samples are of one class.", UserWarning, stacklevel=2)
            return {"auroc": float("nan")}
        if not defined.all():
            left_out = np.flatnonzero(~defined).tolist()
            warnings.warn(
                f"AUROC leaves out the classes {left_out}, of which there are only positive or only negative samples.",
                UserWarning,
                stacklevel=2,
            )
        # The Mann–Whitney statistic of all columns at once; scikit-learn's function takes several times as long.
        ranks = rankdata(predictions[:, defined], axis=0)
        positives = positives[defined]
        in_order = np.where(references[:, defined], ranks, 0).sum(axis=0) - positives * (positives + 1) / 2
        return {"auroc": float(np.mean(in_order / (positives * (len(references) - positives))))}


class F1(LocalMetric):
    """F1 = 2 TP / (2 TP + FP + FN), averaged over classes in three ways.

    - `f1_micro`: TP, FP and FN summed over classes first (equals accuracy where every sample has exactly one class);
    - `f1_macro`: the plain mean of the classes' F1;
    - `f1_weighted`: their mean weighted by the number of true samples of each class.

    `F1()` takes `(N,)` class ids and runs over the classes that occur in references or predictions, as scikit-learn
    does; `F1("multilabel")` takes `(N, C)` 0/1 arrays and runs over all C labels. A class without true and predicted
    samples has F1 0.
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "multilabel"):
            raise ValueError(f"F1 has the configurations 'default' and 'multilabel', not {self.config_name!r}.")
        classes = Sequence(Value("int64")) if self.config_name == "multilabel" else Value("int64")
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions, references: class ids, or 0/1 per sample and label",
            features=Features({"predictions": classes, "references": classes}),
        )

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        if self.config_name != "multilabel":
            classes = np.union1d(predictions, references)
            predictions, references = predictions[:, None] == classes, references[:, None] == classes
        predictions, references = predictions.astype(bool), references.astype(bool)
        true_positive, support = (predictions & references).sum(axis=0), references.sum(axis=0)
        doubled, total = 2 * true_positive, predictions.sum(axis=0) + support  # = 2 TP + FP + FN
        f1 = np.divide(doubled, total, out=np.zeros(len(total)), where=total > 0)
        return {
            "f1_micro": float(doubled.sum() / max(total.sum(), 1)),
            "f1_macro": float(f1.mean()),
            "f1_weighted": float((f1 * support).sum() / max(support.sum(), 1)),
        }


_ACCURACY, _F1, _F1_MULTILABEL = Accuracy(), F1(), F1("multilabel")
_AUROC_BINARY, _AUROC_MULTICLASS, _AUROC_MULTILABEL = AUROC("binary"), AUROC("multiclass"), AUROC("multilabel")


def single_label_metrics(logits: np.ndarray, labels: np.ndarray, num_labels: int) -> dict[str, float]:
    """Accuracy, AUROC (binary, or one against the rest) and F1 from logits.

    Args:
        logits (`np.ndarray` of shape `(N, num_labels)`): Scores before softmax.
        labels (`np.ndarray` of shape `(N,)`): Class ids; samples labelled -100 are left out.
        num_labels (`int`): Number of classes, at least 2.

    Raises:
        ValueError: If shapes do not fit, a label is outside the range, none is given or a logit is not finite.
    """
    logits, labels = select_classes(logits, labels, num_labels)
    predicted = logits.argmax(axis=1)
    # Differences and logarithms of probabilities: probabilities themselves saturate at 1.0 and tie.
    logits = logits.astype(np.float64)
    if num_labels == 2:
        auroc = _AUROC_BINARY.score(logits[:, 1] - logits[:, 0], labels)
    else:
        auroc = _AUROC_MULTICLASS.score(log_softmax(logits, axis=1), labels)
    return _ACCURACY.score(predicted, labels) | auroc | _F1.score(predicted, labels)


class PrecisionRecall(ClassIdMetric):
    """Precision, recall and F1, each the unweighted mean over the classes that occur in references or predictions.

    Predictions and references are `(N,)` class ids. A class that is never predicted has precision 0.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        *scores, _ = precision_recall_fscore_support(references, predictions, average="macro", zero_division=0)
        return dict(zip(("precision_macro", "recall_macro", "f1_macro"), map(float, scores), strict=True))


def precision_recall_metrics(logits: np.ndarray, labels: np.ndarray, num_labels: int) -> dict[str, float]:
    """Macro-averaged precision, recall and F1, and accuracy; arguments and errors as for :func:`single_label_metrics`."""
    logits, labels = select_classes(logits, labels, num_labels)
    predicted = logits.argmax(axis=1)
    return PrecisionRecall().score(predicted, labels) | _ACCURACY.score(predicted, labels)


def select_classes(logits: np.ndarray, labels: np.ndarray, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(N, num_labels)` and class ids `(N,)` of the labelled samples of a single-label problem.

    Arguments and errors as for :func:`single_label_metrics`.
    """
    labels = labels.reshape(-1)
    _check_width(logits, num_labels)
    logits, labels = select_labelled(logits, labels, labels == IGNORED_LABEL)
    if labels.min() < 0 or labels.max() >= num_labels:
        raise ValueError(
            f"Labels of {num_labels} classes are 0 … {num_labels - 1}; found {labels.min()} … {labels.max()}."
        )
    return logits, labels


def multi_label_metrics(
    logits: np.ndarray, labels: np.ndarray, num_labels: int, threshold: float = 0.5
) -> dict[str, float]:
    """F1 at a threshold on the probabilities, and AUROC, from logits.

    Args:
        logits (`np.ndarray` of shape `(N, num_labels)`): Scores before the sigmoid.
        labels (`np.ndarray` of shape `(N, num_labels)`): 0 or 1; samples with any label NaN or -100 are left out.
        num_labels (`int`): Number of labels.
        threshold (`float`, *optional*, defaults to 0.5): A label counts as predicted from this probability on.

    Raises:
        ValueError: If shapes do not fit, a label is neither 0 nor 1, none is given or a logit is not finite.
    """
    _check_width(logits, num_labels)
    if labels.shape != logits.shape:
        raise ValueError(f"Multi-label problems need labels of shape {logits.shape}, not {labels.shape}.")
    missing = (np.isnan(labels.astype(np.float64)) | (labels == IGNORED_LABEL)).any(axis=1)
    logits, labels = select_labelled(logits, labels, missing)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"Multi-label problems have labels 0 and 1; found {np.unique(labels)[:5].tolist()}.")
    labels = labels.astype(np.int64)
    predicted = (logits >= logit(threshold)).astype(np.int64)
    return _F1_MULTILABEL.score(predicted, labels) | _AUROC_MULTILABEL.score(logits.astype(np.float64), labels)


def _check_width(logits: np.ndarray, num_labels: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != num_labels:
        raise ValueError(f"Expected logits of shape (N, {num_labels}), got {logits.shape}.")
