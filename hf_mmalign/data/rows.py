"""Rows of a data set with feature sequences, a batch at a time."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Array2D
from torch.utils.data import Dataset

_LAYOUT = "numpy"


def rows_by_batch(dataset: Any) -> Any:
    """A data set whose rows a `DataLoader` gets faster, where it has feature sequences in NumPy's format; else itself.

    `datasets` reads a sequence of free length row by row, and the description of its column anew for each, which takes
    longer than a step of a small model. The rows are the same.
    """
    if not isinstance(dataset, datasets.Dataset) or dataset.format["type"] != _LAYOUT:
        return dataset
    if dataset.format["columns"] != dataset.column_names or dataset.format["format_kwargs"]:
        return dataset
    names = [name for name, column in dataset.features.items() if _is_sequence(column)]
    return BatchedRows(dataset, names) if names else dataset


def _is_sequence(column: Any) -> bool:
    return isinstance(column, Array2D) and column.shape[0] is None


class BatchedRows(Dataset):
    """The rows of a data set, its feature sequences cut out of the data set's Arrow buffers.

    Args:
        dataset (`datasets.Dataset`): In NumPy's format.
        sequences (`Sequence[str]`): Its columns of type `Array2D((None, D))`.
    """

    def __init__(self, dataset: datasets.Dataset, sequences: Sequence[str]):
        self.dataset = dataset
        others = [name for name in dataset.column_names if name not in sequences]
        self.others = dataset.select_columns(others).with_format(_LAYOUT) if others else None
        self.sequences = {name: SequenceColumn(dataset, name) for name in sequences}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = [int(index) for index in indices]
        rows = [{} for _ in indices] if self.others is None else self.others.__getitems__(indices)
        for name, column in self.sequences.items():
            for row, index in zip(rows, indices, strict=True):
                row[name] = column[index]
        return rows


class SequenceColumn:
    """The cells of a column of type `Array2D((None, D))`, each as (T, D); a null as None.

    Slices of Arrow's tables are avoided: `datasets` makes one for each row, and Arrow reads the description of the column's
    type anew for each.
    """

    def __init__(self, dataset: datasets.Dataset, name: str):
        self.dataset, self.name = dataset, name
        self.width = dataset.features[name].shape[1]
        self._chunks: list[_Chunk] | None = None

    def __getitem__(self, index: int) -> np.ndarray | None:
        if self._chunks is None:
            self._open()
        index = range(len(self.dataset))[index]
        if self._order is not None:
            index = int(self._order[index])
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._chunks[chunk].cell(index - int(self._starts[chunk]), self.width)

    def __getstate__(self) -> dict[str, Any]:
        # Views of the file's pages would travel to a loader's worker as copies of the whole column.
        return self.__dict__ | {"_chunks": None, "_starts": None, "_order": None}

    def _open(self) -> None:
        chunks = self.dataset.data.column(self.name).chunks
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)][:-1])
        # What `select` and `shuffle` leave: a column of positions, which `datasets` has no public name for.
        order = self.dataset._indices
        self._order = None if order is None else order.column(0).to_numpy()
        self._chunks = [_Chunk(chunk) for chunk in chunks]


class _Chunk:
    """One chunk of such a column: a list of lists of numbers, as two levels of offsets into one buffer."""

    def __init__(self, chunk: pa.Array):
        outer = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        inner = outer.values
        self.outer, self.inner = outer.offsets.to_numpy(), inner.offsets.to_numpy()
        self.values = inner.values.to_numpy(zero_copy_only=False)
        self.present = outer.is_valid().to_numpy(zero_copy_only=False) if outer.null_count else None

    def cell(self, row: int, width: int) -> np.ndarray | None:
        if self.present is not None and not self.present[row]:
            return None
        start, end = self.inner[self.outer[row : row + 2]]
        # A copy, so that whoever writes into a row neither writes into the file's pages nor into another row.
        return self.values[start:end].reshape(-1, width).copy()
