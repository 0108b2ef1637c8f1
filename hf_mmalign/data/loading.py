"""From a name, or a format and a path, to a `datasets.DatasetDict` on Arrow files.

    load_multimodal_dataset("digits-captions")
    load_multimodal_dataset("image-text", "data/hateful_memes")

Columns of what comes back: `id` (string); `label`, or, to be translated into, `target` (string); and one column per
modality, whose type tells the modality's kind —
`text` as a string, `image` as `datasets.Image`, and any name as `datasets.Array2D((None, D))` for a feature sequence
(T, D) float32 without padding. A missing text or picture is None, a missing feature sequence has length 0.
"""

import difflib
import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import DatasetDict, Features
from datasets.exceptions import DatasetGenerationError
from packaging.version import Version

from .errors import DataError
from .kept import kept
from .readers.files import require_text
from .readers.options import require_integer
from .readers.table import open_stream
from .schema import (
    SPLITS,
    Source,
    label_names_of,
    modalities_of,
    num_labels_of,
    problem_type_of,
)
from .splitting import fold_of_rows
from .streams import StreamedDatasetDict, as_rows_of_arrays
from .tables import version_on_hub

TABLES_STREAM = Version(datasets.__version__) >= Version("5.2")

__all__ = [
    "FORMATS",
    "SPLITS",
    "label_names_of",
    "load_multimodal_dataset",
    "modalities_of",
    "num_labels_of",
    "problem_type_of",
]


@dataclass(frozen=True)
class Format:
    """Where a format's reader is: a function of `readers.<module>`; an embedded data set has no path."""

    module: str
    function: str = "open_source"
    embedded: bool = False


FORMATS = {
    "ave": Format("ave"),
    "crema-d": Format("crema_d"),
    "digits-av": Format("digits_av"),
    "digits-captions": Format("digits", "open_captions", embedded=True),
    "digits-translation": Format("digits_translation", embedded=True),
    "digits-views": Format("digits", "open_views", embedded=True),
    "easy-vqa": Format("easy_vqa"),
    "how2": Format("how2"),
    "iemocap": Format("iemocap"),
    "image-text": Format("image_text"),
    "kinetics-sounds": Format("kinetics_sounds"),
    "mmimdb": Format("mmimdb"),
    "mmsa": Format("mmsa"),
    "multi30k": Format("multi30k"),
    "multibench": Format("multibench"),
    "mvsa-single": Format("mvsa_single"),
    "nyu-depth": Format("nyu_depth"),
    "ravdess": Format("ravdess"),
    "table": Format("table"),
}


def load_multimodal_dataset(
    name_or_format: str,
    path: str | os.PathLike | None = None,
    *,
    cache_dir: str | os.PathLike | None = None,
    label_column: str = "label",
    folds: int | None = None,
    fold: int | None = None,
    fold_seed: int = 0,
    fold_group: str | None = None,
    streaming: bool = False,
    **options: Any,
) -> DatasetDict | StreamedDatasetDict:
    """Load an embedded data set, or files in one of the field's formats, with the splits train, validation and test.

    The files are read once, checked on the way, and written as Arrow; later calls map that into memory. The cache knows the
    files by size and time of change, so a changed file is read anew.

    Args:
        name_or_format (`str`): A key of `FORMATS`: `digits-captions`, `digits-translation`, `digits-views` (embedded),
            `ave`, `crema-d`, `digits-av`, `easy-vqa`, `how2`, `iemocap`, `image-text`, `kinetics-sounds`, `mmimdb`, `mmsa`,
            `multi30k`, `multibench`, `mvsa-single`, `nyu-depth`, `ravdess`, or `table` for any table of your own. The
            modules in `hf_mmalign.data.readers` describe each.
        path (`str`, *optional*): The file or folder, for a `table` also a data set's name on the Hub; none for embedded
            data.
        cache_dir (`str`, *optional*): Where the Arrow files go; by default the cache of the `datasets` library.
        label_column (`str`): The column that becomes `label`, for data with several targets (`digits-views` has
            `target`). The former `label` is dropped.
        folds, fold (`int`, *optional*): Divide all rows, of whatever split, into so many folds, at least 3: number `fold`
            is the test split, the next one (after the last, the first) the validation split, the others the training
            split. Classes are spread evenly. A format whose data have folds of their own (`ravdess`, `digits-av`) makes
            those.
        fold_seed (`int`), fold_group (`str`, *optional*): Seed of the draw, and a column whose rows of one value stay in
            one fold; of a `table` the one kept by its option `group` is taken if there is one.
        streaming (`bool`): For a `table` of Parquet, JSON lines, CSV or webdataset shards, on disk or on the Hub: the
            training split is a `datasets.IterableDataset`, read while it is trained on, and its memory and disk do not grow
            with its length. Validation and test, which are read many times, are on Arrow as ever. Needs datasets 5.2.
        options: Options of the reader; see its `open_…` function.

    Returns:
        `DatasetDict`, or for `streaming` a dict of the training stream and two `Dataset`s. Where there are feature
        sequences the format is `numpy`, so that rows come as float32 arrays.

    Raises:
        DataError: For an unknown name or option, and for every malformed file: with the file, the row and the field.
    """
    if streaming:
        _refuse_to_stream(name_or_format, label_column, folds, fold)
        return _streamed(path, options, cache_dir)
    options |= _own_folds(name_or_format, folds, fold)
    opener = _opener(name_or_format, options)
    if FORMATS[name_or_format].embedded:
        if path is not None:
            raise DataError(f"{name_or_format} is embedded data and takes no path, but got {str(path)!r}")
        open_source = partial(opener, **options)
        files: list[Path] = []
    else:
        if path is None:
            raise DataError(f"{name_or_format} needs the path of its file or folder")
        root, files = _found(path, name_or_format)
        open_source = partial(opener, root, **options)
    fingerprint = _fingerprint(name_or_format, files, options)
    cache_root = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
    dataset = _build(open_source, fingerprint, cache_root)
    if label_column != "label":
        dataset = _relabelled(dataset, label_column)
    if fold is not None and "fold" not in options:
        dataset = _folded(dataset, folds, fold, fold_seed, fold_group)
    return as_rows_of_arrays(dataset)


