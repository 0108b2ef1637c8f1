"""What each modality's own head scores in an evaluation, beside the fused prediction."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from ..models.modeling_base import ModalityEmbedding

Gather = Callable[[torch.Tensor], torch.Tensor]


class UnimodalScores:
    """Collects `unimodal_logits` over an evaluation and scores them as the fused logits are.

    Args:
        modalities (`Sequence[str]`): Their names, in the config's order.
        gather (`Callable`): A tensor of a batch, first dimension B, to that of all processes.
    """

    def __init__(self, modalities: Sequence[str], gather: Gather):
        self.modalities, self.gather = list(modalities), gather
        self._present: dict[str, torch.Tensor] = {}
        self._logits: list[np.ndarray] = []
        self._having: list[np.ndarray] = []

    def hook(self, embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        """A modality hook, which sees who has what."""
        self._present = {name: embedding.present for name, embedding in embeddings.items()}
        return embeddings

    def add(self, outputs: dict[str, Any]) -> None:
        """Take the outputs of the batch that :meth:`hook` saw last. Collective."""
        fused, own = outputs["logits"], outputs.get("unimodal_logits") or {}
        none = torch.zeros(len(fused), dtype=torch.bool, device=fused.device)
        logits = torch.stack([own.get(name, torch.zeros_like(fused)) for name in self.modalities], dim=1)
        having = torch.stack([self._present.get(name, none) for name in self.modalities], dim=1)
        self._logits.append(self.gather(logits.detach().float()).cpu().numpy())
        self._having.append(self.gather(having).cpu().numpy())

    def metrics(self, compute: Callable[[EvalPrediction], dict[str, float]], labels: Any) -> dict[str, float]:
        """`<metric>_<modality>`: each metric over the samples that have the modality; none where no sample does."""
        if not self._logits or not isinstance(labels, np.ndarray):
            return {}
        logits, having = np.concatenate(self._logits), np.concatenate(self._having)
        found = {}
        for index, name in enumerate(self.modalities):
            rows = having[:, index] & _labelled(labels)
            if rows.any():
                scores = compute(EvalPrediction(predictions=logits[rows, index], label_ids=labels[rows]))
                found |= {f"{metric}_{name}": float(value) for metric, value in scores.items()}
        return found


def _labelled(labels: np.ndarray) -> np.ndarray:
    """`(N,)` bool: the samples with any label."""
    known = np.isfinite(labels) if np.issubdtype(labels.dtype, np.floating) else labels != -100
    return known.reshape(len(labels), -1).any(axis=1)
