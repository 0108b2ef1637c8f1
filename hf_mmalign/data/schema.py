"""The columns of a multimodal data set: how they are declared, and what their types say about modalities and labels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from .errors import DataError

SPLITS = ("train", "validation", "test")

FEATURE_SEQUENCE_DTYPE = "float32"


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


def modalities_of(dataset: Dataset | DatasetDict | Features) -> dict[str, str | int]:
    """Names of the modality columns, in column order, each with its kind.

    Returns:
        `"text"` for raw text, `"image"` for pictures, and the feature width D (an `int`) for a feature sequence.
    """
    modalities: dict[str, str | int] = {}
    for name, column in _features_of(dataset).items():
        if isinstance(column, Image):
            modalities[name] = "image"
        elif isinstance(column, Array2D):
            modalities[name] = column.shape[1]
        elif name == "text" and isinstance(column, Value) and column.dtype == "string":
            modalities[name] = "text"
    return modalities


def problem_type_of(dataset: Dataset | DatasetDict | Features) -> str:
    """The `problem_type` of a transformers config that fits the column `label`."""
    label = _label_column(dataset)
    if isinstance(label, ClassLabel):
        return "single_label_classification"
    if isinstance(label, List) and isinstance(label.feature, ClassLabel):
        return "multi_label_classification"
    if isinstance(label, Value) and label.dtype.startswith("float"):
        return "regression"
    raise DataError(f"no task is known for a label column of type {label}", field="label")


def label_names_of(dataset: Dataset | DatasetDict | Features) -> list[str] | None:
    """Class names by class id; None for regression."""
    label = _label_column(dataset)
    if isinstance(label, List):
        label = label.feature
    return list(label.names) if isinstance(label, ClassLabel) else None


def num_labels_of(dataset: Dataset | DatasetDict | Features) -> int:
    """Number of classes (single- and multi-label), or 1 for regression."""
    names = label_names_of(dataset)
    return 1 if names is None else len(names)


def _features_of(dataset: Dataset | DatasetDict | Features) -> Features:
    if isinstance(dataset, Features):
        return dataset
    if isinstance(dataset, DatasetDict):
        return next(iter(dataset.values())).features
    return dataset.features


def _label_column(dataset: Dataset | DatasetDict | Features):
    features = _features_of(dataset)
    if "label" not in features:
        raise DataError(f"the data set has no column 'label'; its columns are {sorted(features)}", field="label")
    return features["label"]
