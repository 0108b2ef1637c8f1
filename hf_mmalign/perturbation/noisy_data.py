"""Noise on the raw inputs of a training set, drawn anew in every epoch."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import torch
from torch.utils.data import Dataset

from .protocols import NoiseProtocol, RawNoiseKind, UnknownWords, WhiteNoise, check_epsilon

_OF_PROTOCOL = ("protocol", "kind", "epsilon")
# By the key that tells them, noises without a protocol: what they are, and what else may be said of them.
_OF_ITS_OWN: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "snr": (WhiteNoise, ("share",)),
    "unknown_words": (UnknownWords, ("token",)),
}


@dataclass(frozen=True)
class RowNoise:
    """Noise on the raw inputs of rows, a function of its seed, the epoch and which row it is.

    Args:
        modality_kinds (`Mapping[str, str | int]`): The modalities to disturb, as the config's `modality_kinds`.
        disturb (`Callable`): Makes a noisy row, or None, of a row, `modality_kinds` and the keywords `index`, `seed` and
            `epoch`: [`WhiteNoise.disturb`], [`UnknownWords.disturb`], or [`NoiseProtocol.disturb`] with its `kind` and
            `epsilon`.
        seed (`int`): Non-negative.
    """

    modality_kinds: Mapping[str, str | int]
    disturb: Callable[..., dict[str, Any] | None]
    seed: int = 0

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any],
        modality_kinds: Mapping[str, str | int],
        seed: int,
        argument: str = "train_noise",
        statistics: Mapping[str, Any] | None = None,
    ) -> "RowNoise":
        """The noise that the training argument `train_noise` describes, or an `argument` of another name.

        Args:
            settings (`Mapping[str, Any]`): `protocol`, `kind` and `epsilon`, and if need be `units` ("mvsa"); or `snr`, and
                if need be `share`, for [`WhiteNoise`]; or `unknown_words`, and if need be `token`, for [`UnknownWords`].
                Each with `modalities`, if not on all.
            modality_kinds (`Mapping[str, str | int]`): All modalities of the model.
            seed (`int`): Non-negative.
            argument (`str`): Named in errors.
            statistics (`Mapping[str, FeatureStatistics]`, *optional*): As of [`WhiteNoise`].

        Raises:
            ValueError: As :func:`check_noise`, and for a modality that the model does not have.
        """
        check_noise(settings, argument)
        chosen = settings.get("modalities") or list(modality_kinds)
        unknown = [name for name in chosen if name not in modality_kinds]
        if unknown:
            raise ValueError(f"{argument}: modalities has {unknown}, but there are {list(modality_kinds)}.")
        kinds = {name: modality_kinds[name] for name in chosen}
        alone = _own_noise(settings)
        if isinstance(alone, WhiteNoise):
            alone = replace(alone, statistics=dict(statistics or {}))
        if alone is not None:
            return cls(kinds, alone.disturb, seed)
        protocol = NoiseProtocol(settings["protocol"], settings.get("units", "mvsa"))
        return cls(kinds, partial(protocol.disturb, kind=settings["kind"], epsilon=float(settings["epsilon"])), seed)

    def __call__(self, row: Any, index: int, epoch: int) -> Any:
        """Row number `index` with its noise of this epoch, or as it is."""
        noisy = self.disturb(row, self.modality_kinds, index=index, seed=self.seed, epoch=epoch)
        return row if noisy is None else noisy

    def of_stream(self, row: Mapping[str, Any], epoch: int) -> Any:
        """A stream's row, which its `id` tells from others. Raises ValueError if it has none."""
        if row.get("id") is None:
            raise ValueError(
                f"train_noise draws for a stream's rows by their 'id'; one has the columns {list(row)} only."
            )
        name = hashlib.blake2b(str(row["id"]).encode("utf-8", "surrogatepass"), digest_size=8)
        return self(row, int.from_bytes(name.digest(), "little"), epoch)


class NoisyDataset(Dataset):
    """A data set with noise on its rows.

    The epoch lies in shared memory, so data-loading processes that are already running see it.

    Args:
        dataset: Anything with a length whose rows, by index, have a column per modality.
        noise (`RowNoise`): What is put on them.

    Raises:
        ValueError: If it has no length or no rows by index.
    """

    def __init__(self, dataset: Any, noise: RowNoise):
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise ValueError(
                f"train_noise needs a data set with rows by index, or a datasets.IterableDataset, not a "
                f"{type(dataset).__name__}."
            )
        self.dataset = dataset
        self.noise = noise
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def start_epoch(self, epoch: int) -> None:
        """Draw the noise of this epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.noise(self.dataset[index], int(index), int(self._epoch))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        if not hasattr(self.dataset, "__getitems__"):
            return [self[index] for index in indices]
        epoch, rows = int(self._epoch), self.dataset.__getitems__(indices)
        return [self.noise(row, int(index), epoch) for index, row in zip(indices, rows, strict=True)]


def check_noise(settings: Any, argument: str = "train_noise") -> None:
    """Raise ValueError, beginning with the name of the `argument`, unless it is what :meth:`RowNoise.of` takes."""
    protocol = "{protocol: qmf, kind: gaussian, epsilon: 5}"
    example = f"{argument} is, for example, {protocol}, {{snr: 10}} or {{unknown_words: 0.3}}"
    if not isinstance(settings, Mapping):
        raise ValueError(f"{example}, not {settings!r}.")
    own = next((key for key in _OF_ITS_OWN if key in settings), None)
    needed, optional = (_OF_PROTOCOL, ("units",)) if own is None else ((own,), _OF_ITS_OWN[own][1])
    known = (*needed, *optional, "modalities")
    wrong = [key for key in settings if key not in known] + [key for key in needed if key not in settings]
    if wrong:
        raise ValueError(f"{example}; {wrong[0]!r} {'is no key of it' if wrong[0] in settings else 'is missing'}.")
    if own is not None:
        try:
            _own_noise(settings)
        except ValueError as error:
            raise ValueError(f"{argument}: {own}: {error}") from error
        return
    if settings["kind"] not in get_args(RawNoiseKind):
        raise ValueError(f"{argument}: kind is one of {get_args(RawNoiseKind)}, not {settings['kind']!r}.")
    check_epsilon(settings["epsilon"], f"{argument}: epsilon")
    try:
        NoiseProtocol(settings["protocol"], settings.get("units", "mvsa"))
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error


def _own_noise(settings: Mapping[str, Any]) -> Any:
    """The noise of settings that name no protocol; None of others."""
    for key, (noise, optional) in _OF_ITS_OWN.items():
        if key in settings:
            return noise(settings[key], **{name: settings[name] for name in optional if name in settings})
    return None
