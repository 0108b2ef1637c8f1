"""Rows of a data set with feature sequences, a batch at a time."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    """The rows of a data set, its feature sequences cut out of a batch's Arrow buffers.

    Args:
        dataset (`datasets.Dataset`): In NumPy's format.
        sequences (`Sequence[str]`): Its columns of type `Array2D((None, D))`.
    """

    def __init__(self, dataset: datasets.Dataset, sequences: Sequence[str]):
        self.dataset = dataset
        self.widths = {name: dataset.features[name].shape[1] for name in sequences}
        others = [name for name in dataset.column_names if name not in self.widths]
        self.others = dataset.select_columns(others).with_format(_LAYOUT) if others else None
        self.sequences = dataset.select_columns(list(sequences)).with_format("arrow")

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        indices = [int(index) for index in indices]
        rows = [{} for _ in indices] if self.others is None else self.others.__getitems__(indices)
        table = self.sequences[indices]
        for name, width in self.widths.items():
            for row, cell in zip(rows, _cells(table.column(name), width), strict=True):
                row[name] = cell
        return rows


def _cells(column: pa.ChunkedArray, width: int) -> list[np.ndarray | None]:
    """Each cell as (T, `width`) float32; a null as None."""
    chunk = column.combine_chunks()
    if isinstance(chunk, pa.ChunkedArray):  # of several chunks, as older versions of Arrow leave extension arrays
        chunk = pa.concat_arrays([part.storage for part in chunk.chunks])
    storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
    lengths = pc.fill_null(pc.list_value_length(storage), 0).to_numpy(zero_copy_only=False)
    values = storage.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    # A copy, so that whoever writes into a row neither writes into the file's pages nor into another row.
    cells = [cell.copy() for cell in np.split(values, np.cumsum(lengths)[:-1])]
    present = storage.is_valid().to_numpy(zero_copy_only=False)
    return [cell if is_there else None for cell, is_there in zip(cells, present, strict=True)]
