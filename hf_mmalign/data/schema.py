"""The columns of a multimodal data set: how they are declared, and what their types say about modalities and labels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from datasets import (
    Array2D,
    Audio,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    LargeList,
    List,
    Value,
)

from .errors import DataError

# A split or several, on Arrow or as streams.
AnyDataset = Dataset | DatasetDict | IterableDataset | IterableDatasetDict

SPLITS = ("train", "validation", "test")

FEATURE_SEQUENCE_DTYPE = "float32"

# Column type of a raw sound, as `datasets.Audio` stores it; that one writes nothing where torchcodec is not installed.
SOUND = {"bytes": Value("binary"), "path": Value("string")}
# The column of what a text is to be translated into.
TARGET = "target"

_NO_MODALITIES = ("id", "group", "label", "labels")


@dataclass(frozen=True)
class Source:
    """What a reader makes of a file: the columns, and for each split a function that starts its stream of rows.

    Attributes:
        features (`datasets.Features`): The columns.
        splits (`dict[str, Callable[[], Iterator[dict]]]`): Row streams by split name; each may be started repeatedly.
    """

    features: Features
    splits: dict[str, Callable[[], Iterator[dict[str, Any]]]]


def feature_sequence(width: int) -> Array2D:
    """Column type of a feature-sequence modality: (T, `width`) float32, T free per row.

    A modality missing from a row is a sequence of length 0. (A null would say the same, but `datasets` cannot read
    nulls of `Array2D` back: plain rows crash and NumPy rows turn into NaN.)
    """
    return Array2D(shape=(None, width), dtype=FEATURE_SEQUENCE_DTYPE)


def modalities_of(dataset: AnyDataset | Features) -> dict[str, str | int]:
    """Names of the modality columns, in column order, each with its kind.

    In a data set made by hand, lists of numbers are one step of features and lists of lists a sequence of them; their width
    is that of the first row that has them. The columns `id`, `group`, `label` and `labels` are no modalities.

    Returns:
        `"text"` for raw text, `"image"` for pictures, `"audio"` for raw sound (`datasets.Audio`, or what it
        stores), and the feature width D (an `int`) for a feature sequence.

    Raises:
        DataError: If a column of lists is missing in every row, so that its width is unknown.
    """
    modalities: dict[str, str | int] = {}
    for name, column in _features_of(dataset).items():
        if name in _NO_MODALITIES:
            continue
        if isinstance(column, Image):
            modalities[name] = "image"
        elif holds_files(column):
            modalities[name] = "audio"
        elif isinstance(column, Array2D):
            modalities[name] = column.shape[1]
        elif name == "text" and isinstance(column, Value) and column.dtype == "string":
            modalities[name] = "text"
        elif _list_depth(column) and not isinstance(dataset, Features):
            modalities[name] = _first_width(dataset, name)
    return modalities


def holds_files(column: Any) -> bool:
    """Whether a column is of pictures or raw sounds."""
    return isinstance(column, (Image, Audio)) or (isinstance(column, dict) and column.keys() == SOUND.keys())


def _list_depth(column: Any) -> int:
    """1 for lists of numbers, 2 for lists of lists of numbers, 0 for anything else."""
    depth = 0
    while isinstance(column, (List, LargeList)):
        column, depth = column.feature, depth + 1
    numeric = isinstance(column, Value) and column.dtype.startswith(("float", "int", "uint"))
    return depth if numeric and depth <= 2 else 0


def _first_width(dataset: AnyDataset, name: str) -> int:
    for data in dataset.values() if isinstance(dataset, dict) else [dataset]:
        for table in data.select_columns([name]).with_format("arrow").iter(batch_size=1000):
            for cell in table.column(name):
                value = cell.as_py() if cell.is_valid else None
                if value:
                    return len(value[0]) if isinstance(value[0], list) else len(value)
    raise DataError(
        "missing in every row, so its width is unknown; declare it: Array2D((None, D), 'float32')", field=name
    )


def problem_type_of(dataset: AnyDataset | Features) -> str:
    """The `problem_type` of a transformers config that fits the column `label`; `"translation"` where there is none, but a
    column `target` of strings."""
    if "label" not in (features := _features_of(dataset)) and _is_string(features.get(TARGET)):
        return "translation"
    label = _label_column(dataset)
    if isinstance(label, ClassLabel):
        return "single_label_classification"
    if isinstance(label, List) and isinstance(label.feature, ClassLabel):
        return "multi_label_classification"
    if isinstance(label, Value) and label.dtype.startswith("float"):
        return "regression"
    if isinstance(label, Value) and label.dtype.startswith(("int", "uint")):
        return "single_label_classification"
    advice = "; dataset.class_encode_column('label') makes classes of it" if isinstance(label, Value) else ""
    raise DataError(f"no task is known for a label column of type {label}{advice}", field="label")


def label_names_of(dataset: AnyDataset | Features) -> list[str] | None:
    """Class names by class id; None for regression and translation."""
    if problem_type_of(dataset) == "translation":
        return None
    label = _label_column(dataset)
    if isinstance(label, List):
        label = label.feature
    return list(label.names) if isinstance(label, ClassLabel) else None


def num_labels_of(dataset: AnyDataset | Features) -> int:
    """Number of classes (single- and multi-label), or 1 for regression and translation.

    Plain integers are classes up to the largest.
    """
    names = label_names_of(dataset)
    if names is None and problem_type_of(dataset) == "single_label_classification":
        splits = dataset.values() if isinstance(dataset, dict) else [dataset]
        if any(isinstance(data, IterableDataset) for data in splits):
            raise DataError(
                "a stream's integers do not tell how many classes there are; name them, as "
                "dataset.cast_column('label', ClassLabel(names=[…])) does",
                field="label",
            )
        return 1 + max(int(pc.max(data.data.column("label")).as_py() or 0) for data in splits)
    return 1 if names is None else len(names)


def _features_of(dataset: AnyDataset | Features) -> Features:
    if isinstance(dataset, Features):
        return dataset
    data = next(iter(dataset.values())) if isinstance(dataset, dict) else dataset
    if data.features is None:
        raise DataError(
            "the stream does not say which columns it has; give it features, as IterableDataset.from_generator and "
            "IterableDataset.cast take them"
        )
    return data.features


def _is_string(column: Any) -> bool:
    return isinstance(column, Value) and column.dtype in ("string", "large_string")


def _label_column(dataset: AnyDataset | Features):
    features = _features_of(dataset)
    if "label" not in features:
        raise DataError(f"the data set has no column 'label'; its columns are {sorted(features)}", field="label")
    return features["label"]
