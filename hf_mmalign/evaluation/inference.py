"""What a model predicts for a data set, and its features of every modality, as arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from ..data.rows import rows_by_batch
from ..models.modeling_base import ModalityEmbedding, MultimodalModelMixin
from ..perturbation.modalities import MissingModality

FUSED = "fused"


@dataclass(frozen=True)
class Predictions:
    """A model's outputs for N samples, in their order.

    Args:
        logits (`np.ndarray` of shape `(N, num_labels)`): float32.
        labels (`np.ndarray` of shape `(N,)` or `(N, num_labels)`, *optional*): None where the data have none.
        modality_features (`dict[str, np.ndarray]`): `(N_m, d)` float32, the pooled feature of each of the `N_m` samples
            that have modality m.
    """

    logits: np.ndarray
    labels: np.ndarray | None
    modality_features: dict[str, np.ndarray]


def concatenated(parts: list[np.ndarray]) -> np.ndarray:
    """Arrays of batches as one; sequences of token ids, which are as long as each batch's longest, are padded with -100."""
    if parts[0].ndim == 2:
        width = max(part.shape[1] for part in parts)
        parts = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-100) for part in parts]
    return np.concatenate(parts)


@torch.no_grad()
def predict(
    model: MultimodalModelMixin, dataset: Any, data_collator: Callable[[list], dict[str, Any]], batch_size: int = 64
) -> Predictions:
    """Run a model of this package over a data set, on the device the model is on; it is left in eval mode.

    Raises:
        ValueError: If the data set is empty.
    """
    if len(dataset) == 0:
        raise ValueError("The data set to predict is empty.")
    model.eval()
    logits, labels = [], []
    features: dict[str, list[np.ndarray]] = {name: [] for name in model.config.modalities}
    embeddings: dict[str, ModalityEmbedding] = {}

    def observe(batch_embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        embeddings.clear()
        embeddings.update(batch_embeddings)
        return batch_embeddings

    handle = model.register_modality_hook(observe)
    try:
        for batch in DataLoader(rows_by_batch(dataset), batch_size=batch_size, collate_fn=data_collator):
            if "labels" in batch:
                labels.append(batch.pop("labels").numpy())
            output = model(**send_to_device(batch, model.device), output_modality_features=True)
            logits.append(output.logits.float().cpu().numpy())
            for name, values in output.modality_features.items():
                features[name].append(values[embeddings[name].present].float().cpu().numpy())
    finally:
        handle.remove()
    return Predictions(
        np.concatenate(logits),
        np.concatenate(labels) if labels else None,
        {name: np.concatenate(parts) for name, parts in features.items() if parts},
    )


@torch.no_grad()
def decision_features(
    model: MultimodalModelMixin, dataset: Any, data_collator: Callable[[list], dict[str, Any]], batch_size: int = 64
) -> dict[str, np.ndarray]:
    """What a model's classifier reads, of all modalities and of each alone: vectors of one space, whatever the model.

    Returns:
        `dict[str, np.ndarray]`: `(N, d)` float32 under `"fused"`, then `(N_m, d)` by modality, of the `N_m` samples that
        have it, with all others masked.

    Raises:
        ValueError: If the data set is empty.
    """
    if len(dataset) == 0:
        raise ValueError("The data set to predict is empty.")
    model.eval()
    modalities = list(model.config.modalities)
    features: dict[str, list[np.ndarray]] = {name: [] for name in (FUSED, *modalities)}
    seen: list[dict[str, ModalityEmbedding]] = []
    read: list[torch.Tensor] = []

    def keep(name: str, rows: torch.Tensor | slice) -> None:
        features[name].append(read[-1][rows].float().cpu().numpy())
        read.clear()

    def observe(embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        seen.append(dict(embeddings))
        return embeddings

    handles = [
        model.register_modality_hook(observe),
        model.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].flatten(1))),
    ]
    try:
        for batch in DataLoader(rows_by_batch(dataset), batch_size=batch_size, collate_fn=data_collator):
            inputs = send_to_device({key: value for key, value in batch.items() if key != "labels"}, model.device)
            seen.clear()
            model(**inputs)
            embeddings = seen[0]
            keep(FUSED, slice(None))
            for name in embeddings:
                alone = embeddings
                for other in (other for other in embeddings if other != name):
                    alone = MissingModality(other, mode="mask")(alone)
                model.logits_of_embeddings(alone, inputs)
                keep(name, embeddings[name].present)
    finally:
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(parts) for name, parts in features.items() if parts}
