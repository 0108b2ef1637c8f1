"""Modality dropout: training samples lose modalities, so that a model learns to do with what is left."""

from dataclasses import dataclass

import torch

from ..models.modeling_base import ModalityEmbedding
from .modalities import MissingModality


@dataclass(frozen=True)
class ModalityDropout:
    """A modality hook that takes each modality from each sample with probability `p`, but never a sample's last one.

    A sample keeps the modality with the largest draw where all would go. What is taken leaves attention, pooling and losses
    as if the sample had never had it. Draws come from PyTorch's generator of the model's device.

    Args:
        p (`float`): In [0, 1).
    """

    p: float

    def __call__(self, embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        present = torch.stack([embedding.present for embedding in embeddings.values()])  # (M, B)
        draws = torch.rand(present.shape, device=present.device).masked_fill(~present, -1)
        kept = (draws >= self.p).scatter(0, draws.argmax(dim=0, keepdim=True), True)
        for name, keep in zip(list(embeddings), kept, strict=True):
            embeddings = MissingModality(name, ~keep, mode="mask")(embeddings)
        return embeddings
