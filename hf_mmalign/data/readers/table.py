"""`table`: anyone's own data, as rows of a table; see `docs/data-formats.md` for every layout.

    tweet,photo,mfcc,mood                  a CSV; also JSON lines, Parquet, an .npz, a data set on the Hub or of
    so happy today,img/1.jpg,mfcc/1.npy,good   save_to_disk, a folder of pictures or sounds, webdataset shards

Whatever `datasets.load_dataset` reads. The option `columns` says which columns are modalities (our name: theirs).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, Value

from ..audio import LogMel
from ..errors import DataError
from ..schema import SOUND, SPLITS, Source, feature_sequence
from ..splitting import draw_parts
from ..streams import as_rows_of_arrays
from ..tables import arrow_tables, open_table
from .options import require_boolean, require_choice, require_integer
from .table_cells import Cells, is_numeric_list, kind_of, plain
from .table_labels import Labels, Targets

_BATCH = 256
_FEW = 16  # where rows hold pictures or sounds
_SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val"),
    "test": ("test", "eval"),
}
_DRAW = ("seed", "group", "stratify")
_NAMED = "{train: train-*.parquet, validation: validation.parquet, test: test.parquet}"
_SHARD_KEY = "__key__"  # by which a webdataset's samples are named
# Reads what a pass over all rows has found, or makes the pass.
Keep = Callable[[str, Callable[[], Any]], Any]
_AUDIO = {"sampling_rate": 16000, "n_mels": 64, "window_ms": 25.0, "hop_ms": 10.0}


def open_source(
    path: Path | str,
    columns: dict[str, str] | None = None,
    label: str = "label",
    label_names: list[str] | None = None,
    task: str | None = None,
    splits: dict[str, Any] | None = None,
    id: str | None = None,
    group: str | None = None,
    audio: dict[str, Any] | str | None = None,
    nonfinite: str = "error",
    target: str | None = None,
) -> Source:
    """Open a table.

    Args:
        path (`Path` or `str`): A file, a folder, or a data set's name on the Hub; see
            :func:`hf_mmalign.data.tables.open_table`.
        columns (`dict[str, str]`, *optional*): The modalities, our name: the table's. `text` is a text; `image` a picture,
            by path or bytes (either also a feature sequence, where the column holds lists of numbers); `audio` a sound, by
            path or bytes, which becomes log-mel frames, or a feature sequence; any other name a feature sequence: nested
            lists (T, D), a flat list (D,) as one step, the same in JSON, or a path to `.npy`. Relative paths start at the
            table. Left out, the columns that can be nothing else are taken.
        label (`str`): The column to predict: strings or integers are classes, numbers with a fraction a regression target,
            lists several labels at once.
        label_names (`list[str]`, *optional*): The classes in the order of their ids; by default those of the table, sorted.
        task (`str`, *optional*): `classification`, `multi_label` or `regression`, where the column alone would be taken for
            another.
        splits (`dict`, *optional*): For `train`, `validation` and `test` the table's name of the split, a file of the
            folder, or a share of the training rows to draw, such as `{validation: 0.1, test: 0.2, seed: 0}`.
            `stratify: true` keeps the classes' shares, `group: COLUMN` keeps rows of one group in one split. Left out, the
            table has them under their usual names.
        id (`str`, *optional*): A column that names each row; by default split and row number.
        group (`str`, *optional*): A column to keep as `group`, for folds by group.
        audio (`dict` or `str`, *optional*): Of the log-mel frames: `sampling_rate` (16000; sounds of another rate are
            resampled), `n_mels` (64), `window_ms` (25), `hop_ms` (10). `"raw"` leaves sounds as they are, for an encoder
            that takes them so.
        nonfinite (`str`): `error`, or `replace` NaN and Inf among features by 0.
        target (`str`, *optional*): The column of what `text` is to be translated into; then there is no label.
    """
    rows, maker = _opened(path, columns, label, label_names, task, splits, id, group, audio, nonfinite, target)
    return Source(maker.features, {name: partial(maker.rows, data, name) for name, data in rows.items()})


def open_stream(path: Path | str, options: Mapping[str, Any], keep: Keep) -> tuple[IterableDataset, Source]:
    """Open a table whose training rows are read while they are trained on.

    Args:
        path, options: As for :func:`open_source`.
        keep (`Callable`): `keep(what, find)` is what `find` returns, a pass over all rows, unless that is known already.

    Returns:
        The training split, as a stream with our columns, and the other splits. `id` is missing in the stream where no
        column names the rows: what a stream is divided and shuffled into has no row numbers.
    """
    given = signature(open_source).bind(path, **options)
    given.apply_defaults()
    rows, maker = _opened(**given.arguments, keep=keep)
    others = {name: partial(maker.rows, data, name) for name, data in rows.items() if name != "train"}
    return maker.stream(rows["train"]), Source(maker.features, others)


def _opened(
    path: Path | str,
    columns: dict[str, str] | None,
    label: str,
    label_names: list[str] | None,
    task: str | None,
    splits: dict[str, Any] | None,
    id: str | None,
    group: str | None,
    audio: dict[str, Any] | None,
    nonfinite: str,
    target: str | None,
    keep: Keep | None = None,
) -> tuple[dict[str, Any], "RowMaker"]:
    """The rows of each split as the table has them, and what makes ours of them; with `keep`, of streams."""
    require_choice("nonfinite", nonfinite, ("error", "replace"))
    plan = dict(splits or {})
    draw = {key: plan.pop(key) for key in _DRAW if key in plan}
    unknown = sorted(set(plan) - set(SPLITS))
    if unknown:
        raise DataError(f"{unknown[0]!r} is none of {', '.join((*SPLITS, *_DRAW))}", field="splits")
    source = Path(path)
    if keep is not None:
        _refuse_shares(plan, draw, source)
    table = open_table(path, _files(source, plan), streaming=keep is not None)
    rows = assign_splits(table, plan, draw, label, source)
    train = rows["train"]
    if keep is not None and id is None and _SHARD_KEY in train.features:
        id = _SHARD_KEY
    for name in (id, group):
        if name is not None:
            require_column(train, name, source)
    cells = modality_cells(train, columns, {label, target, id, group, draw.get("group")}, audio, nonfinite, source)
    find_widths(cells, train)
    labels: Labels | Targets
    if target is None:
        labels = Labels.of(rows, label, label_names, task, source, keep)
    elif label_names is not None or task is not None:
        raise DataError("it is to be translated into, so there are no label_names and no other task", field="target")
    else:
        labels = Targets.of(rows["train"], target, source)
    return rows, RowMaker(cells, labels, id, group)


def assign_splits(
    table: DatasetDict, plan: Mapping[str, Any], draw: Mapping[str, Any], label: str, source: Path
) -> dict[str, Dataset]:
    """The table's rows as train, validation and test: by the table's own splits, by the plan, or drawn from train.

    Raises:
        DataError: If a split is not there, or nothing says where one comes from.
    """
    rows: dict[str, Dataset] = {}
    fractions: dict[str, float] = {}
    for split in SPLITS:
        chosen = plan.get(split)
        if isinstance(chosen, float):
            fractions[split] = chosen
            continue
        names = (chosen,) if chosen is not None and chosen not in table and split not in table else _SYNONYMS[split]
        found = next((name for name in ((chosen,) if chosen in table else names) if name in table), None)
        if found is not None:
            rows[split] = table[found]
    example = "{train: train, validation: 0.1, test: 0.2}" if isinstance(table, DatasetDict) else _NAMED
    lacking = [split for split in SPLITS if split not in rows and split not in fractions]
    if lacking or "train" in fractions:
        raise DataError(
            f"the table has the splits {list(table)}; say where {lacking[0] if lacking else 'train'} comes from, for "
            f"example splits: {example}",
            file=source,
            field="splits",
        )
    if not fractions:
        return rows
    seed = require_integer("seed", draw.get("seed", 0), 0, 2**32 - 1)
    group = draw.get("group")
    groups = _values(rows["train"], group, source) if group is not None else None
    stratify = require_boolean("stratify", draw.get("stratify", False))
    classes = _values(rows["train"], label, source) if stratify else None
    parts = draw_parts(len(rows["train"]), fractions, seed, groups, classes)
    train = rows["train"]
    rows |= {split: train.select(parts[split]) for split in fractions}
    return {split: train.select(parts["rest"]) if split == "train" else rows[split] for split in SPLITS}


def modality_cells(
    data: Dataset,
    columns: Mapping[str, str] | None,
    taken: set[str | None],
    audio: Mapping[str, Any] | str | None,
    nonfinite: str,
    source: Path,
) -> list[Cells]:
    """A reader of cells for each modality; `taken` are columns that are something else.

    Raises:
        DataError: If a column is missing or can be no modality, or none is left.
    """
    if columns is None:
        columns = {}
        for name, column in data.features.items():
            kind = kind_of(name, column)
            # A string may be anything, and is taken for a file with features only where the option says so.
            if name not in taken and kind is not None and (kind != "features" or is_numeric_list(column)):
                columns[name] = name
    if not isinstance(columns, Mapping) or not columns:
        raise DataError(
            f"no modality among the columns {list(data.features)}; name them, for example columns: {{text: tweet, image: "
            "photo}}",
            file=source,
            field="columns",
        )
    settings = None if audio == "raw" else audio_settings(audio)
    cells = []
    for name, theirs in columns.items():
        column = require_column(data, theirs, source)
        kind = kind_of(name, column)
        if kind is None:
            raise DataError(f"a column of type {column} is no {name}", file=source, field=theirs)
        mel = LogMel(**settings) if kind == "audio" and settings is not None else None
        width = mel.n_mels if mel else None
        cells.append(Cells(name, kind, theirs, source, mel, nonfinite == "replace", width))
    return cells


def audio_settings(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of :class:`LogMel`: the option `audio` over the defaults. Raises DataError for an unknown one."""
    if not isinstance(options, (Mapping, type(None))):
        raise DataError(
            f"'raw', or a dict with some of {', '.join(_AUDIO)}, is expected, not {options!r}", field="audio"
        )
    unknown = sorted(set(options or {}) - set(_AUDIO))
    if unknown:
        raise DataError(f"{unknown[0]!r} is none of {', '.join(_AUDIO)}", field="audio")
    return _AUDIO | dict(options or {})


