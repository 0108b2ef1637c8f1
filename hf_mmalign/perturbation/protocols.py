"""Protocols of noise on raw inputs: which samples are disturbed, how strongly, and with which random numbers."""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL.Image
import torch

from .raw_noise import (
    drop_words,
    gaussian_pixels,
    noise_at_snr,
    published_gaussian_pixels,
    replace_words,
    salt_and_pepper_pixels,
    salt_and_pepper_values,
)

ProtocolName = Literal["qmf", "clean"]
NoiseUnits = Literal["mvsa", "nyud2"]
RawNoiseKind = Literal["gaussian", "salt-pepper", "words-replaced", "words-dropped"]

ALL_MODALITIES = "all"
WHITE_NOISE = "white-noise"
UNKNOWN_WORDS = "unknown-words"
# Of anything but texts; where these are put on all modalities, texts have their words replaced.
_KINDS: tuple[RawNoiseKind, ...] = ("gaussian", "salt-pepper")

_DENSITY = 0.1  # of salt and pepper
_PICTURE_SIZE = {"mvsa": 256, "nyud2": 224}
_STANDARD_DEVIATION = {"mvsa": 10.0, "nyud2": 1.0}  # of pixels from 0 to 255, at ε = 1


@dataclass(frozen=True)
class NoiseProtocol:
    """How noise of strength ε, usually 5 or 10, is put on raw pictures, sequences and texts.

    Both protocols disturb half of the samples. On those:

    - Gaussian noise on a picture has a standard deviation of 10 ε on a scale of 0–255 (`units="mvsa"`, as published for
      MVSA-Single) or ε (`"nyud2"`, for NYU Depth v2); salt and pepper fall on a tenth of the pixels, with a further
      probability of ε / 10. They do so once its shorter side has 256 pixels, or it has 224 × 224 (`"nyud2"`).
    - Each word of a text is replaced by `_`, or dropped, with probability 0.1 ε.
    - A waveform or feature sequence, for which nothing is published, takes Gaussian noise with ε / 10 of its own standard
      deviation (a signal-to-noise ratio of 6 dB at 5, of 0 dB at 10), or salt and pepper as a picture.

    `"qmf"` is the published protocol to the letter: every picture of a size gets the same noise, and what falls below 0
    wraps around. `"clean"` draws for each sample, clips the pixels, and does not enlarge pictures.

    A sample's noise is a function of seed, epoch, its index in the data set, the kind and the modality alone: neither
    batch size nor order nor the number of processes changes it. ε scales one and the same draw.

    Args:
        name (`str`): `"qmf"` or `"clean"`.
        units (`str`, *optional*, defaults to `"mvsa"`): `"mvsa"` or `"nyud2"`.
        share (`float`, *optional*, defaults to 0.5): Of the samples that are disturbed, the published half or another.

    Raises:
        ValueError: If either is none of these.
    """

    name: ProtocolName
    units: NoiseUnits = "mvsa"
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in get_args(ProtocolName):
            raise ValueError(f"protocol is one of {get_args(ProtocolName)}, not {self.name!r}.")
        if self.units not in get_args(NoiseUnits):
            raise ValueError(f"noise_units is one of {get_args(NoiseUnits)}, not {self.units!r}.")

    def kinds(self, modality_kind: str | int) -> tuple[RawNoiseKind, ...]:
        """The kinds of noise that a modality alone is tested with, from its kind in the config's `modality_kinds`."""
        if modality_kind != "text":
            return _KINDS
        return ("words-replaced",) if self.name == "qmf" else ("words-replaced", "words-dropped")

    def conditions(self, modality_kinds: Mapping[str, str | int]) -> list[tuple[str, RawNoiseKind]]:
        """(modality, kind of noise) of each test: every modality alone, then all of them at once, as it is published."""
        alone = [(name, kind) for name, of in modality_kinds.items() for kind in self.kinds(of)]
        together = [(ALL_MODALITIES, kind) for kind in _KINDS]
        return alone + (together if len(modality_kinds) > 1 else [])

    def disturb(
        self,
        row: Mapping[str, Any],
        modality_kinds: Mapping[str, str | int],
        kind: RawNoiseKind,
        epsilon: float,
        index: int,
        seed: int = 0,
        epoch: int = 0,
    ) -> dict[str, Any] | None:
        """A sample with noise on the modalities of `modality_kinds`, or None where the draw leaves it as it is.

        Args:
            row (`Mapping[str, Any]`): A row of a data set, with a column per modality: a picture as a PIL image, a path or
                a uint8 array, a text as a string, a sound as processors take it, anything else as numbers. What is missing
                stays missing.
            modality_kinds (`Mapping[str, str | int]`): The modalities to disturb, each with its kind: `"text"`, `"image"`,
                `"audio"` for raw sound, or whatever else is numbers.
            kind (`str`): `"gaussian"` or `"salt-pepper"`, where texts have their words replaced; or `"words-replaced"` or
                `"words-dropped"`, which pass over everything but texts.
            epsilon (`float`): ε, at least 0.
            index, seed, epoch (`int`): Which sample it is, and which draw.

        Raises:
            ValueError: If a cell is nothing that can be disturbed: with the modality and the sample's index.
        """
        noisy = {}
        for name, of in modality_kinds.items():
            value = row.get(name)
            if epsilon == 0 or _is_missing(value) or (of != "text" and kind not in _KINDS):
                continue
            applied = "words-replaced" if of == "text" and kind in _KINDS else kind
            rng = _generator(seed, epoch, index, applied, name)
            # The order of these draws decides what a seed means.
            if rng.random() >= self.share:
                continue
            with _named(name, index):
                cell = self._noisy_cell(value, of, applied, epsilon, rng)
            if cell is not None:
                noisy[name] = cell
        return {**row, **noisy} if noisy else None

    def _noisy_cell(self, value: Any, of: str | int, kind: str, epsilon: float, rng: np.random.Generator) -> Any:
        if of == "text":
            if not isinstance(value, str):
                raise TypeError(f"a text is expected, not {type(value).__name__}")
            return (drop_words if kind == "words-dropped" else replace_words)(value, min(1.0, 0.1 * epsilon), rng)
        if kind == "salt-pepper" and rng.random() >= epsilon / 10:
            return None
        if of == "image":
            return self._noisy_picture(value, kind, epsilon, rng)
        if kind == "salt-pepper":
            return _noisy_numbers(value, of, lambda numbers: salt_and_pepper_values(numbers, _DENSITY, rng))
        return _noisy_numbers(value, of, lambda numbers: noise_at_snr(numbers, -20 * np.log10(epsilon / 10), rng))

    def _noisy_picture(self, value: Any, kind: str, epsilon: float, rng: np.random.Generator) -> PIL.Image.Image:
        pixels = np.asarray(self._resized(_as_picture(value)))
        std = _STANDARD_DEVIATION[self.units] * epsilon
        if kind == "salt-pepper":
            pixels = salt_and_pepper_pixels(pixels, _DENSITY, rng)
        else:
            pixels = published_gaussian_pixels(pixels, std) if self.name == "qmf" else gaussian_pixels(pixels, std, rng)
        return PIL.Image.fromarray(pixels)

    def _resized(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        size = _PICTURE_SIZE[self.units]
        shorter = min(picture.size)
        if self.name == "clean" and shorter <= size:
            return picture
        if self.units == "nyud2":
            if self.name == "qmf" and picture.width > size:  # two steps, as the public code takes them
                picture = picture.resize((256, 256), PIL.Image.Resampling.BICUBIC)
            return picture.resize((size, size), PIL.Image.Resampling.BILINEAR)
        longer = int(size * max(picture.size) / shorter)
        width, height = (size, longer) if picture.width <= picture.height else (longer, size)
        return picture.resize((width, height), PIL.Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class WhiteNoise:
    """White Gaussian noise on the waveforms and feature sequences of samples; pictures and texts pass unchanged.

    Where features are normalised before a model reads them, it is white in what the model reads: of raw features, each in a
    unit of its own, the largest would have all the power of the signal, and the smallest would drown at any ratio.

    As with a [`NoiseProtocol`], a sample's noise is a function of seed, epoch, its index and the modality alone, and the
    strength scales one and the same draw.

    Args:
        snr (`float`): How many decibels it lies below the signal, whose power is its variance.
        share (`float`, *optional*, defaults to 1.0): Of the samples, for each modality anew, that are disturbed.
        statistics (`Mapping[str, FeatureStatistics]`, *optional*): Of the modalities that are normalised.

    Raises:
        ValueError: If the ratio is no finite number, or the share none from 0 to 1.
    """

    snr: float
    share: float = 1.0
    statistics: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, (int, float)) or not 0 <= self.share <= 1:
            raise ValueError(f"The share of the samples that are disturbed lies between 0 and 1, not {self.share!r}.")
        if isinstance(self.snr, bool) or not isinstance(self.snr, (int, float)) or not abs(self.snr) < float("inf"):
            raise ValueError(f"A signal-to-noise ratio is a finite number of decibels, not {self.snr}.")

    def disturb(
        self, row: Mapping[str, Any], modality_kinds: Mapping[str, str | int], index: int, seed: int = 0, epoch: int = 0
    ) -> dict[str, Any] | None:
        """As [`NoiseProtocol.disturb`]; None where the sample has nothing that can be disturbed."""
        noisy = {}
        for name, of in modality_kinds.items():
            if of not in ("text", "image") and not _is_missing(row.get(name)):
                rng = _generator(seed, epoch, index, WHITE_NOISE, name)
                # A share of 1 draws nothing, so that a seed means what it has always meant.
                if self.share < 1 and rng.random() >= self.share:
                    continue
                with _named(name, index):
                    noisy[name] = _noisy_numbers(row[name], of, partial(self._with_noise, name=name, rng=rng))
        return {**row, **noisy} if noisy else None

    def _with_noise(self, numbers: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
        if name not in self.statistics:
            return noise_at_snr(numbers, self.snr, rng)
        mean, std = self.statistics[name].mean.numpy(), self.statistics[name].std.numpy()
        return noise_at_snr((numbers - mean) / std, self.snr, rng) * std + mean


@dataclass(frozen=True)
class UnknownWords:
    """Words of every text, between single spaces, replaced by the unknown token; whatever is no text passes unchanged.

    As with a [`NoiseProtocol`], which words they are is a function of seed, epoch, the sample's index and the modality
    alone, and the probability scales one and the same draw: what is gone at 0.1 is gone at 0.2 too.

    Args:
        probability (`float`): Of each word, from 0 to 1.
        token (`str`, *optional*, defaults to `"<unk>"`): What takes its place: the tokenizer's unknown token, which it
            knows in a text.

    Raises:
        ValueError: If either is none of these.
    """

    probability: float
    token: str = "<unk>"

    def __post_init__(self) -> None:
        number = self.probability
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1:
            raise ValueError(f"The probability of unknown words lies between 0 and 1, not {number!r}.")
        if not isinstance(self.token, str) or not self.token:
            raise ValueError(f"The token of unknown words is a text, not {self.token!r}.")

    def disturb(
        self, row: Mapping[str, Any], modality_kinds: Mapping[str, str | int], index: int, seed: int = 0, epoch: int = 0
    ) -> dict[str, Any] | None:
        """As [`NoiseProtocol.disturb`]; None where the sample has no text."""
        noisy = {}
        for name, of in modality_kinds.items():
            if of == "text" and not _is_missing(row.get(name)):
                rng = _generator(seed, epoch, index, UNKNOWN_WORDS, name)
                with _named(name, index):
                    noisy[name] = replace_words(row[name], self.probability, rng, (self.token,))
        return {**row, **noisy} if noisy else None


def check_epsilon(epsilon: Any, name: str) -> float:
    """ε as a float. Raises ValueError, naming the argument, unless it is a finite number of at least 0."""
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < float("inf"):
        raise ValueError(f"{name} is {epsilon}; expected a finite number of at least 0.")
    return float(epsilon)


@contextmanager
def _named(modality: str, index: int) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # RuntimeError: of libsndfile
        raise ValueError(f"Noise on {modality!r} of sample {index} is not possible: {error}") from error


def _generator(seed: int, epoch: int, index: int, *words: str) -> np.random.Generator:
    # Philox is counter-based: a generator anywhere in its key space costs microseconds to set up.
    counter = [0, epoch, *(zlib.crc32(word.encode()) for word in words)]
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=counter))


