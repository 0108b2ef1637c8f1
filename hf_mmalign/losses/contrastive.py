"""Supervised contrastive learning on a fused representation, the term "CT" of DecAlign's Table 4."""

import torch
import torch.nn.functional as F

from ..ot.costs import full_precision, no_autocast

NUM_BINS = 7


def supervised_contrastive_loss(
    features: torch.Tensor, positives: torch.Tensor, temperature: float = 0.1, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, Eq. 2): mean over anchors of −mean_p log softmax over the others.

    Args:
        features (`torch.Tensor` of shape `(B, d)`): Representations; compared by cosine in fp32.
        positives (`torch.BoolTensor` of shape `(B, B)`): Pairs that belong together; the diagonal is ignored.
        temperature (`float`): Divides the cosines.
        counted (`torch.BoolTensor` of shape `(B,)`, *optional*): The rows that there are; others are neither anchors nor
            compared with. All by default.

    Returns:
        `torch.Tensor` of shape `()`; 0 where no sample has a positive.
    """
    with no_autocast(features.device):
        directions = F.normalize(full_precision(features), dim=1)
        itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
        others = ~itself
        if counted is not None:
            others = others & counted & counted.unsqueeze(1)
        positives = positives & others
        logits = (directions @ directions.T / temperature).masked_fill(~others, -torch.inf)
        # Nor would it be anything else for a row that does not count, or alone does.
        logits = logits.masked_fill(~others.any(dim=1, keepdim=True), 0)
        # A batch of one has no others to compare with, and log_softmax of −inf alone would be NaN.
        if len(features) < 2:
            return directions.sum() * 0
        log_probability = logits.log_softmax(dim=1).masked_fill(~positives, 0)
        count = positives.sum(dim=1)
        per_anchor = -log_probability.sum(dim=1) / count.clamp(min=1)
        return per_anchor.sum() / (count > 0).sum().clamp(min=1)


def label_positives(labels: torch.Tensor, problem_type: str, label_range: tuple[float, float]) -> torch.Tensor:
    """`(B, B)` bool: the pairs of samples with the same class, the same bin of regression labels, or a common label.

    Args:
        labels (`torch.Tensor`): As for :func:`hf_mmalign.losses.task.task_loss`. Regression takes the first column.
        problem_type (`str`): One of `hf_mmalign.losses.task.PROBLEM_TYPES`.
        label_range (`tuple[float, float]`): Lowest and highest regression label: cut into 7 bins around 7 evenly spaced
            values, which for (−3, 3) are the integers.
    """
    if problem_type == "multi_label_classification":
        hot = labels.float()
        return hot @ hot.T > 0
    if problem_type == "regression":
        low, high = label_range
        centred = labels.float().reshape(len(labels), -1)[:, 0].clamp(low, high) - (low + high) / 2
        labels = (centred * ((NUM_BINS - 1) / (high - low))).round()
    labels = labels.reshape(-1)
    return labels.unsqueeze(0) == labels.unsqueeze(1)