def find_widths(cells: list[Cells], data: Dataset) -> None:
    """Learn the widths of feature sequences from the first row that has each. Raises DataError where none has."""
    for cell in cells:
        if cell.kind != "features":
            continue
        for row, (value,) in enumerate(iterate(data, [cell.column], cell.source)):
            if cell(value, row, "train") is not None:
                break
        if cell.width is None:
            raise DataError(
                "missing in every training row, so its width is unknown", file=cell.source, field=cell.column
            )


def iterate(
    data: Dataset | IterableDataset, columns: list[str], source: str | Path | None = None
) -> Iterator[tuple[Any, ...]]:
    """The cells of some columns, row by row, as plain values; arrays stay arrays and nothing is decoded."""
    for table in arrow_tables(data, list(dict.fromkeys(columns)), source, _BATCH):
        yield from _cells_of(table, columns)


def _cells_of(table: pa.Table, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    arrays = [table.column(name).combine_chunks() for name in columns]
    for row in range(len(table)):
        yield tuple(plain(array[row]) for array in arrays)


def require_column(data: Dataset, name: str, source: Path) -> Any:
    """The type of a column. Raises DataError if the table lacks it."""
    if name not in data.features:
        raise DataError(f"there is no such column; the table has {list(data.features)}", file=source, field=str(name))
    return data.features[name]


def _files(path: Path, plan: Mapping[str, Any]) -> dict[str, str] | None:
    """The plan's files, where it names files of the folder, or patterns of them, rather than splits."""
    files = {split: name for split, name in plan.items() if isinstance(name, str) and _is_there(path, name)}
    return files or None


def _is_there(folder: Path, name: str) -> bool:
    return any(folder.glob(name)) if "*" in name and not Path(name).is_absolute() else (folder / name).is_file()


def _refuse_shares(plan: Mapping[str, Any], draw: Mapping[str, Any], source: Path) -> None:
    """A stream has no row numbers to draw from."""
    shares = [split for split, chosen in plan.items() if isinstance(chosen, float)]
    if shares or draw:
        raise DataError(
            f"{[*shares, *draw][0]} draws rows at random, which takes a table of known length, and this one is streamed; "
            f"name files or splits of the table, for example splits: {_NAMED}",
            file=source,
            field="splits",
        )


def _values(data: Dataset, column: str, source: Path) -> list[Any]:
    require_column(data, column, source)
    return [value for (value,) in iterate(data, [column])]


def _column_type(cell: Cells) -> Any:
    if cell.kind == "text":
        return Value("string")
    if cell.kind == "audio" and cell.mel is None:
        return SOUND
    return Image() if cell.kind == "image" else feature_sequence(cell.width)


@dataclass(frozen=True)
class RowMaker:
    """Makes our rows of a table's.

    Attributes:
        cells (`list[Cells]`): A reader for each modality.
        labels (`Labels` or `Targets`): Reads the label, or the text to translate into.
        id, group (`str`, *optional*): The table's columns of these.
    """

    cells: list[Cells]
    labels: Labels | Targets
    id: str | None
    group: str | None

    @property
    def features(self) -> Features:
        """Our columns."""
        features: dict[str, Any] = {"id": Value("string")}
        features |= {cell.name: _column_type(cell) for cell in self.cells}
        features |= {"group": Value("string")} if self.group is not None else {}
        return Features(features | {self.labels.name: self.labels.type})

    def columns(self, data: Dataset | IterableDataset) -> list[str]:
        """The table's columns that are read."""
        others = (self.labels.column, self.id, self.group)
        there = [name for name in others if name is not None and name in data.features]
        return [*(cell.column for cell in self.cells), *there]

    def rows(self, data: Dataset | IterableDataset, split: str) -> Iterator[dict[str, Any]]:
        """Our rows of a split, one by one."""
        columns, source = self.columns(data), self.labels.source
        for row, values in enumerate(iterate(data, columns, source)):
            yield self.row(columns, values, row, split, f"{split}-{row}")

    def row(
        self, columns: list[str], values: tuple[Any, ...], row: int, split: str, name: str | None
    ) -> dict[str, Any]:
        """One row; `name` is its id where no column says that."""
        rest = dict(zip(columns[len(self.cells) :], values[len(self.cells) :], strict=True))
        named = rest.get(self.id)
        result = {"id": name if named is None else str(named)}
        result |= {cell.name: cell(value, row, split) for cell, value in zip(self.cells, values, strict=False)}
        if self.group is not None:
            result["group"] = str(rest[self.group])
        return result | {self.labels.name: self.labels(rest.get(self.labels.column), row, split)}

    def stream(self, data: IterableDataset) -> IterableDataset:
        """The training split as a stream of our rows."""
        files = any(cell.kind in ("image", "audio") for cell in self.cells)
        columns, features = self.columns(data), self.features
        convert = partial(_converted, maker=self, columns=columns, features=features)
        data = data.select_columns(list(dict.fromkeys(columns))).with_format("arrow")
        data = data.map(
            convert, with_indices=True, batched=True, batch_size=_FEW if files else _BATCH, features=features
        )
        return as_rows_of_arrays(data)


def _converted(
    table: pa.Table, indices: list[int], *, maker: RowMaker, columns: list[str], features: Features
) -> pa.Table:
    """A stream's rows as ours. They are counted as this process comes upon them."""
    rows = []
    for row, values in zip(indices, _cells_of(table, columns), strict=True):
        try:
            rows.append(maker.row(columns, values, row, "train", None))
        except DataError as error:
            if maker.id is None:
                raise
            name = values[columns.index(maker.id, len(maker.cells))]
            message = f"{error.message} (the row's id is {name!r})"
            raise DataError(message, file=error.file, row=error.row, field=error.field) from error
    schema = features.arrow_schema
    return pa.table([_column_of([row[field.name] for row in rows], field.type) for field in schema], schema=schema)


def _column_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values of one of our columns on Arrow; of feature sequences (T, D) without a detour through Python's numbers."""
    if not isinstance(kind, pa.ExtensionType):
        return pa.array(values, type=kind)
    steps = np.concatenate(values, dtype=np.float32)
    ends = np.cumsum([0, *(len(value) for value in values)], dtype=np.int32)
    starts = np.arange(0, steps.size + 1, steps.shape[1], dtype=np.int32)
    rows = pa.ListArray.from_arrays(pa.array(starts), pa.array(steps.ravel()))
    return pa.ExtensionArray.from_storage(kind, pa.ListArray.from_arrays(pa.array(ends), rows))
