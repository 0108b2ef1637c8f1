"""What logits say, in the words of a model's config: classes with probabilities, or values."""

from typing import Any

import numpy as np
from scipy.special import expit, softmax

# From this probability on, a label of a multi-label problem counts as predicted.
THRESHOLD = 0.5


def probabilities(logits: np.ndarray, problem_type: str | None) -> np.ndarray:
    """`(N, num_labels)` logits to probabilities of classes, or of each label; regressed values stay as they are."""
    if problem_type == "regression":
        return logits
    return expit(logits) if problem_type == "multi_label_classification" else softmax(logits, axis=-1)


def decide(logits: np.ndarray, config: Any) -> list[dict[str, Any]]:
    """One dict per sample of `(N, num_labels)` logits, of plain types.

    `prediction` is a class's name, a list of labels' names, a number, or a list of numbers; `probabilities`, by name, is
    there unless the problem is a regression.
    """
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    decisions = []
    for row in probabilities(logits.astype(np.float64), config.problem_type):
        values = [float(value) for value in row]
        if config.problem_type == "regression":
            decisions.append({"prediction": values[0] if len(values) == 1 else values})
            continue
        if config.problem_type == "multi_label_classification":
            chosen: Any = [name for name, value in zip(names, values, strict=True) if value >= THRESHOLD]
        else:
            chosen = names[int(np.argmax(row))]
        decisions.append({"prediction": chosen, "probabilities": dict(zip(names, values, strict=True))})
    return decisions
