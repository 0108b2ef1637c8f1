"""Noise on the raw inputs of a training set, drawn anew in every epoch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import torch
from torch.utils.data import Dataset

from .protocols import NoiseProtocol, RawNoiseKind, WhiteNoise, check_epsilon

_OF_PROTOCOL = ("protocol", "kind", "epsilon")


class NoisyDataset(Dataset):
    """A data set with noise on the raw inputs of its rows; what the draw leaves out is unchanged.

    The noise of a sample depends on seed, epoch and its index alone. The epoch lies in shared memory, so data-loading
    processes that are already running see it.

    Args:
        dataset: Anything with a length whose rows, by index, have a column per modality.
        modality_kinds (`Mapping[str, str | int]`): The modalities to disturb, as the config's `modality_kinds`.
        disturb (`Callable`): Makes a noisy sample, or None, of a row, `modality_kinds` and the keywords `index`, `seed` and
            `epoch`: [`WhiteNoise.disturb`], or [`NoiseProtocol.disturb`] with its `kind` and `epsilon`.
        seed (`int`): Non-negative.
    """

    def __init__(
        self,
        dataset: Any,
        modality_kinds: Mapping[str, str | int],
        disturb: Callable[..., dict[str, Any] | None],
        seed: int = 0,
    ):
        self.dataset = dataset
        self.modality_kinds = dict(modality_kinds)
        self.disturb = disturb
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def start_epoch(self, epoch: int) -> None:
        """Draw the noise of this epoch from now on."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        row, index = self.dataset[index], int(index)
        noisy = self.disturb(row, self.modality_kinds, index=index, seed=self.seed, epoch=int(self._epoch))
        return row if noisy is None else noisy


def noisy_dataset(
    dataset: Any, modality_kinds: Mapping[str, str | int], settings: Mapping[str, Any], seed: int
) -> NoisyDataset:
    """The data set with the noise that the training argument `train_noise` describes.

    Args:
        dataset, seed: As for :class:`NoisyDataset`.
        modality_kinds (`Mapping[str, str | int]`): All modalities of the model.
        settings (`Mapping[str, Any]`): `protocol`, `kind` and `epsilon`, and if need be `units` ("mvsa"); or `snr`, for
            [`WhiteNoise`]. Either with `modalities`, if not on all.

    Raises:
        ValueError: As :func:`check_train_noise`; for a modality that the model does not have, and a data set without a
            length.
    """
    check_train_noise(settings)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"train_noise needs a data set with a length and rows by index, not a {type(dataset).__name__}: a sample's "
            "noise is drawn by its index."
        )
    chosen = settings.get("modalities") or list(modality_kinds)
    unknown = [name for name in chosen if name not in modality_kinds]
    if unknown:
        raise ValueError(f"train_noise: modalities has {unknown}, but the model's are {list(modality_kinds)}.")
    kinds = {name: modality_kinds[name] for name in chosen}
    if "snr" in settings:
        return NoisyDataset(dataset, kinds, WhiteNoise(settings["snr"]).disturb, seed)
    protocol = NoiseProtocol(settings["protocol"], settings.get("units", "mvsa"))
    disturb = partial(protocol.disturb, kind=settings["kind"], epsilon=float(settings["epsilon"]))
    return NoisyDataset(dataset, kinds, disturb, seed)


def check_train_noise(settings: Any) -> None:
    """Raise ValueError, beginning with `train_noise`, unless it is what :func:`noisy_dataset` takes."""
    example = "train_noise is, for example, {protocol: qmf, kind: gaussian, epsilon: 5} or {snr: 10}"
    if not isinstance(settings, Mapping):
        raise ValueError(f"{example}, not {settings!r}.")
    needed = ("snr",) if "snr" in settings else _OF_PROTOCOL
    known = (*needed, "modalities", *(() if "snr" in settings else ("units",)))
    wrong = [key for key in settings if key not in known] + [key for key in needed if key not in settings]
    if wrong:
        raise ValueError(f"{example}; {wrong[0]!r} {'is no key of it' if wrong[0] in settings else 'is missing'}.")
    if "snr" in settings:
        try:
            WhiteNoise(settings["snr"])
        except ValueError as error:
            raise ValueError(f"train_noise: snr: {error}") from error
        return
    if settings["kind"] not in get_args(RawNoiseKind):
        raise ValueError(f"train_noise: kind is one of {get_args(RawNoiseKind)}, not {settings['kind']!r}.")
    check_epsilon(settings["epsilon"], "train_noise: epsilon")
    try:
        NoiseProtocol(settings["protocol"], settings.get("units", "mvsa"))
    except ValueError as error:
        raise ValueError(f"train_noise: {error}") from error