def _refuse_to_stream(name: str, label_column: str, folds: int | None, fold: int | None) -> None:
    if not TABLES_STREAM:
        raise DataError(
            f"datasets {datasets.__version__} loses a stream's pictures and mixes up its first rows; "
            "5.2 or newer is needed, or leave streaming out",
            field="streaming",
        )
    if name != "table":
        raise DataError(f"only the format table can be streamed, not {name!r}; leave it out", field="streaming")
    if folds is not None or fold is not None:
        raise DataError(
            "folds draw from all rows, which a stream does not have at hand; name files or splits of the table, or leave "
            "streaming out",
            field="fold",
        )
    if label_column != "label":
        raise DataError(f"a table's option label names the column: label: {label_column}", field="label_column")


def _streamed(
    path: str | os.PathLike | None, options: dict[str, Any], cache_dir: str | os.PathLike | None
) -> StreamedDatasetDict:
    _opener("table", options)
    if path is None:
        raise DataError("table needs the path of its file or folder")
    root, files = _found(path, "table")
    version = version_on_hub(root) if isinstance(root, str) else None
    fingerprint = _fingerprint("table", files, options | {"streaming": version})

    def keep(what: str, find: Callable[[], Any]) -> Any:
        return kept(what, {"data": fingerprint}, find, cache_dir)

    train, source = open_stream(root, options, keep)
    cache_root = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
    others = _build(lambda: source, fingerprint, cache_root, tuple(source.splits))
    return StreamedDatasetDict({"train": train, **as_rows_of_arrays(others)}, fingerprint)


def _found(path: str | os.PathLike, name: str) -> tuple[Path | str, list[Path]]:
    """The path itself and all files there; a name on the Hub and none."""
    root = Path(path).expanduser().absolute()
    if name == "table" and not root.exists():
        return str(path), []
    return root, _files_under(root)


def _own_folds(name: str, folds: int | None, fold: int | None) -> dict[str, Any]:
    """`folds` and `fold` as options of the reader, where it has them itself."""
    if not has_own_folds(name):
        if folds is not None and fold is None:
            raise DataError(
                "folds says how many there are; fold, from 0, says which one is the test split", field="fold"
            )
        return {}
    given = {"folds": folds, "fold": fold}
    return {key: value for key, value in given.items() if key in options_of(name) and value is not None}


def has_own_folds(name: str) -> bool:
    """Whether a format's data have folds of their own, by actor or speaker for example."""
    return name in FORMATS and "fold" in options_of(name)


def _folded(dataset: DatasetDict, folds: int | None, fold: int, seed: int, group: str | None) -> DatasetDict:
    if folds is None:
        raise DataError("fold says which one is the test split; folds says how many there are", field="folds")
    rows = datasets.concatenate_datasets(list(dataset.values()))
    group = group or ("group" if "group" in rows.features else None)
    if group is not None and group not in rows.features:
        raise DataError(f"there is no such column{_suggestion(group, rows.features)}", field="fold_group")
    single = problem_type_of(dataset) == "single_label_classification"
    plain = rows.with_format(None)
    fold_of = fold_of_rows(
        len(rows),
        require_integer("folds", folds, 3, max(3, len(rows))),
        require_integer("fold_seed", seed, 0, 2**32 - 1),
        plain[group][:] if group is not None else None,
        plain["label"][:] if single else None,
    )
    require_integer("fold", fold, 0, folds - 1)
    kinds = {fold: "test", (fold + 1) % folds: "validation"}
    split_of = np.array([kinds.get(number, "train") for number in range(folds)])[fold_of]
    return DatasetDict({split: rows.select(np.flatnonzero(split_of == split)) for split in SPLITS})


