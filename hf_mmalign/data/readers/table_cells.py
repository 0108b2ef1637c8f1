"""The cells of a table as values of our columns, whatever form they come in."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..audio import LogMel, check_audio, read_audio
from ..errors import DataError
from .files import ImageChecker

KINDS = ("text", "image", "audio", "features")


@dataclass
class Cells:
    """Turns one column's cells, plain values as :func:`plain` makes them, into what a row of ours holds.

    Args:
        name (`str`): Our name of the modality.
        kind (`str`): `text`, `image`, `audio` (sounds, which become log-mel frames, or without `mel` stay) or `features`.
        column (`str`): The table's name of it, for errors.
        source (`Path`): The table, for errors; relative paths start at its folder.
        mel (`LogMel`, *optional*): For sounds.
        replace_nonfinite (`bool`): Put 0 for NaN and Inf among features; else they are an error.
    """

    name: str
    kind: str
    column: str
    source: Path
    mel: LogMel | None = None
    replace_nonfinite: bool = False
    width: int | None = None
    _images: ImageChecker = field(default_factory=ImageChecker, repr=False)

    def __call__(self, value: Any, row: int, split: str) -> Any:
        """The value of a row: a string, a picture's or sound's `{path, bytes}`, or (T, D) float32; None or (0, D) where
        missing.

        Raises:
            DataError: If the cell is of another kind, or features are of another width than those before.
        """
        place = {"file": self.source, "row": row, "field": f"{split}.{self.column}"}
        if self.kind == "text":
            return _text(value, place)
        if self.kind == "image":
            return self._image(value, place)
        if self.kind == "audio" and self.mel is None:
            return self._sound(value, place)
        return self._checked(self._sequence(value, place), place)

    def _image(self, value: Any, place: dict[str, Any]) -> dict[str, Any] | None:
        path, content = _file_of(value, "a picture", place)
        if content is not None:
            self._images.check(BytesIO(content), **place)
            return {"path": None, "bytes": content}
        return None if path is None else self._images.cell(self._resolve(path), **place)

    def _sound(self, value: Any, place: dict[str, Any]) -> dict[str, Any] | None:
        path, content = _file_of(value, "a sound", place)
        if path is None and content is None:
            return None
        path = None if content is not None else str(self._resolve(path).resolve())
        check_audio(content if path is None else path, **place)
        return {"bytes": content, "path": path}

    def _sequence(self, value: Any, place: dict[str, Any]) -> np.ndarray | None:
        if self.mel is not None and _is_sound(value):
            return self._log_mel(value, place)
        if isinstance(value, str):
            text = value.strip()
            if text.startswith("["):
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"a list in JSON is expected, not {_short(value)}: {error}", **place) from error
            elif text.endswith(".npy"):
                value = self._load(self._resolve(text), place)
            elif text:
                raise DataError(f"numbers, a list in JSON or a path to .npy is expected, not {_short(value)}", **place)
            else:
                return None
        return None if value is None else _as_sequence(value, place)

    def _log_mel(self, value: Any, place: dict[str, Any]) -> np.ndarray | None:
        path, content = _file_of(value, "a sound", place)
        if path is None and content is None:
            return None
        samples = read_audio(content if content is not None else self._resolve(path), self.mel.sampling_rate, **place)
        if len(samples) < self.mel.frame_length:
            raise DataError(f"{len(samples)} samples are shorter than a window of {self.mel.frame_length}", **place)
        return self.mel(samples)

    def _resolve(self, path: str) -> Path:
        """Relative paths start at the table's folder, or are as `datasets` resolved them."""
        return (self.source if self.source.is_dir() else self.source.parent) / path

    def _load(self, path: Path, place: dict[str, Any]) -> np.ndarray:
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is no readable .npy file: {error}", **place) from error

    def _checked(self, sequence: np.ndarray | None, place: dict[str, Any]) -> np.ndarray | None:
        if sequence is None or not sequence.size:
            return None if self.width is None else np.zeros((0, self.width), np.float32)
        if self.width is None:
            self.width = sequence.shape[1]
        if sequence.shape[1] != self.width:
            raise DataError(
                f"features of width {self.width} are expected, as in rows before, not {sequence.shape}", **place
            )
        finite = np.isfinite(sequence)
        if finite.all():
            return sequence
        if self.replace_nonfinite:
            return np.where(finite, sequence, np.float32(0))
        step, dimension = (int(index) for index in np.argwhere(~finite)[0])
        raise DataError(
            f"NaN or Inf at step {step}, dimension {dimension}; the option nonfinite: replace puts 0 in its place",
            **place,
        )