def _is_missing(value: Any) -> bool:
    """None, the NaN that NumPy has for it, a file that is none, or an empty sequence."""
    if isinstance(value, Mapping):
        return all(value.get(key) is None for key in ("bytes", "path", "array"))
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return True
    return not isinstance(value, str) and hasattr(value, "__len__") and len(value) == 0


def _as_picture(value: Any) -> PIL.Image.Image:
    """What a model's processor takes as a picture, in RGB."""
    if isinstance(value, PIL.Image.Image):
        return value.convert("RGB")
    if isinstance(value, torch.Tensor):
        value = value.permute(1, 2, 0).cpu().numpy()
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            raise TypeError(f"a picture of type uint8 is expected, not {value.dtype}")
        return PIL.Image.fromarray(value).convert("RGB")
    with PIL.Image.open(value) as picture:
        return picture.convert("RGB")


def _noisy_numbers(value: Any, of: str | int, noise: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Numbers in the form in which they came, a tensor or an array; a sound's file as `{"array", "sampling_rate"}`."""
    if of == "audio":
        if isinstance(value, Mapping) and value.get("array") is not None:
            return {**value, "array": _noisy_numbers(value["array"], 1, noise)}
        if hasattr(value, "get_all_samples") or isinstance(value, (str, Path, bytes, Mapping)):
            samples, rate = _decoded(value)
            return {"array": noise(samples), "sampling_rate": rate}
    numbers = value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if not np.issubdtype(numbers.dtype, np.number):
        raise TypeError(f"numbers are expected, not {numbers.dtype}")
    noisy = noise(numbers)
    return torch.from_numpy(noisy).to(value) if isinstance(value, torch.Tensor) else noisy


def _decoded(sound: Any) -> tuple[np.ndarray, int]:
    """A sound's samples in one channel, (S,), and its sampling rate."""
    if hasattr(sound, "get_all_samples"):  # as `datasets` decodes sounds where torchcodec is installed
        decoded = sound.get_all_samples()
        return np.asarray(decoded.data).mean(axis=0), int(decoded.sample_rate)
    import soundfile  # loads a shared library, which data without sound should not need

    if isinstance(sound, Mapping):
        sound = sound["path"] if sound.get("bytes") is None else sound["bytes"]
    source = io.BytesIO(sound) if isinstance(sound, bytes) else str(sound)
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate
