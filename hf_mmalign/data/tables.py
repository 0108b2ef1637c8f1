"""Tables as strangers keep them, opened as `datasets` without decoding pictures or sounds."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tarfile import TarError
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Audio, Dataset, DatasetDict, Features, Image, IterableDataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from .errors import DataError

# Builders of `datasets` by a file's ending. Empty cells of a CSV are missing; a text "NA" or "null" is a text.
_CSV = {"keep_default_na": False, "na_values": [""]}
_BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", _CSV),
    ".tsv": ("csv", _CSV | {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".parquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
    ".tar": ("webdataset", {}),
}
# Rows by which a stream's columns are known, and the parts in which one of Arrow files can be read side by side.
_ROWS_LOOKED_AT = 1000
_PARTS_ON_DISK = 64
# What the libraries that read files raise of files that are not what they should be.
_UNREADABLE = (
    DatasetGenerationError,
    DatasetNotFoundError,
    OSError,
    ValueError,
    TypeError,
    EOFError,
    TarError,
    pa.ArrowException,
)


def open_table(source: str | Path, files: Mapping[str, str] | None = None, *, streaming: bool = False) -> Any:
    """Open a table by its splits.

    Args:
        source (`str` or `Path`): A file (CSV, TSV, JSON, JSON lines, Parquet, Arrow, a webdataset's `.tar`, `.npz`); a
            folder that `load_dataset` reads (files of these kinds, imagefolder, audiofolder), or that `save_to_disk`
            wrote; or a data set's name on the Hub.
        files (`Mapping[str, str]`, *optional*): By split, the file or pattern in the folder; left out, `load_dataset` finds
            them by their names.
        streaming (`bool`): An `IterableDatasetDict` that reads while it is iterated. Where its files do not declare the
            columns' types, the first 1000 rows tell them.

    Returns:
        `DatasetDict` or `IterableDatasetDict` with the table's own split names; a lone file is the split `train`. Pictures
        and sounds stay paths or bytes.

    Raises:
        DataError: If there is no such thing, or it cannot be read.
    """
    path = Path(source)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            table = _from_disk(path, streaming)
        elif path.suffix == ".npz" and path.is_file():
            if streaming:
                raise DataError(
                    "an .npz is read as a whole; streams are of Parquet, JSON lines, CSV or .tar", file=path
                )
            table = DatasetDict(_from_arrays(path))
        else:
            table = _load(path, str(source), files, streaming)
            if streaming and path.exists():
                table = type(table)({name: _in_small_parts(data) for name, data in table.items()})
        return type(table)({name: _undecoded(data) for name, data in table.items()})
    except _UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        cause = error.__cause__ or error
        raise DataError(f"the table cannot be read: {str(cause) or type(cause).__name__}", file=source) from error


def _load(path: Path, name: str, files: Mapping[str, str] | None, streaming: bool) -> Any:
    if path.is_file():
        builder, options = _builder(path)
        return datasets.load_dataset(builder, data_files={"train": str(path)}, streaming=streaming, **options)
    if files and path.is_dir():
        builder, options = _builder(Path(next(iter(files.values()))))
        found = {split: str(path / file) for split, file in files.items()}
        return datasets.load_dataset(builder, data_files=found, streaming=streaming, **options)
    if path.is_dir():
        return datasets.load_dataset(str(path), streaming=streaming)
    if path.is_absolute() or path.suffix in _BUILDERS or name.count("/") > 1:
        raise DataError("no such file or folder", file=name)
    return datasets.load_dataset(name, streaming=streaming)


def _builder(path: Path) -> tuple[str, dict[str, Any]]:
    suffixes = [suffix for suffix in path.suffixes[-2:] if suffix in _BUILDERS]  # also .csv.gz
    if not suffixes:
        raise DataError(f"a table ends in one of {', '.join([*_BUILDERS, '.npz'])}", file=path)
    return _BUILDERS[suffixes[-1]]


def _from_disk(path: Path, streaming: bool) -> Any:
    loaded = datasets.load_from_disk(str(path))
    table = loaded if isinstance(loaded, DatasetDict) else DatasetDict({"train": loaded})
    if streaming:
        return datasets.IterableDatasetDict(
            {
                name: data.to_iterable_dataset(num_shards=max(1, min(len(data), _PARTS_ON_DISK)))
                for name, data in table.items()
            }
        )
    return table


def _in_small_parts(data: IterableDataset) -> IterableDataset:
    """A stream of Parquet files row group by row group, for pyarrow reads ahead in a file, often to its end, and several
    are read at the same time. (A `datasets` that cannot do it reads one after the other; on the Hub it would ask for every
    file first.)"""
    return data.reshard() if hasattr(data, "reshard") else data


def arrow_tables(
    data: Dataset | IterableDataset, columns: list[str], source: str | Path | None, batch_size: int
) -> Iterator[pa.Table]:
    """Some columns of a table, so many rows at a time; nothing is decoded.

    Raises:
        DataError: If a stream comes upon what cannot be read, or is of another type than its first rows. (Arrow data have
            been read before.)
    """
    try:
        yield from data.select_columns(columns).with_format("arrow").iter(batch_size=batch_size)
    except _UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the table cannot be read: {error}", file=source) from error


def version_on_hub(name: str) -> str:
    """What tells one state of a data set on the Hub from another. Raises DataError if there is none of that name."""
    try:
        builder = datasets.load_dataset_builder(name)
    except _UNREADABLE as error:
        raise DataError(f"the table cannot be read: {error}", file=name) from error
    return f"{builder.config_id} {builder.hash}"


def _from_arrays(path: Path) -> dict[str, Dataset]:
    """An `.npz` of arrays with one row per sample: `NAME`, or `SPLIT/NAME` for several splits.

    Beside a padded (N, T, D) array, `NAME_lengths` (N,) or `NAME_mask` (N, T) tell its valid steps.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    splits: dict[str, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        split, _, name = key.rpartition("/")
        splits.setdefault(split or "train", {})[name] = values
    return {split: _dataset_of(columns, path, split) for split, columns in splits.items()}


def _dataset_of(columns: dict[str, np.ndarray], path: Path, split: str) -> Dataset:
    sizes = {name: len(values) if values.ndim else 0 for name, values in columns.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise DataError(f"all arrays need one row per sample, but their lengths are {sizes}", file=path, field=split)
    helpers = {name for name in columns for whole in columns if name in (f"{whole}_lengths", f"{whole}_mask")}
    data: dict[str, Any] = {}
    for name, values in columns.items():
        if name in helpers:
            continue
        if values.ndim == 3:
            data[name] = _trimmed(name, values, columns, path)
        else:
            data[name] = list(values) if values.ndim == 2 else values.tolist()
    return Dataset.from_dict(data)


def _trimmed(name: str, values: np.ndarray, columns: dict[str, np.ndarray], path: Path) -> list[np.ndarray]:
    if f"{name}_mask" in columns:
        mask = columns[f"{name}_mask"]
        if mask.shape != values.shape[:2]:
            raise DataError(f"{mask.shape} for features {values.shape}", file=path, field=f"{name}_mask")
        return [row[valid != 0] for row, valid in zip(values, mask, strict=True)]
    if f"{name}_lengths" in columns:
        lengths = columns[f"{name}_lengths"]
        if (
            lengths.ndim != 1
            or lengths.dtype.kind not in "iu"
            or not ((lengths >= 0) & (lengths <= values.shape[1])).all()
        ):
            raise DataError(
                f"(N,) integers from 0 to {values.shape[1]} are expected", file=path, field=f"{name}_lengths"
            )
        return [row[:length] for row, length in zip(values, lengths, strict=True)]
    return list(values)


def _undecoded(data: Any) -> Any:
    if data.features is None:
        first = next(iter(data.with_format("arrow").iter(_ROWS_LOOKED_AT)), None)
        if first is None:
            raise DataError("it has no rows", field=str(data.split))
        data = data.cast(Features.from_arrow_schema(first.schema))
    for name, column in data.features.items():
        if isinstance(column, (Image, Audio)):
            data = data.cast_column(name, type(column)(decode=False))
    return data
