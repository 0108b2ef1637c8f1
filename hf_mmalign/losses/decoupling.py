"""DecAlign's decoupling loss: modality-unique and modality-common features should not overlap."""

import torch

from ..ot.costs import full_precision, no_autocast

FORMS = ("squared_cosine", "cosine")


def decoupling_loss(
    unique: torch.Tensor, common: torch.Tensor, present: torch.Tensor, form: str = "squared_cosine"
) -> torch.Tensor:
    """Overlap of the unique and the common features of one modality, one summand of Eq. 1 of DecAlign.

    The cosine is taken between the whole sequences of a sample, as Eq. 1's product F_uni · F_comᵀ, and averaged over the
    samples. As printed (`form="cosine"`), its minimum is −1, at opposite features; our default, the squared cosine, has
    its minimum at orthogonal ones.

    Args:
        unique, common (`torch.Tensor` of shape `(B, T, d)`): F_uni and F_com, 0 on padding. Computed in fp32.
        present (`torch.BoolTensor` of shape `(B,)`): Samples that have the modality; the others do not count.
        form (`str`): One of `FORMS`.

    Returns:
        `torch.Tensor` of shape `()`, fp32; 0 where no sample has the modality. A zero sequence has cosine 0 and passes no
        gradient.
    """
    if form not in FORMS:
        raise ValueError(f"form is one of {FORMS}, not {form!r}.")
    with no_autocast(unique.device):
        unique, common = full_precision(unique).flatten(1), full_precision(common).flatten(1)  # (B, T·d)
        dot = torch.linalg.vecdot(unique, common)
        squares = torch.linalg.vecdot(unique, unique) * torch.linalg.vecdot(common, common)
        directed = squares > torch.finfo(squares.dtype).tiny
        cosine = dot * torch.where(directed, torch.where(directed, squares, 1).rsqrt(), 0)
        overlap = cosine.square() if form == "squared_cosine" else cosine
        return (overlap * present).sum() / present.sum().clamp(min=1)
