"""What the pickles of affective computing have in common: `train`, `valid` and `test`, each a dict of fields of N rows.

A field may be a NumPy array, a list, or an array of objects; whichever it is, it is checked and comes out in one form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, shown
from ..safe_pickle import load_pickle
from .files import require_file, require_text

_MOST_ID_PARTS = 100
SPLIT_KEYS = {"train": "train", "validation": "valid", "test": "test"}


@dataclass(frozen=True)
class FeatureRows:
    """One modality of one split.

    Attributes:
        rows (sequence of `np.ndarray`): Per row (T, D), numeric, perhaps padded; (0, D) where nothing is there.
        width (`int`): D; 0 if all rows are empty.
        steps (`int` or `None`): T, if all rows have the same.
    """

    rows: Sequence[np.ndarray]
    width: int
    steps: int | None


class PickledSplit:
    """The fields of one split, checked as they are taken.

    Args:
        content (`dict`): Fields by name.
        key (`str`): The split's key in the file, for errors.
        path (`Path`): The file, for errors.
    """

    def __init__(self, content: dict[str, Any], key: str, path: Path):
        self._content = content
        self._key = key
        self._path = path

    def __contains__(self, field: str) -> bool:
        return self._content.get(field) is not None

    def error(self, message: str, field: str, row: int | None = None) -> DataError:
        """A `DataError` that names the file, the split's field and the row."""
        return DataError(message, file=self._path, row=row, field=f"{self._key}.{field}")

    def entries(self, field: str) -> Sequence[Any]:
        """The field as it lies in the file: a list, a tuple or an array with a first axis."""
        if field not in self:
            raise self.error(f"missing; the split has only {', '.join(sorted(map(shown, self._content)))}", field)
        value = self._content[field]
        if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
            return value
        raise self.error(f"a list or an array with an entry per row is expected, not {type(value).__name__}", field)

    def texts(self, field: str) -> list[str]:
        """A field of strings."""
        texts = []
        for row, entry in enumerate(self.entries(field)):
            text = entry.item() if isinstance(entry, np.ndarray) and entry.size == 1 else entry
            if isinstance(text, bytes):
                text = text.decode("utf-8", "replace")
            if not isinstance(text, str):
                raise self.error(f"a string is expected, not {type(entry).__name__}", field, row)
            texts.append(require_text(str(text), file=self._path, row=row, field=f"{self._key}.{field}"))
        return texts

    def ids(self, field: str = "id") -> list[str]:
        """A field of identifiers: strings, numbers, or several of them, which are joined by underscores."""
        ids = []
        for row, entry in enumerate(self.entries(field)):
            try:
                ids.append(id_text(entry))
            except (TypeError, ValueError) as error:
                raise self.error(f"no identifier: {error}", field, row) from error
            require_text(ids[-1], file=self._path, row=row, field=f"{self._key}.{field}")
        return ids

    def array(self, field: str, kinds: str = "biuf") -> np.ndarray:
        """A field that is or makes a regular array of numbers (or of the dtype kinds given)."""
        try:
            array = np.asarray(self.entries(field))
            if array.dtype == object:
                array = np.asarray(array.tolist())
        except (TypeError, ValueError) as error:
            raise self.error(f"the rows make no regular array: {error}", field) from error
        if array.dtype.kind not in kinds:
            raise self.error(f"numbers are expected, not {array.dtype}", field)
        return array

    def numbers(self, field: str) -> np.ndarray:
        """A field of one finite number a row: (N,) float64."""
        array = self.array(field)
        if array.size != len(array):
            raise self.error(f"one number per row is expected, not {array.shape}", field)
        numbers = array.reshape(-1).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if bad.size:
            raise self.error(f"{bad.size} values are NaN or Inf", field, int(bad[0]))
        return numbers

    def integers(self, field: str, smallest: int, largest: int | None = None) -> np.ndarray:
        """A field of one integer a row, whatever type it is written in: (N,) int64 from `smallest` to `largest`."""
        numbers = self.numbers(field)
        bad = (numbers != np.floor(numbers)) | (numbers < smallest)
        expected = f"an integer of at least {smallest}"
        if largest is not None:
            bad |= numbers > largest
            expected = f"an integer from {smallest} to {largest}"
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise self.error(f"{expected} is expected, not {numbers[row]:g}", field, row)
        return numbers.astype(np.int64)

    def features(self, field: str) -> FeatureRows:
        """A field of feature sequences: an array (N, T, D) or (N, D), or N of (T, D) or (D,); (D,) is one step."""
        entries = self.entries(field)
        if isinstance(entries, np.ndarray) and entries.dtype.kind in "biuf":
            if entries.ndim == 2:
                entries = entries[:, None]
            if entries.ndim != 3:
                raise self.error(f"an array (N, T, D) or (N, D) is expected, not {entries.shape}", field)
            return FeatureRows(entries, entries.shape[2], entries.shape[1])
        rows = [self._sequence(field, row, entry) for row, entry in enumerate(entries)]
        widths: dict[int, int] = {}  # each with the first row that has it
        for row, sequence in enumerate(rows):
            if len(sequence):
                widths.setdefault(sequence.shape[1], row)
        if len(widths) > 1:
            raise self.error(f"the rows have different feature widths: {sorted(widths)}", field, max(widths.values()))
        width = next(iter(widths), 0)
        lengths = {len(sequence) for sequence in rows}
        rows = [sequence if len(sequence) else np.zeros((0, width), np.float32) for sequence in rows]
        return FeatureRows(rows, width, lengths.pop() if len(lengths) == 1 else None)

    def check_sizes(self, sizes: dict[str, int]) -> None:
        """Raise `DataError` unless all fields have as many rows as the first."""
        first, expected = next(iter(sizes.items()))
        for field, size in sizes.items():
            if size != expected:
                raise self.error(f"{size} rows, but {expected} in {first}", field)

    def _sequence(self, field: str, row: int, entry: Any) -> np.ndarray:
        try:
            sequence = np.asarray([] if entry is None else entry)
            if sequence.dtype == object:
                sequence = np.asarray(sequence.tolist())
        except (TypeError, ValueError) as error:
            raise self.error(f"no regular array (T, D): {error}", field, row) from error
        if sequence.size == 0:
            return np.zeros((0, 0), np.float32)
        if sequence.ndim == 1:
            sequence = sequence[None]
        if sequence.ndim != 2 or sequence.dtype.kind not in "biuf":
            found = f"shape {sequence.shape}, type {sequence.dtype}"
            raise self.error(f"a numeric array (T, D) is expected, not {found}", field, row)
        return sequence


