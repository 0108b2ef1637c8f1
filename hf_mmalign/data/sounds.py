"""Sounds as a model's inputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .audio import read_audio, resampled
from .errors import DataError


def is_missing_sound(sound: Any) -> bool:
    """Whether a cell holds no sound: None, the NaN that NumPy has for it, or a struct of nothing."""
    if isinstance(sound, Mapping):
        return all(sound.get(key) is None for key in ("bytes", "path", "array"))
    return sound is None or (isinstance(sound, float) and np.isnan(sound))


def to_waveform(sound: Any, sampling_rate: int, row: int | None = None, field: str = "audio") -> np.ndarray:
    """A sound as (S,) float32 of one channel.

    Args:
        sound: The path of a file, its content as bytes, a dict of both as `datasets` keeps them, torchcodec's decoder or
            `{"array", "sampling_rate"}` as it decodes them, or an array or tensor (S,) at the rate that is asked for.
        sampling_rate (`int`): Samples per second of the result.
        row (`int`, *optional*), field (`str`): For errors.

    Raises:
        DataError: For anything else, a sound that cannot be read or has no sample, NaN and Inf.
    """
    place: dict[str, Any] = {"row": row, "field": field}
    if hasattr(sound, "get_all_samples"):
        samples = sound.get_all_samples()
        sound = {"array": samples.data, "sampling_rate": samples.sample_rate}
    if isinstance(sound, Mapping) and sound.get("array") is None:
        content, path = sound.get("bytes"), sound.get("path")
        sound = path if content is None else content
    if isinstance(sound, (str, Path, bytes)):
        return read_audio(sound, sampling_rate, **place)
    found = sampling_rate
    if isinstance(sound, Mapping):
        sound, found = sound["array"], int(sound.get("sampling_rate") or sampling_rate)
    try:
        array = np.asarray(sound.detach().cpu() if isinstance(sound, Tensor) else sound, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"a sound is expected, not {type(sound).__name__}: {error}", **place) from error
    if array.ndim == 2 and 0 < min(array.shape) <= 8:  # channels, first or last
        array = array.mean(axis=int(np.argmin(array.shape)))
    if array.ndim != 1 or not array.size:
        raise DataError(f"a sound is (S,) samples, at least one, not {array.shape}", **place)
    if not np.isfinite(array).all():
        raise DataError("a sound with NaN or Inf among its samples", **place)
    return resampled(array, found, sampling_rate)


def process_sounds(extractor: Any, sounds: list[Any], field: str) -> dict[str, Tensor]:
    """B sounds as the extractor's input, padded at the end, and `audio_mask` (B, S), 0 throughout where one is missing.

    Each goes through the extractor alone, so that no sample depends on its batch.

    Args:
        extractor: A feature extractor of transformers; its `model_input_names` tell `input_values` or `input_features`.
        sounds (`list`): As :func:`to_waveform` takes them; None where missing.
        field (`str`): The modality, for errors.
    """
    main = extractor.model_input_names[0]
    values = [
        None
        if is_missing_sound(sound)
        else _extract(extractor, to_waveform(sound, extractor.sampling_rate, row, field), main, row, field)
        for row, sound in enumerate(sounds)
    ]
    blank = next((value for value in values if value is not None), None)
    if blank is None:
        second = np.zeros(extractor.sampling_rate, np.float32)
        blank = _extract(extractor, second, main, None, field)
    steps = max(len(mask) for _, mask in (value or blank for value in values))
    axis = _time_axis(*blank)
    batch = torch.zeros(len(sounds), *(steps if at == axis else size for at, size in enumerate(blank[0].shape)))
    masks = torch.zeros(len(sounds), steps, dtype=torch.long)
    for row, value in enumerate(values):
        if value is not None:
            array, mask = value
            batch[row].narrow(axis, 0, len(mask)).copy_(torch.from_numpy(array))
            masks[row, : len(mask)] = torch.from_numpy(mask)
    return {main: batch, "audio_mask": masks}


def _extract(
    extractor: Any, waveform: np.ndarray, main: str, row: int | None, field: str
) -> tuple[np.ndarray, np.ndarray]:
    """What the extractor makes of one sound, and which of its steps are valid."""
    try:
        made = extractor(
            waveform, sampling_rate=extractor.sampling_rate, return_attention_mask=True, return_tensors="np"
        )
    except Exception as error:
        raise DataError(
            f"{type(extractor).__name__} cannot take this sound of {len(waveform)} samples: {error}",
            row=row,
            field=field,
        ) from error
    array = np.asarray(made[main][0], dtype=np.float32)
    mask = made.get("attention_mask")
    return array, np.ones(len(array), np.int64) if mask is None else np.asarray(mask[0], dtype=np.int64)


def _time_axis(array: np.ndarray, mask: np.ndarray) -> int:
    return 0 if array.shape[0] == len(mask) else array.ndim - 1
