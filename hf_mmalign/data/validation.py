"""Checks on a loaded data set before training starts, each in one pass over its Arrow columns."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, DatasetInfo, Features, IterableDataset, IterableDatasetDict

from .audio import check_audio
from .errors import DataError
from .pictures import check_processable, opened_picture
from .schema import TARGET, holds_files, modalities_of, problem_type_of
from .tables import arrow_tables

__all__ = [
    "DataError",
    "check_finite",
    "column_batches",
    "feature_chunks",
    "file_sources",
    "flat_labels",
    "image_sources",
    "named_files",
    "row_batches",
    "steps_of",
    "validate_dataset",
]

_BATCH = 1000
_FEW = 16


def validate_dataset(
    dataset: DatasetDict | IterableDatasetDict,
    modalities: Mapping[str, str | int],
    problem_type: str,
    num_labels: int,
    image_processors: Mapping[str, Any] | None = None,
) -> None:
    """Check that a model can be trained and evaluated on a data set.

    Args:
        dataset (`DatasetDict`): The splits; all are checked, and `train` must be among them. A stream is read once.
        modalities (`Mapping[str, str | int]`): What the model takes: by column, `"text"`, `"image"`, `"audio"` or the
            feature width.
        problem_type (`str`): The model's `problem_type`.
        num_labels (`int`): The model's number of labels; for regression 1.
        image_processors (`Mapping[str, Any]`, *optional*): The model's image processor of each modality of pictures; it is
            given a blank of the longest pictures' sizes, which are what it may fail on.

    Raises:
        DataError: For an empty split; a missing modality column or one of another kind or width; a label of another
            kind or outside the range; feature arrays of mixed widths or with NaN or Inf; a text that is no valid UTF-8; an
            image that cannot be opened, is too large or too long (:mod:`hf_mmalign.data.pictures`), or that the image
            processor cannot take; a sound that cannot be opened. Only the headers of images and sounds are read.
            It names the split, the first row and the value, and what would be right.
    """
    if "train" not in dataset:
        raise DataError(f"there is no train split, only {sorted(dataset)}")
    for split, data in dataset.items():
        streamed, rows = isinstance(data, IterableDataset), 0
        if not streamed and len(data) == 0:
            raise DataError("the split is empty", field=str(split))
        _check_columns(data, str(split), modalities)
        for part in _parts_of_stream(data, modalities, problem_type) if streamed else [data]:
            try:
                _check_rows(part, str(split), modalities, problem_type, num_labels, image_processors or {})
            except DataError as error:
                row = None if error.row is None else rows + error.row
                raise DataError(error.message, file=error.file, row=row, field=error.field) from error
            rows += len(part)
        if not rows:
            raise DataError("the split is empty", field=str(split))


def _parts_of_stream(
    data: IterableDataset, modalities: Mapping[str, str | int], problem_type: str
) -> Iterator[Dataset]:
    """A stream's rows in pieces that memory holds, in one pass."""
    columns = [*modalities, TARGET if problem_type == "translation" else "label"]
    features = Features({name: data.features[name] for name in columns})
    for _, table in row_batches(data, columns):
        yield Dataset(table, info=DatasetInfo(features=features))


def _check_rows(
    data: Dataset,
    split: str,
    modalities: Mapping[str, str | int],
    problem_type: str,
    num_labels: int,
    image_processors: Mapping[str, Any],
) -> None:
    _check_labels(data, split, problem_type, num_labels)
    for name, kind in modalities.items():
        if isinstance(kind, int):
            check_finite(data, name, f"{split}.{name}")
        elif kind == "image":
            _check_images(data, f"{split}.{name}", name, image_processors.get(name))
        elif kind == "audio":
            for row, source in file_sources(data, name):
                check_audio(source, row=row, field=f"{split}.{name}")
        else:
            _check_texts(data, f"{split}.{name}", name)


