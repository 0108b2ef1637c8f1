"""Rows to predict: a table, or JSON lines, without labels, for a model of known modalities."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image
from torch import Tensor

from .audio import LogMel
from .errors import DataError
from .readers.table import iterate
from .readers.table_cells import Cells
from .tables import open_table


class PredictionRows:
    """Makes rows for a collator out of whatever columns there are; rows that cannot be used come as errors.

    Args:
        modalities (`Mapping[str, str | int]`): By modality of the model its kind: `"text"`, `"image"`, `"audio"` or its
            width.
        columns (`Mapping[str, str]`, *optional*): The table's name of a modality, where it is not the modality's own.
        id (`str`): The column that names a row; where there is none, its number does.
        mel (`LogMel`, *optional*): Makes frames of the sounds of the modality `audio`.
        replace_nonfinite (`bool`): Put 0 for NaN and Inf among features.
    """

    def __init__(
        self,
        modalities: Mapping[str, str | int],
        columns: Mapping[str, str] | None = None,
        id: str = "id",
        mel: LogMel | None = None,
        replace_nonfinite: bool = False,
    ):
        self.modalities = dict(modalities)
        self.columns = {name: (columns or {}).get(name, name) for name in modalities}
        self.id = id
        self.mel = mel
        self.replace_nonfinite = replace_nonfinite

    def of_table(self, source: str | Path) -> Iterator[dict[str, Any] | DataError]:
        """The rows of all splits of a table, in order; the argument as for :func:`hf_mmalign.data.tables.open_table`.

        Raises:
            DataError: If the table cannot be read, or has none of the modalities.
        """
        path, start = Path(source), 0
        cells = self._cells(path)
        for split, data in open_table(source).items():
            names = [name for name in (*self.columns.values(), self.id) if name in data.features]
            if not set(names) & set(self.columns.values()):
                raise DataError(
                    f"none of the columns {list(self.columns.values())} is there, only {list(data.features)}",
                    file=source,
                )
            for row, values in enumerate(iterate(data, names)):
                yield self._row(dict(zip(names, values, strict=True)), cells, row, str(split), start)
            start += len(data)

    def of_lines(self, lines: TextIO, name: str) -> Iterator[dict[str, Any] | DataError]:
        """The rows of JSON lines, one object each; blank lines are passed over. Paths start at the current folder."""
        cells = self._cells(Path(name))
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
                if not isinstance(content, dict):
                    raise ValueError(f"an object is expected, not {type(content).__name__}")
            except (ValueError, RecursionError) as error:
                yield DataError(f"no row in JSON: {error}", file=name, row=number)
                continue
            yield self._row(content, cells, number, "line", 0)

    def of_mappings(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any] | DataError]:
        """Rows as Python has them: pictures may be PIL's, features tensors, and NaN is a missing cell, as in pandas.

        Paths start at the current folder.

        Raises:
            DataError: If this is one row, and not several.
        """
        if isinstance(rows, Mapping):
            raise DataError(f"rows are a table's path or several dicts, not one {type(rows).__name__}")
        cells = self._cells(Path("rows"))
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                yield DataError(f"a dict is expected, not {type(row).__name__}", file="rows", row=number)
                continue
            yield self._row({name: _as_in_tables(value) for name, value in row.items()}, cells, number, "row", 0)

    def _cells(self, source: Path) -> dict[str, Cells]:
        return {
            name: Cells(
                name,
                kind if isinstance(kind, str) else "features",
                self.columns[name],
                source,
                self.mel if name == "audio" and isinstance(kind, int) else None,
                self.replace_nonfinite,
                kind if isinstance(kind, int) else None,
            )
            for name, kind in self.modalities.items()
        }

    def _row(
        self, raw: dict[str, Any], cells: dict[str, Cells], row: int, split: str, start: int
    ) -> dict[str, Any] | DataError:
        try:
            values = {name: _value(cell, raw.get(cell.column), row, split) for name, cell in cells.items()}
        except DataError as error:
            return error
        present = {name: value for name, value in values.items() if _is_there(value)}
        if not present:
            source = next(iter(cells.values())).source
            return DataError(f"all modalities are missing; the columns are {list(raw)}", file=source, row=row)
        for name, value in present.items():
            if self.modalities[name] == "image" and not isinstance(value, Image.Image):
                present[name] = value["path"] if value["bytes"] is None else Image.open(BytesIO(value["bytes"]))
        identifier = raw.get(self.id)
        return {"id": str(start + row if identifier is None else identifier), **present}


def _as_in_tables(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _value(cell: Cells, value: Any, row: int, split: str) -> Any:
    as_it_is = cell.kind == "image" and isinstance(value, Image.Image)
    if cell.kind == "audio" and cell.mel is None:
        as_it_is = isinstance(value, np.ndarray) or (isinstance(value, Mapping) and "array" in value)
    return value if as_it_is else cell(value, row, split)


def _is_there(value: Any) -> bool:
    return value is not None and (isinstance(value, Image.Image) or len(value) > 0)
