"""How long the rows of a data set are once they are collated, for samplers that put rows of like length into a batch."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Dataset

from .errors import DataError
from .processor import MultimodalProcessor
from .schema import TARGET

_ROWS_AT_ONCE = 1000


def row_lengths(
    dataset: datasets.Dataset, processor: MultimodalProcessor, modalities: Mapping[str, str | int]
) -> list[int]:
    """Tokens of the text and of the translation plus steps of the feature sequences of each row, as the collator pads them.

    Pictures do not count, whose size is not known before they are read, nor do raw sounds.

    Args:
        dataset (`datasets.Dataset`): N rows.
        processor (`MultimodalProcessor`): Its tokenizer counts.
        modalities (`Mapping[str, str | int]`): The columns that count, as :func:`~data.schema.modalities_of` says.

    Returns:
        N lengths; a missing modality counts nothing.

    Raises:
        DataError: If there is neither a text nor a feature sequence, and for what the tokenizer refuses.
    """
    texts = [name for name, kind in modalities.items() if kind == "text"]
    texts += [TARGET] if TARGET in dataset.column_names else []
    sequences = [name for name, kind in modalities.items() if isinstance(kind, int)]
    present = [name for name in (*texts, *sequences) if name in dataset.column_names]
    if not present:
        raise DataError(f"rows without a text or a feature sequence have no length; there is {', '.join(modalities)}")
    lengths = np.zeros(len(dataset), np.int64)
    start = 0
    for table in dataset.select_columns(present).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        here = slice(start, start := start + len(table))
        for name in present:
            count = _tokens if name in texts else _steps
            lengths[here] += count(table.column(name), processor)
    return lengths.tolist()


def _tokens(column: pa.ChunkedArray, processor: MultimodalProcessor) -> np.ndarray:
    texts = column.to_pylist()
    ids = processor.target_ids(["" if text is None else text for text in texts])
    return np.array([0 if text is None else len(row) for text, row in zip(texts, ids, strict=True)], np.int64)


def _steps(column: pa.ChunkedArray, _: Any) -> np.ndarray:
    chunks = [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in column.chunks]
    storage = pa.chunked_array(chunks)
    lengths = pc.fill_null(pc.list_value_length(storage), 0).to_numpy().astype(np.int64)
    one_step = not pa.types.is_nested(storage.type.value_type)
    return np.minimum(lengths, 1) if one_step else lengths


def underlying_rows(rows: Dataset | datasets.Dataset) -> Any:
    """What lies under this package's views of a data set (noise on its rows, rows read in batches)."""
    while not isinstance(rows, datasets.Dataset) and hasattr(rows, "dataset"):
        rows = rows.dataset
    return rows