def kind_of(name: str, column: Any) -> str | None:
    """How a column of ours is to be read, by its name and its type in the table; None for what can be no modality."""
    kinds: dict[str, Callable[[], bool]] = {
        "image": lambda: type(column).__name__ == "Image" or (name == "image" and not is_numeric_list(column)),
        "audio": lambda: type(column).__name__ == "Audio" or (name == "audio" and _is_string_or_binary(column)),
        "text": lambda: name == "text" and not is_numeric_list(column),
        "features": lambda: is_numeric_list(column) or _is_string_or_binary(column),
    }
    return next((kind for kind, fits in kinds.items() if fits()), None)


def _is_string_or_binary(column: Any) -> bool:
    return getattr(column, "dtype", "") in ("string", "large_string", "binary", "large_binary", "null")


def is_numeric_list(column: Any) -> bool:
    if type(column).__name__.startswith("Array"):
        return True
    while hasattr(column, "feature"):
        column = column.feature
        dtype = getattr(column, "dtype", "")
        if isinstance(dtype, str) and dtype.startswith(("float", "int", "uint", "double")):
            return not hasattr(column, "names")
    return False


def plain(cell: pa.Scalar) -> Any:
    """A cell in Python, its lists of numbers as arrays."""
    if not cell.is_valid:
        return None
    if isinstance(cell, pa.ExtensionScalar):
        cell = cell.value
    values = getattr(cell, "values", None)
    if isinstance(values, pa.Array):
        return _array(values)
    return cell.as_py()


def _array(values: pa.Array) -> Any:
    """An Arrow list's values: numbers as (N,), lists of numbers of one length as (N, D), anything else as Python has it."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if not pa.types.is_nested(values.type):
        # A null among numbers is NaN.
        return values.to_pylist() if pa.types.is_string(values.type) else values.to_numpy(zero_copy_only=False)
    if len(values) and not values.null_count and hasattr(values, "flatten") and not pa.types.is_struct(values.type):
        inner, lengths = values.flatten(), values.value_lengths().to_numpy()
        if not pa.types.is_nested(inner.type) and (lengths == lengths[0]).all():
            return inner.to_numpy(zero_copy_only=False).reshape(len(values), int(lengths[0]))
    return values.to_pylist()


def _text(value: Any, place: dict[str, Any]) -> str | None:
    if value is None or isinstance(value, (dict, np.ndarray, list, bytes)):
        if value is None:
            return None
        raise DataError(f"a text is expected, not {type(value).__name__}", **place)
    text = str(value)
    return text if text.strip() else None


def _is_sound(value: Any) -> bool:
    """Whether a cell holds a sound rather than numbers: a file, unless it is one of numbers."""
    if isinstance(value, str):
        return not value.strip().startswith("[") and not value.strip().endswith(".npy")
    return isinstance(value, (bytes, dict))


def _file_of(value: Any, what: str, place: dict[str, Any]) -> tuple[str | None, bytes | None]:
    """Path and content of a picture or sound; both None where it is missing."""
    if isinstance(value, dict) and {"path", "bytes"} <= value.keys():
        return (None, value["bytes"]) if value["bytes"] is not None else (value["path"], None)
    if isinstance(value, bytes):
        return None, value
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, None
    if not isinstance(value, str):
        raise DataError(f"{what} as a path or bytes is expected, not {type(value).__name__}", **place)
    return value, None


def _as_sequence(value: Any, place: dict[str, Any]) -> np.ndarray:
    """(T, D) float32 of nested lists or arrays; a flat vector is one step."""
    try:
        with np.errstate(over="ignore"):
            sequence = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"features are numbers, (T, D) or (D,), every step of the same width; found {_short(value)}", **place
        ) from error
    if sequence.ndim == 1:
        return sequence[None] if sequence.size else sequence.reshape(0, 0)
    if sequence.ndim != 2:
        raise DataError(f"features of shape (T, D) or (D,) are expected, not {sequence.shape}", **place)
    return sequence


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
