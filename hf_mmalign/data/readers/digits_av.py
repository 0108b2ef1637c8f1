"""`digits-av`: spoken digits (Free Spoken Digit Dataset) paired with handwritten ones (MNIST's IDX files), as sequences.

    recordings/{digit}_{speaker}_{index}.wav               8 kHz, mono, 16 bit
    t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz   28×28 pictures and their digits

`audio` is (T, n_mels), the log-mel frames of a recording; `picture` is (28, 28), the rows of a handwritten digit from top
to bottom, ink from 0 to 1. Each recording is paired with a picture of the same digit by a seeded draw. No speaker and no
picture is in two splits.
"""

import gzip
import re
import wave
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Features, Value

from ..audio import LogMel
from ..errors import DataError
from ..schema import SPLITS, Source, feature_sequence
from .digits import DIGIT_NAMES
from .files import require_file, require_folder
from .options import require_integer

_SAMPLING_RATE = 8000
_MOST_SECONDS = 60
_PICTURE_SIZE = 28
_MOST_PICTURES = 1_000_000
_RECORDING = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)\.wav")
_SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}


class Recording(NamedTuple):
    """A wav file, and what its name says."""

    path: Path
    digit: int
    speaker: str
    index: int


def open_source(
    path: Path,
    fold: int = 0,
    seed: int = 0,
    n_mels: int = 40,
    window_ms: float = 25.0,
    hop_ms: float = 10.0,
) -> Source:
    """Open the folder with `recordings/` and the two IDX files.

    Args:
        path (`Path`): The folder.
        fold (`int`): The test split is the speaker of this number, counted from 0 in alphabetical order; the validation
            split the next one (after the last, the first); the training split all others.
        seed (`int`): Seed of the pairing of recordings and pictures.
        n_mels (`int`): Width of `audio`.
        window_ms (`float`), hop_ms (`float`): Length of a frame, and from frame to frame, in milliseconds.
    """
    require_integer("seed", seed, 0, 2**32 - 1)
    mel = LogMel(_SAMPLING_RATE, n_mels, window_ms, hop_ms)
    recordings = _find_recordings(path / "recordings")
    speakers = sorted({recording.speaker for recording in recordings})
    if len(speakers) < 3:
        raise DataError(f"recordings of at least 3 speakers are expected, not of {speakers}", file=path / "recordings")
    require_integer("fold", fold, 0, len(speakers) - 1)
    pictures, digits = read_pictures(path / "t10k-images-idx3-ubyte.gz", path / "t10k-labels-idx1-ubyte.gz")
    pools = _picture_pools(len(pictures))
    split_of = {speakers[fold]: "test", speakers[(fold + 1) % len(speakers)]: "validation"}
    pairs = {}
    for number, split in enumerate(SPLITS):
        heard = [recording for recording in recordings if split_of.get(recording.speaker, "train") == split]
        rng = np.random.RandomState([seed, number])
        pairs[split] = list(zip(heard, _draw_pictures(heard, pools[split], digits, rng, path), strict=True))
    features = Features(
        {
            "id": Value("string"),
            "audio": feature_sequence(n_mels),
            "picture": feature_sequence(_PICTURE_SIZE),
            "label": ClassLabel(names=list(DIGIT_NAMES)),
        }
    )
    return Source(features, {split: partial(_rows, pairs[split], pictures, mel) for split in SPLITS})


def read_recording(path: Path) -> np.ndarray:
    """The samples of a wav file, (S,) float64 in [-1, 1].

    Raises:
        DataError: Unless it is 8 kHz, mono, 16 bit, whole, and at most a minute long.
    """
    size = require_file(path, "a wav file").stat().st_size
    try:
        with wave.open(str(path), "rb") as file:
            found = (file.getframerate(), file.getnchannels(), 8 * file.getsampwidth())
            if found != (_SAMPLING_RATE, 1, 16):
                raise DataError(f"8000 Hz, 1 channel and 16 bit are expected, not {found}", file=path)
            count = file.getnframes()
            # Before anything is read: a header may promise 4 GB, for which memory would be taken.
            if 2 * count > size:
                raise DataError(f"the file ends before its {count} samples do, after {size} bytes", file=path)
            if count > _MOST_SECONDS * _SAMPLING_RATE:
                message = f"{count / _SAMPLING_RATE:.0f} seconds; a spoken digit, at most {_MOST_SECONDS} seconds long,"
                raise DataError(f"{message} is expected", file=path)
            content = file.readframes(count)
    except DataError:
        raise
    # A damaged header makes `wave` raise nearly anything.
    except Exception as error:
        raise DataError(f"no readable wav file: {str(error) or 'it ends too early'}", file=path) from error
    if len(content) != 2 * count:
        raise DataError(f"the file ends before its {count} samples do, after {len(content) // 2}", file=path)
    return np.frombuffer(content, "<i2") / 32768


