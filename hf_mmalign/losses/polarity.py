"""The sign of a regressed sentiment as a classification problem of its own."""

import torch
import torch.nn.functional as F


def polarity_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of regressed values, taken as logits, on the sign of the labels that are not 0.

    An addition of DecAlign's public code for CH-SIMS, without an equation in the paper.

    Args:
        logits (`torch.Tensor`), labels (`torch.Tensor`): Predicted and true values, of equally many entries.

    Returns:
        `torch.Tensor` of shape `()`, fp32; 0 where every label is 0.
    """
    logits, labels = logits.float().reshape(-1), labels.float().reshape(-1)
    signed = labels != 0
    losses = F.binary_cross_entropy_with_logits(logits, (labels > 0).float(), reduction="none")
    return (losses * signed).sum() / signed.sum().clamp(min=1)
