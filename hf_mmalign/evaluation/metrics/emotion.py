"""Emotion recognition, one emotion per sample (the six classes of IEMOCAP)."""

import numpy as np
from sklearn.metrics import accuracy_score, recall_score

from .classification import F1, ClassIdMetric, select_classes


class EmotionScores(ClassIdMetric):
    """Weighted and unweighted accuracy and weighted F1, over the classes that occur among the references.

    - `wacc`: the mean of the classes' recall weighted by their number of true samples, which is the plain accuracy.
    - `uacc`: the unweighted mean of the classes' recall, which does not reward a model for preferring frequent emotions.
    - `waf1`: the mean of the classes' F1 weighted by their number of true samples.

    Predictions and references are `(N,)` class ids.
    """

    def score(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        recall = recall_score(references, predictions, labels=np.unique(references), average="macro", zero_division=0)
        return {
            "wacc": float(accuracy_score(references, predictions)),
            "uacc": float(recall),
            "waf1": _F1.score(predictions, references)["f1_weighted"],
        }


_F1, _EMOTION = F1(), EmotionScores()


def emotion_metrics(logits: np.ndarray, labels: np.ndarray, num_labels: int) -> dict[str, float]:
    """WAcc, UAcc and WAF1 from logits.

    Args:
        logits (`np.ndarray` of shape `(N, num_labels)`): Scores before softmax.
        labels (`np.ndarray` of shape `(N,)`): Class ids; samples labelled -100 are left out.
        num_labels (`int`): Number of emotions, at least 2.

    Raises:
        ValueError: If shapes do not fit, a label is outside the range, none is given or a logit is not finite.
    """
    logits, labels = select_classes(logits, labels, num_labels)
    return _EMOTION.score(logits.argmax(axis=1), labels)
