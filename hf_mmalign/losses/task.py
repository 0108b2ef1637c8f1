"""The supervised loss of a classification or regression head."""

import torch
import torch.nn.functional as F

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


def infer_problem_type(labels: torch.Tensor, num_labels: int) -> str:
    """The problem type as transformers infers it: one output regresses, integers classify, floats are multi-hot."""
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def class_shares(labels: torch.Tensor, problem_type: str, num_labels: int) -> torch.Tensor | None:
    """`(B, num_labels)` fp32: each class's share in a sample's label, equal ones of several; None if there are no classes.

    Args:
        labels (`torch.Tensor`), problem_type (`str`): As for :func:`task_loss`. A row of zeros stands for a label of −100,
            and for a sample without any label.
    """
    if problem_type == "multi_label_classification":
        hot = labels.float()
        return hot / hot.sum(dim=1, keepdim=True).clamp(min=1)
    if problem_type != "single_label_classification":
        return None
    labels = labels.long().view(-1)
    return F.one_hot(labels.clamp(min=0), num_labels).float() * (labels >= 0).unsqueeze(1)


def task_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over samples of cross-entropy, binary cross-entropy or squared error.

    Args:
        logits (`torch.Tensor` of shape `(B, num_labels)`): Any float dtype; the loss is computed in fp32.
        labels (`torch.Tensor`): `(B,)` integers, `(B, num_labels)` multi-hot floats, or `(B,)` / `(B, num_labels)`
            floats, for single-label, multi-label and regression problems.
        problem_type (`str`): One of `PROBLEM_TYPES`.
        counted (`torch.BoolTensor` of shape `(B,)`, *optional*): The samples that the mean is over, all by default; without
            any, it is 0.

    Returns:
        `torch.Tensor` of shape `()`, fp32.

    Raises:
        ValueError: If the shapes or the problem type do not fit.
    """
    logits = logits.float()
    reduction = "mean" if counted is None else "none"
    losses = _losses(logits, labels, problem_type, reduction)
    if counted is None:
        return losses
    weight = counted.to(losses.dtype)
    return (losses.view(logits.shape[0], -1).mean(dim=1) * weight).sum() / weight.sum().clamp(min=1)


def _losses(logits: torch.Tensor, labels: torch.Tensor, problem_type: str, reduction: str) -> torch.Tensor:
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.long().view(-1), reduction=reduction)
    labels = labels.float()
    if problem_type == "regression" and labels.dim() == 1:
        labels = labels.unsqueeze(1)
    if problem_type not in PROBLEM_TYPES or labels.shape != logits.shape:
        raise ValueError(
            f"Labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)} for problem type "
            f"{problem_type!r} (one of {PROBLEM_TYPES})."
        )
    if problem_type == "regression":
        return F.mse_loss(logits, labels, reduction=reduction)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction=reduction)
