"""The loss of a decoder that is told the true tokens."""

import torch
import torch.nn.functional as F

IGNORED = -100


def token_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Mean over the tokens of a batch of their cross-entropy; padding does not count.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): Any float dtype; the loss is computed in fp32.
        labels (`torch.LongTensor` of shape `(B, T)`): Token ids, -100 where there is none.
        label_smoothing (`float`, *optional*, defaults to 0.0): Share of the target's probability that is spread evenly over
            the vocabulary.

    Returns:
        `torch.Tensor` of shape `()`, fp32; 0 for a batch without any token.
    """
    total = F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return total / (labels != IGNORED).sum().clamp(min=1)
