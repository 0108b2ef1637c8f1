"""How a model's gate weighs modalities, and what it makes of a corrupted one (Figures 4 and 5 of DEF + AAF)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.rows import rows_by_batch
from ..models.modeling_base import MultimodalModelMixin
from ..perturbation.corruption import Corruption
from .differences import Difference
from .scores import Score

# Single precision, in which the order of a batch moves the last digits.
_NO_CHANGE = 1e-6


class NoGateError(ValueError):
    """A model that does not weigh its modalities."""


@dataclass(frozen=True)
class GateWeights:
    """A gate's weights of N samples, as they are and with one modality corrupted.

    Args:
        modalities (`tuple[str, ...]`): The model's M.
        clean (`np.ndarray` of shape `(N, M)`): float64, 0 where a sample misses a modality.
        corrupted (`dict[Corruption, np.ndarray]`): `(N, M)` each; NaN of the samples that have not the modality.
    """

    modalities: tuple[str, ...]
    clean: np.ndarray
    corrupted: dict[Corruption, np.ndarray]

    def rows(self, modality: str) -> np.ndarray:
        """`(N,)` bool: the samples whose weight of `modality` can move: they have it, and another one beside."""
        place = self.modalities.index(modality)
        return (self.clean[:, place] > 0) & ((self.clean > 0).sum(axis=1) > 1)

    def changes(self, corruption: Corruption) -> Difference:
        """By how much corruption moves the weight of its own modality, sample by sample, over :meth:`rows`."""
        place, rows = self.modalities.index(corruption.modality), self.rows(corruption.modality)
        moved = self.corrupted[corruption][rows, place] - self.clean[rows, place]
        return Difference(tuple(moved[np.isfinite(moved)].tolist()))

    def means(self, corruption: Corruption | None, modality: str) -> np.ndarray:
        """`(M,)` mean weights over the :meth:`rows` of `modality`, clean ones without a corruption."""
        weights = self.clean if corruption is None else self.corrupted[corruption]
        return np.nanmean(weights[self.rows(modality)], axis=0)


def share_falling(changes: Difference) -> float:
    """Share of the samples whose weight falls."""
    return float(np.mean(np.array(changes.values) < -_NO_CHANGE))


@dataclass(frozen=True)
class GateCurve:
    """What corruption of one modality does, over repetitions of one training.

    Args:
        modality (`str`): The one corrupted.
        corruptions (`tuple[Corruption, ...]`): L of them, the weakest first.
        weights (`dict[str, list[Score]]`): By modality its mean weight, clean and under each corruption: L + 1.
        falls (`list[Score]`): Share of samples in which the corrupted modality's own weight falls: L.
        changes (`list[Score]`): Mean change of that weight: L.
        within (`list[list[Difference]]`): The same change sample by sample, for each repetition: L of each.
    """

    modality: str
    corruptions: tuple[Corruption, ...]
    weights: dict[str, list[Score]]
    falls: list[Score]
    changes: list[Score]
    within: list[list[Difference]]

    @classmethod
    def of(cls, found: Sequence[GateWeights], modality: str) -> "GateCurve":
        """The curve of a modality over the repetitions `found`. Raises ValueError if none of a run's samples tells."""
        corruptions = tuple(each for each in found[0].corrupted if each.modality == modality)
        if not all(one.rows(modality).any() for one in found):
            raise ValueError(f"No sample has {modality!r} and another modality beside it for a gate to shift to.")
        means = [[one.means(step, modality) for step in (None, *corruptions)] for one in found]
        weights = {
            name: [Score(tuple(float(run[step][place]) for run in means)) for step in range(len(corruptions) + 1)]
            for place, name in enumerate(found[0].modalities)
        }
        within = [[one.changes(step) for step in corruptions] for one in found]
        by_level = list(zip(*within, strict=True))
        falls = [Score(tuple(share_falling(run) for run in runs)) for runs in by_level]
        return cls(
            modality, corruptions, weights, falls, [Score(tuple(r.mean for r in runs)) for runs in by_level], within
        )


@torch.inference_mode()
def measure_gate(
    model: MultimodalModelMixin,
    dataset: Any,
    *,
    collator: Any,
    corruptions: Sequence[Corruption],
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
    name: str = "gate",
) -> GateWeights:
    """The gate's weights of every sample, clean and under each corruption. The model is left in eval mode.

    A sample's noise is a function of the seed, its index and the modality alone: models are compared on the same noise.

    Args:
        model ([`MultimodalModelMixin`]): A model with a gate, on the device where it runs.
        dataset: N rows by index, with a column per modality.
        collator ([`MultimodalCollator`]): Makes the model's batches.
        corruptions (`Sequence[Corruption]`): Each of them for the whole data set.
        seed (`int`, *optional*, defaults to 0): Of the noise.
        batch_size (`int`, *optional*, defaults to 64): No weight depends on it.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar, with `name`.

    Raises:
        NoGateError: If the model does not weigh its modalities.
        ValueError: If a cell cannot be disturbed, or there is no row.
    """
    if len(dataset) == 0:
        raise ValueError("The data set to weigh is empty.")
    model.eval()
    modalities = tuple(model.config.modalities)
    clean = np.zeros((len(dataset), len(modalities)))
    corrupted = {corruption: np.full_like(clean, np.nan) for corruption in corruptions}

    def weigh(rows: list[dict[str, Any]]) -> np.ndarray:
        batch = {key: value for key, value in collator(rows).items() if key != "labels"}
        weights = model.gate_weights_of(**send_to_device(batch, model.device))
        if weights is None:
            raise NoGateError("The model does not weigh its modalities.")
        none = np.zeros(len(rows))
        return np.stack([weights[m].double().cpu().numpy() if m in weights else none for m in modalities], axis=1)

    loader, start = DataLoader(rows_by_batch(dataset), batch_size=batch_size, collate_fn=list), 0
    with tqdm(total=(1 + len(corruptions)) * len(dataset), desc=name, unit=" samples", disable=not progress) as bar:
        for rows in loader:
            clean[start : start + len(rows)] = weigh(rows)
            bar.update(len(rows))
            for corruption, found in corrupted.items():
                noisy = {
                    index: changed
                    for index, row in enumerate(rows, start)
                    if (changed := corruption.disturb(row, index, seed)) is not None
                }
                if noisy:
                    found[list(noisy)] = weigh(list(noisy.values()))
                bar.update(len(rows))
            start += len(rows)
    return GateWeights(modalities, clean, corrupted)