def load_splits(path: Path, what: str) -> dict[str, PickledSplit]:
    """Load such a pickle, restricted to data (:mod:`hf_mmalign.data.safe_pickle`).

    Args:
        path (`Path`): The file.
        what (`str`): What is expected there, for the error of a missing file.

    Returns:
        `dict[str, PickledSplit]`: By `train`, `validation` and `test`.

    Raises:
        DataError: If the file is missing, damaged or hostile, or has not the three splits.
    """
    content = load_pickle(require_file(path, what))
    splits = {}
    for name, key in SPLIT_KEYS.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), dict):
            message = "a dict with the splits train, valid and test is expected, each a dict"
            raise DataError(message, file=path, field=key)
        splits[name] = PickledSplit(content[key], key, path)
    return splits


def modalities_in(splits: dict[str, PickledSplit], fields: dict[str, str], path: Path) -> list[str]:
    """The modalities that a file has, in order; `fields` says in which field each would be.

    Raises:
        DataError: If there are fewer than two, or one is in some splits only.
    """
    found = {name: [key for key, split in splits.items() if field in split] for name, field in fields.items()}
    for name, keys in found.items():
        lacking = [key for key in splits if key not in keys]
        if keys and lacking:
            splits[lacking[0]].entries(fields[name])  # raises, with what that split has
    present = [name for name, keys in found.items() if keys]
    if len(present) < 2:
        raise DataError(f"at least two of {list(fields.values())} are expected, not {present}", file=path)
    return present


def common_width(widths: dict[str, int], field: str, path: Path) -> int:
    """The feature width of a modality; `widths` has it by split. Raises `DataError` where the splits differ."""
    if len(set(widths.values())) > 1:
        raise DataError(f"the splits have different feature widths: {widths}", file=path, field=field)
    width = next(iter(widths.values()))
    if not width:
        raise DataError("no row has any feature", file=path, field=field)
    return width


def id_text(entry: Any) -> str:
    """An identifier as one string; an array's or list's entries are joined by underscores.

    Raises:
        ValueError: For more than 100 entries, and for what is neither text nor a number.
    """
    parts = [entry]
    if isinstance(entry, (np.ndarray, list, tuple)):
        array = np.ravel(np.asarray(entry))
        if array.size > _MOST_ID_PARTS:
            raise ValueError(f"{array.size} parts, more than {_MOST_ID_PARTS}")
        parts = array.tolist()
    for part in parts:
        if not isinstance(part, (str, bytes, int, float, np.generic, type(None))):
            raise ValueError(f"text or a number is expected, not {type(part).__name__}")
    return "_".join(part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in parts)