def named_files(data: Dataset) -> str:
    """A hash of the pictures and sounds that rows name by their paths, which may change while the rows do not: the files'
    sizes and times of change."""
    digest = hashlib.sha256()
    for column in (name for name, kind in data.features.items() if holds_files(kind)):
        for _, source in file_sources(data, column):
            if isinstance(source, str):
                try:
                    status = os.stat(source)
                except OSError:  # the check says so
                    continue
                digest.update(os.fsencode(source) + f"|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def feature_chunks(data: Dataset | IterableDataset, column: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Stream a feature-sequence column: (first row, lengths (n,), values (steps, D) float32) per Arrow chunk.

    A missing sequence is of length 0, whether null or empty; a flat list is one step.

    Raises:
        DataError: If a step is of another width than the column's, or missing within its sequence.
    """
    width = modalities_of(data)[column]
    for first_row, array in column_batches(data, column):
        yield first_row, *steps_of(array, width, first_row, column)


def steps_of(array: pa.Array, width: int, first_row: int, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (n,) and values (steps, `width`) float32 of n feature sequences; for the rest see :func:`feature_chunks`."""
    rows = array.storage if isinstance(array, pa.ExtensionArray) else array
    if pa.types.is_nested(rows.type.value_type):
        lengths, steps = rows.value_lengths().fill_null(0).to_numpy(), rows.flatten()
    else:
        steps = rows.filter(pc.greater(rows.value_lengths().fill_null(0), 0))
        lengths = (rows.value_lengths().fill_null(0).to_numpy() > 0).astype(np.int64)
    widths = steps.value_lengths().fill_null(0).to_numpy()
    if (widths != width).any():
        at = int(np.flatnonzero(widths != width)[0])
        row = first_row + _row_of_step(lengths, at)
        raise DataError(f"a step has width {widths[at]}, the column {width}", row=row, field=column)
    values = steps.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return lengths, values.astype(np.float32, copy=False)


def column_batches(data: Dataset | IterableDataset, column: str) -> Iterator[tuple[int, pa.Array]]:
    """Stream a column as Arrow arrays, each with the number of its first row; nothing is decoded."""
    for first_row, table in row_batches(data, [column]):
        yield first_row, table.column(column).combine_chunks()


def row_batches(data: Dataset | IterableDataset, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """Stream some columns as Arrow tables, each with the number of its first row; nothing is decoded.

    Raises:
        DataError: If a stream comes upon what cannot be read.
    """
    first_row = 0
    # Rows on disk are looked at where they lie; a stream's pictures are held in memory.
    few = isinstance(data, IterableDataset) and any(holds_files(data.features[name]) for name in columns)
    for table in arrow_tables(data, columns, None, _FEW if few else _BATCH):
        yield first_row, table
        first_row += len(table)


def _row_of_step(lengths: np.ndarray, step: int) -> int:
    """The sequence in which the `step`-th of all concatenated steps lies."""
    return int(np.searchsorted(np.cumsum(lengths), step, side="right"))


def _check_columns(data: Dataset, split: str, modalities: Mapping[str, str | int]) -> None:
    available = modalities_of(data)
    for name, kind in modalities.items():
        if name not in available:
            raise DataError(f"the model takes it, but the data set has only {available}", field=f"{split}.{name}")
        if available[name] != kind:
            raise DataError(f"the model takes {_kind(kind)}, the data set has {_kind(available[name])}", field=name)


def _kind(kind: str | int) -> str:
    return f"features of width {kind}" if isinstance(kind, int) else kind


def _check_labels(data: Dataset, split: str, problem_type: str, num_labels: int) -> None:
    found = problem_type_of(data)
    if found != problem_type:
        raise DataError(f"the labels are for {found}, the model is for {problem_type}", field=f"{split}.label")
    if problem_type == "translation":
        _check_targets(data, split)
        return
    missing = 0
    for first_row, array in column_batches(data, "label"):
        missing += array.null_count
        rows, values = flat_labels(array)
        if problem_type == "regression":
            bad, right = ~np.isfinite(values), "a finite number"
        else:
            bad, right = (values < 0) | (values >= num_labels), f"a class id from 0 to {num_labels - 1}"
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{values[at]} is outside the range: {right} is expected",
                row=first_row + int(rows[at]),
                field=f"{split}.label",
            )
    if missing and split == "train":
        raise DataError(f"{missing} of {len(data)} training rows have no label", field="train.label")


def _check_targets(data: Dataset, split: str) -> None:
    _check_texts(data, f"{split}.{TARGET}", TARGET)
    for first_row, array in column_batches(data, TARGET):
        if array.null_count and split == "train":
            row = first_row + array.is_null().to_numpy(zero_copy_only=False).argmax()
            raise DataError("a training row needs a translation", row=int(row), field=f"{split}.{TARGET}")


def flat_labels(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and values of all labels that are there, one or several per row."""
    if pa.types.is_list(array.type):
        rows = np.repeat(np.arange(len(array)), array.value_lengths().fill_null(0).to_numpy())
        return rows, array.flatten().to_numpy(zero_copy_only=False)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(valid), array.drop_null().to_numpy(zero_copy_only=False)


def check_finite(data: Dataset, column: str, field: str | None = None) -> None:
    """Raise `DataError`, naming `field` (by default the column), if a feature-sequence column holds NaN or Inf."""
    count, first = 0, None
    for first_row, lengths, values in feature_chunks(data, column):
        bad = ~np.isfinite(values)
        if not bad.any():
            continue
        if first is None:
            step, dimension = (int(index) for index in np.argwhere(bad)[0])
            offset = _row_of_step(lengths, step)
            first = first_row + offset, step - int(lengths[:offset].sum()), dimension
        count += int(bad.sum())
    if first is not None:
        row, step, dimension = first
        raise DataError(
            f"{count} NaN or Inf values, the first at step {step}, dimension {dimension}; the readers' option "
            "nonfinite='replace' puts 0 in their place",
            row=row,
            field=field or column,
        )


def _check_texts(data: Dataset, field: str, column: str) -> None:
    """Arrow takes any bytes for a string that it has not made itself, such as half of a surrogate pair."""
    for first_row, array in column_batches(data, column):
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            for offset, text in enumerate(array.cast(pa.binary())):
                try:
                    (text.as_py() or b"").decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"no valid UTF-8: {error}", row=first_row + offset, field=field) from error


def _check_images(data: Dataset, field: str, column: str, image_processor: Any | None) -> None:
    """Open each picture's header; that is cheap, and the readers have decoded the files once already."""
    longest: dict[bool, tuple[float, int, int, int]] = {}  # of the upright and of the other ones: ratio, size, row
    for row, source in image_sources(data, column):
        with opened_picture(source, row=row, field=field) as image:
            width, height = image.size
        ratio = max(width, height) / min(width, height)
        upright = height > width
        if upright not in longest or ratio > longest[upright][0]:
            longest[upright] = (ratio, width, height, row)
    if image_processor is None:
        return
    for _, width, height, row in longest.values():
        check_processable(image_processor, width, height, row=row, field=field)


def image_sources(data: Dataset, column: str) -> Iterator[tuple[int, str | BytesIO]]:
    """The pictures of a column, undecoded: row number, and path or bytes. A path that several rows share comes once."""
    for row, source in file_sources(data, column):
        yield row, BytesIO(source) if isinstance(source, bytes) else source


def file_sources(data: Dataset, column: str) -> Iterator[tuple[int, str | bytes]]:
    """The pictures or sounds of a column, undecoded: row number, and path or content; a path that rows share, once."""
    seen: set[str] = set()
    for first_row, array in column_batches(data, column):
        # `struct_field`, unlike `array.field`, is null where the picture is.
        paths = pc.struct_field(array, "path").to_pylist()
        for offset, embedded in enumerate(pc.struct_field(array, "bytes")):
            if embedded.is_valid:
                yield first_row + offset, embedded.as_py()
            elif paths[offset] is not None and paths[offset] not in seen:
                seen.add(paths[offset])
                yield first_row + offset, paths[offset]
