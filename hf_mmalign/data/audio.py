"""Sound files as log-mel frames."""

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly
from transformers.audio_utils import mel_filter_bank

from .errors import DataError
from .readers.options import require_integer, require_positive

_LOG_FLOOR = 1e-10
# What soundfile may hold in memory: ten hours at 16 kHz. A header may promise far more than the file has.
_MOST_SAMPLES = 600_000_000


class LogMel:
    """Log-mel frames of a recording: Hann window, power spectrum, triangular filters equally spaced in mel (HTK).

    Args:
        sampling_rate (`int`): Samples per second of what it is given.
        n_mels (`int`): Number of filters, the width of a frame.
        window_ms (`float`), hop_ms (`float`): Length of a frame, and from frame to frame, in milliseconds.
    """

    def __init__(self, sampling_rate: int, n_mels: int, window_ms: float, hop_ms: float):
        self.sampling_rate = require_integer("sampling_rate", sampling_rate, 1000, 192_000)
        self.n_mels = require_integer("n_mels", n_mels, 1, 256)
        self.frame_length = round(require_positive("window_ms", window_ms) * sampling_rate / 1000)
        self.hop_length = round(require_positive("hop_ms", hop_ms) * sampling_rate / 1000)
        if not (2 <= self.frame_length <= sampling_rate and self.hop_length >= 1):
            shortest = 1000 / sampling_rate
            raise DataError(
                f"a window from {2 * shortest:g} to 1000 ms and a hop of at least {shortest:g} ms are expected, "
                f"not {window_ms} and {hop_ms}"
            )
        # Twice the padding that a fast transform needs: the narrow filters at low frequencies then hit a bin.
        self._fft_length = 2 << (self.frame_length - 1).bit_length()
        self._window = np.hanning(self.frame_length + 1)[:-1]
        with warnings.catch_warnings(action="ignore"):  # of filters without a bin, which are refused below
            self._filters = mel_filter_bank(self._fft_length // 2 + 1, n_mels, 0.0, sampling_rate / 2, sampling_rate)
        if not self._filters.any(axis=0).all():
            message = f"{n_mels} filters are too many for windows of {window_ms} ms: some would be empty"
            raise DataError(message, field="n_mels")

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(S,) samples in [-1, 1] → (T, n_mels) float32, natural logarithm of power; S of at least `frame_length`."""
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.frame_length)[:: self.hop_length]
        power = np.abs(np.fft.rfft(frames * self._window, self._fft_length)) ** 2
        return np.log(np.maximum(power @ self._filters, _LOG_FLOOR)).astype(np.float32)


def read_audio(source: str | Path | bytes, sampling_rate: int, **place: Any) -> np.ndarray:
    """Decode a sound file (WAV, FLAC, OGG, MP3, … as libsndfile reads them) to one channel at the given rate.

    Args:
        source (`str`, `Path` or `bytes`): The file, or its content.
        sampling_rate (`int`): Samples per second of the result; other rates are resampled by a polyphase filter.
        place: File, row and field that errors name.

    Returns:
        (S,) float32, usually in [-1, 1]; channels are averaged.

    Raises:
        DataError: If it is missing, empty, damaged, or no sound.
    """
    import soundfile  # loads a shared library, which a data set without sound should not need

    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
            if not 0 < file.frames * file.channels <= _MOST_SAMPLES:
                raise DataError(f"a sound of 1 to {_MOST_SAMPLES} samples is expected, not {file.frames}", **place)
            found, samples = file.samplerate, file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"the sound cannot be read: {error}", **place) from error
    if not len(samples):
        raise DataError("the sound has no samples", **place)
    return resampled(samples, found, sampling_rate)


def resampled(samples: np.ndarray, found: int, wanted: int) -> np.ndarray:
    """(S,) samples at the rate `wanted` instead of `found`, by a polyphase filter, in float32."""
    if found != wanted:
        divisor = math.gcd(found, wanted)
        samples = resample_poly(samples, wanted // divisor, found // divisor)
    return samples.astype(np.float32, copy=False)


def check_audio(source: str | Path | bytes, **place: Any) -> tuple[float, int]:
    """Seconds and sampling rate of a sound file, or its content, by its header. Raises DataError as :func:`read_audio`."""
    import soundfile

    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"the sound cannot be read: {error}", **place) from error
    if not 0 < info.frames * info.channels <= _MOST_SAMPLES:
        raise DataError(f"a sound of 1 to {_MOST_SAMPLES} samples is expected, not {info.frames}", **place)
    return info.frames / info.samplerate, info.samplerate
