"""How large a model's embeddings are, so that noise can be measured in units of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..models.modeling_base import MultimodalModelMixin


@torch.no_grad()
def embedding_stds(
    model: MultimodalModelMixin, batches: Iterable[dict[str, Any]], modalities: Sequence[str]
) -> dict[str, float]:
    """The standard deviation of each modality's embeddings: the root of a dimension's mean variance over content tokens.

    What a dimension has in common for all tokens is no signal, and does not count.

    Args:
        model: A model of this package, in eval mode.
        batches (`Iterable[dict]`): What its `forward` takes, on its device; `labels` are left aside.
        modalities (`Sequence[str]`): Their names.

    Returns:
        `dict[str, float]`: By modality; 0 for one that has fewer than two tokens in all.
    """
    counts = dict.fromkeys(modalities, 0)
    means: dict[str, torch.Tensor] = {}
    squares: dict[str, torch.Tensor] = {}
    for batch in batches:
        embeddings = model.embed_modalities(**{name: value for name, value in batch.items() if name != "labels"})
        for name in modalities:
            if name not in embeddings:
                continue
            tokens = embeddings[name].tokens[embeddings[name].content_mask].cpu().double()
            if not len(tokens):
                continue
            mean, square = tokens.mean(dim=0), (tokens - tokens.mean(dim=0)).square().sum(dim=0)
            if name not in means:
                counts[name], means[name], squares[name] = len(tokens), mean, square
                continue
            # Chan, Golub and LeVeque's update, which loses no digits where means are large.
            before, counts[name] = counts[name], counts[name] + len(tokens)
            apart = mean - means[name]
            squares[name] += square + apart.square() * before * len(tokens) / counts[name]
            means[name] += apart * len(tokens) / counts[name]
    return {
        name: (squares[name] / counts[name]).mean().sqrt().item() if counts[name] > 1 else 0.0 for name in modalities
    }