def read_pictures(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's gzipped IDX files: pictures (N, 28, 28) uint8 and digits (N,) uint8.

    Raises:
        DataError: If a file is missing, damaged, of another type or size than its header says, or has other rows.
    """
    pictures = _read_idx(images, (_PICTURE_SIZE, _PICTURE_SIZE))
    digits = _read_idx(labels, ())
    if len(pictures) != len(digits):
        raise DataError(f"{len(digits)} labels, but {len(pictures)} pictures", file=labels)
    wrong = np.flatnonzero(digits > 9)
    if wrong.size:
        raise DataError(f"a digit from 0 to 9 is expected, not {digits[wrong[0]]}", file=labels, row=int(wrong[0]))
    return pictures, digits


def _read_idx(path: Path, item_shape: tuple[int, ...]) -> np.ndarray:
    header_size = 4 * (2 + len(item_shape))
    try:
        with gzip.open(require_file(path, "a gzipped IDX file"), "rb") as file:
            header = file.read(header_size)
            if len(header) < header_size:
                raise DataError("the file ends within its header", file=path)
            magic, count, *shape = np.frombuffer(header, ">u4").tolist()
            # Zero, zero, type 8 (unsigned bytes), number of axes.
            if magic != 0x0800 + 1 + len(item_shape):
                expected = f"0x{0x0801 + len(item_shape):08x}"
                raise DataError(f"the IDX magic number must be {expected}, not 0x{magic:08x}", file=path)
            if tuple(shape) != item_shape or not 0 < count <= _MOST_PICTURES:
                message = (
                    f"1 to {_MOST_PICTURES} items of shape {item_shape} are expected, not {count} of {tuple(shape)}"
                )
                raise DataError(message, file=path)
            size = count * int(np.prod(item_shape))
            content = file.read(size + 1)  # one more, to notice it; a bomb would go on for ever
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"no readable gzip file: {error}", file=path) from error
    if len(content) != size:
        found = "more" if len(content) > size else str(len(content))
        raise DataError(f"the header promises {size} bytes, the file has {found}", file=path)
    return np.frombuffer(content, np.uint8).reshape(count, *item_shape)


def _find_recordings(folder: Path) -> list[Recording]:
    require_folder(folder, "a folder of recordings named {digit}_{speaker}_{index}.wav")
    recordings = []
    for path in folder.glob("*.wav"):
        name = _RECORDING.fullmatch(path.name)
        if name is None:
            raise DataError("the name of a recording must be {digit}_{speaker}_{index}.wav", file=path)
        recordings.append(Recording(path, int(name["digit"]), name["speaker"], int(name["index"])))
    # By digit last, so that the first rows of a split, which a recipe may limit itself to, have all digits.
    return sorted(recordings, key=lambda recording: (recording.index, recording.speaker, recording.digit))


def _picture_pools(count: int) -> dict[str, np.ndarray]:
    """Numbers of each split's pictures: in either half of the file, the first 70 %, the next 15 %, the rest.

    Neighbours are often by one writer, so blocks keep most writers apart; and MNIST's second half is by other writers than
    its first, and harder, so every split has its share of both.
    """
    pools: dict[str, list[np.ndarray]] = {split: [] for split in _SHARES}
    for half in np.array_split(np.arange(count), 2):
        ends = np.rint(np.cumsum(list(_SHARES.values()))[:-1] * len(half)).astype(int)
        for split, block in zip(_SHARES, np.split(half, ends), strict=True):
            pools[split].append(block)
    return {split: np.concatenate(blocks) for split, blocks in pools.items()}


def _draw_pictures(
    recordings: list[Recording], pool: np.ndarray, digits: np.ndarray, rng: np.random.RandomState, path: Path
) -> list[int]:
    """For each recording the number of a picture of its digit; none comes twice before all have come once."""
    shuffled = {digit: rng.permutation(pool[digits[pool] == digit]) for digit in range(10)}
    used = dict.fromkeys(range(10), 0)
    drawn = []
    for recording in recordings:
        pictures = shuffled[recording.digit]
        if not len(pictures):
            raise DataError(f"too few pictures: a split has none of the digit {recording.digit}", file=path)
        drawn.append(int(pictures[used[recording.digit] % len(pictures)]))
        used[recording.digit] += 1
    return drawn


def _rows(pairs: list[tuple[Recording, int]], pictures: np.ndarray, mel: LogMel) -> Iterator[dict[str, Any]]:
    for recording, picture in pairs:
        samples = read_recording(recording.path)
        if len(samples) < mel.frame_length:
            message = f"{len(samples)} samples are shorter than one window of {mel.frame_length}"
            raise DataError(message, file=recording.path)
        yield {
            "id": f"{recording.path.stem}-{picture}",
            "audio": mel(samples),
            "picture": (pictures[picture] / 255).astype(np.float32),
            "label": recording.digit,
        }
