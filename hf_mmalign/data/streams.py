"""Data sets whose training split is a stream, read while it is trained on."""

from collections.abc import Mapping
from typing import Any

from datasets import Array2D, Dataset, DatasetDict, IterableDataset, IterableDatasetDict


class StreamedDatasetDict(IterableDatasetDict):
    """Splits by name: `train` an `IterableDataset`, the others a `Dataset` each.

    Attributes:
        fingerprint (`str`): Of the stream's files and of the options they are read with, as a `Dataset` has one.
    """

    def __init__(self, splits: Mapping[str, Dataset | IterableDataset], fingerprint: str):
        super().__init__(splits)
        self.fingerprint = fingerprint

    def with_first_rows(self, count: int) -> "StreamedDatasetDict":
        """With so many training rows only: the first ones, or of each process's and worker's files the first."""
        fingerprint = f"{self.fingerprint}, the first {count} rows"
        return StreamedDatasetDict({**self, "train": self["train"].take(count)}, fingerprint)


def as_rows_of_arrays(data: Any) -> Any:
    """Rows with float32 arrays, where there are feature sequences: as plain Python they would be nested lists of floats."""
    features = next(iter(data.values())).features if isinstance(data, DatasetDict) else data.features
    return data.with_format("numpy" if any(isinstance(column, Array2D) for column in features.values()) else None)


def fingerprints_of(dataset: Mapping[str, Any]) -> dict[str, str]:
    """By split, what changes with its rows."""
    return {
        str(split): data._fingerprint if isinstance(data, Dataset) else dataset.fingerprint
        for split, data in dataset.items()
    }
