"""A model's predictions under noise on raw inputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.rows import rows_by_batch
from ..perturbation.protocols import (
    ALL_MODALITIES,
    WHITE_NOISE,
    NoiseProtocol,
    NoiseUnits,
    ProtocolName,
    WhiteNoise,
    check_epsilon,
)
from .scores import Condition


@dataclass(frozen=True)
class RawNoisePlan:
    """Which noise is put on the raw inputs, and how often.

    Attributes:
        protocol (`NoiseProtocol`, *optional*): The protocol.
        epsilons (`tuple[float, ...]`): Strengths of its noise, above 0; at 0 the data are clean.
        snrs (`tuple[float, ...]`): Signal-to-noise ratios of white noise, in decibels.
        modality_kinds (`dict[str, str | int]`): The modalities to disturb, each with its kind.
        seeds (`tuple[int, ...]`): One repetition each.
        statistics (`Mapping[str, FeatureStatistics]`): As of [`WhiteNoise`].
    """

    protocol: NoiseProtocol | None
    epsilons: tuple[float, ...]
    snrs: tuple[float, ...]
    modality_kinds: dict[str, str | int]
    seeds: tuple[int, ...]
    statistics: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        protocol: ProtocolName | None,
        units: NoiseUnits,
        epsilons: Sequence[float],
        snrs: Sequence[float],
        modality_kinds: Mapping[str, str | int],
        modalities: Sequence[str],
        seeds: tuple[int, ...],
        statistics: Mapping[str, Any],
    ) -> "RawNoisePlan":
        """Raises ValueError, naming the argument, for what is out of its range."""
        strengths = dict.fromkeys(check_epsilon(epsilon, "epsilons") for epsilon in epsilons)
        strengths.pop(0.0, None)
        if protocol is not None and not strengths:
            raise ValueError(f"epsilons is {list(epsilons)}; a protocol needs one above 0, for example 5 and 10.")
        kinds = {name: modality_kinds[name] for name in modalities}
        if snrs and set(kinds.values()) <= {"text", "image"}:
            raise ValueError(f"snrs is for waveforms and feature sequences, and the modalities are {kinds}.")
        ratios = tuple(dict.fromkeys(float(WhiteNoise(snr).snr) for snr in snrs))
        if protocol is None:
            return cls(None, (), ratios, kinds, seeds, statistics)
        return cls(NoiseProtocol(protocol, units), tuple(strengths), ratios, kinds, seeds, statistics)

    @property
    def conditions(self) -> list[Condition]:
        """Every test, in the order of the table."""
        numeric = [name for name, of in self.modality_kinds.items() if of not in ("text", "image")]
        of_protocol = [] if self.protocol is None else self.protocol.conditions(self.modality_kinds)
        return [
            *(Condition(kind, modality, epsilon) for modality, kind in of_protocol for epsilon in self.epsilons),
            *(Condition(WHITE_NOISE, modality, snr) for modality in numeric for snr in self.snrs),
        ]

    def disturbed(
        self, rows: Iterable[Mapping[str, Any]], start: int, condition: Condition, seed: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Of rows from number `start` on, those that a test changes: their numbers, and what they become."""
        whole = condition.modality == ALL_MODALITIES
        kinds = self.modality_kinds if whole else {condition.modality: self.modality_kinds[condition.modality]}
        if condition.kind == WHITE_NOISE:
            disturb = WhiteNoise(condition.level, statistics=self.statistics).disturb
        else:
            disturb = partial(self.protocol.disturb, kind=condition.kind, epsilon=condition.level)
        for index, row in enumerate(rows, start):
            noisy = disturb(row, kinds, index=index, seed=seed)
            if noisy is not None:
                yield index, noisy


def predict_under_raw_noise(
    plan: RawNoisePlan,
    dataset: Any,
    collate: Callable[[list], dict[str, Any]],
    forward: Callable[[dict[str, Any]], np.ndarray],
    clean: np.ndarray,
    batch_size: int,
    num_workers: int = 0,
    progress: bool = True,
) -> dict[Condition, list[np.ndarray]]:
    """Logits of the whole data set under each test, one array per seed.

    A sample's prediction depends on the sample alone, so only what the noise changes goes through the model again; the rest
    has its clean prediction. Samples are loaded once.

    Args:
        plan (`RawNoisePlan`): The tests.
        dataset: Rows with a column per modality, and a length.
        collate (`Callable`): Makes a batch of a list of rows.
        forward (`Callable`): Logits `(B, num_labels)` of a batch.
        clean (`np.ndarray`): Logits `(N, num_labels)` of the clean samples.
        batch_size, num_workers (`int`): Of loading.
        progress (`bool`): Show a progress bar.

    Raises:
        ValueError: If rows have no columns of the modalities, or a cell cannot be disturbed.
    """
    tests = [(condition, place, seed) for condition in plan.conditions for place, seed in enumerate(plan.seeds)]
    logits = {condition: [clean.copy() for _ in plan.seeds] for condition in plan.conditions}
    loader = DataLoader(rows_by_batch(dataset), batch_size=batch_size, collate_fn=list, num_workers=num_workers)
    start = 0
    with tqdm(total=len(tests) * len(loader), desc="raw noise", unit="pass", disable=not progress) as bar:
        for rows in loader:
            _check_columns(rows[0], plan.modality_kinds)
            for condition, place, seed in tests:
                changed = list(plan.disturbed(rows, start, condition, seed))
                if changed:
                    indices, noisy = zip(*changed, strict=True)
                    logits[condition][place][list(indices)] = forward(collate(list(noisy)))
                bar.update()
            start += len(rows)
    return logits


def _check_columns(row: Any, modality_kinds: Mapping[str, Any]) -> None:
    if not isinstance(row, Mapping) or not any(name in row for name in modality_kinds):
        found = list(row) if isinstance(row, Mapping) else type(row).__name__
        raise ValueError(
            f"Noise on raw inputs needs rows with the columns {list(modality_kinds)}, before any processing; found {found}."
        )