def options_of(name: str) -> list[str]:
    """The options of a format's reader."""
    entry = FORMATS[name]
    opener = getattr(importlib.import_module(f"{__package__}.readers.{entry.module}"), entry.function)
    return [option for option in inspect.signature(opener).parameters if option != "path"]


def check_options(name_or_format: str, options: dict[str, Any]) -> None:
    """Refuse, before any data are read, what :func:`load_multimodal_dataset` would not know. Raises DataError."""
    parameters = inspect.signature(load_multimodal_dataset).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    _opener(name_or_format, {name: value for name, value in options.items() if name not in own})


def _opener(name: str, options: dict[str, Any]) -> Callable[..., Source]:
    if name not in FORMATS:
        raise DataError(f"{name!r} is no known data set or format{_suggestion(name, FORMATS)}")
    entry = FORMATS[name]
    opener = getattr(importlib.import_module(f"{__package__}.readers.{entry.module}"), entry.function)
    known = options_of(name)
    for option in options:
        if option not in known:
            raise DataError(f"{name} has no option {option!r}{_suggestion(option, known)}", field=option)
    return opener


def _suggestion(name: str, known) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(known) or 'none'}"


def _files_under(root: Path) -> list[Path]:
    """The file itself, or every file below the folder (links followed, each folder once)."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError("no such file or folder", file=root)
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        files += [Path(folder, name) for name in names]
    return sorted(files)


def _fingerprint(name: str, files: list[Path], options: dict[str, Any]) -> str:
    """A hash of the data's identity: format, options, the files' sizes and times, and the code that reads them."""
    digest = hashlib.sha256(json.dumps([name, options], sort_keys=True, default=str).encode())
    package = Path(__file__).parent
    shared = [package / name for name in ("audio.py", "pictures.py", "safe_pickle.py", "schema.py", "unpickling.py")]
    for source in [*shared, *sorted(package.glob("readers/*.py"))]:
        digest.update(source.read_bytes())
    for file in files:
        try:
            status = file.stat()
        except OSError:  # a dangling link, or one that leads to itself; if it matters, its reader says so
            continue
        digest.update(os.fsencode(file) + f"|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _build(
    open_source: Callable[[], Source], fingerprint: str, cache_root: Path, names: tuple[str, ...] = SPLITS
) -> DatasetDict:
    # Opened at most once, and not at all when everything is cached.
    source = cache(open_source)
    # The columns are kept beside the Arrow files, because finding them out can mean reading a whole pickle.
    columns_file = cache_root / "hf_mmalign" / f"{fingerprint}.json"
    if columns_file.is_file():
        features = Features.from_dict(json.loads(columns_file.read_text(encoding="utf-8")))
    else:
        features = source().features

    def rows(split: str) -> Iterator[dict[str, Any]]:
        index = -1
        for index, row in enumerate(source().splits[split]()):
            _check_text_cells(row, split, index)
            yield row
        if index < 0:
            raise DataError(f"the {split} split is empty")

    splits = {}
    for split in names:
        try:
            splits[split] = datasets.Dataset.from_generator(
                partial(rows, split),
                features=features,
                cache_dir=str(cache_root),
                split=datasets.NamedSplit(split),
                fingerprint=f"{fingerprint}-{split}",
            )
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, (DataError, OSError)):  # OSError: the disk is full
                raise error.__cause__ from None
            raise
    if not columns_file.is_file():
        columns_file.parent.mkdir(parents=True, exist_ok=True)
        draft = columns_file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(features.to_dict()), encoding="utf-8")
        draft.replace(columns_file)
    return DatasetDict(splits)


def _check_text_cells(row: dict[str, Any], split: str, index: int) -> None:
    """Whatever the reader, a name with a half of a surrogate pair (as a file's may have) is no text for Arrow."""
    for column, value in row.items():
        text = value.get("path") if isinstance(value, dict) else value
        if isinstance(text, str) and not text.isascii():
            require_text(text, row=index, field=f"{split}.{column}")


def _relabelled(dataset: DatasetDict, column: str) -> DatasetDict:
    features = dataset["train"].features
    if column not in features:
        raise DataError(f"there is no such column{_suggestion(column, features)}", field=column)
    return dataset.remove_columns("label").rename_column(column, "label")
