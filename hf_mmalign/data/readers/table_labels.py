"""The label column of a table: which task it is for, and its values as class ids or numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, IterableDataset, List, Value

from ..errors import DataError
from ..schema import TARGET
from ..tables import arrow_tables
from .options import require_choice

TASKS = ("classification", "multi_label", "regression")
# More different values than these are hardly classes.
_MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Labels:
    """Turns the cells of a label column into class ids, lists of them, or numbers.

    Attributes:
        column (`str`): The table's name of it.
        task (`str`): One of `TASKS`.
        names (`list[str]`): The classes in the order of their ids; empty for regression.
        source (`Path`): The table, for errors.
    """

    column: str
    task: str
    names: list[str]
    source: Path
    name: ClassVar[str] = "label"

    @classmethod
    def of(
        cls,
        rows: Mapping[str, Dataset | IterableDataset],
        column: str,
        names: list[str] | None,
        task: str | None,
        source: Path,
        keep: Callable[[str, Callable[[], list[str]]], list[str]] | None = None,
    ) -> "Labels":
        """Find out task and classes. Raises DataError if the column is missing, or its values fit no task.

        Of streams, `keep(what, find)` calls `find`, a pass over all rows for the classes, unless its result is known; with
        `names` there is no pass, and the rows are checked as they come.
        """
        if column not in rows["train"].features:
            raise DataError(
                f"there is no such column; the table has {list(rows['train'].features)}. Say label: COLUMN",
                file=source,
                field=column,
            )
        kind = rows["train"].features[column]
        inner, several = (kind.feature, True) if hasattr(kind, "feature") else (kind, False)
        task = _task(task, inner, several, column, source)
        if task == "regression":
            return cls(column, task, [], source)
        if isinstance(inner, ClassLabel):
            found = list(inner.names)
            if names is not None and list(map(str, names)) != found:
                raise DataError(f"the column names its classes itself: {found}", file=source, field="label_names")
            return cls(column, task, found, source)
        if keep is None:
            found = _distinct(rows, column, several, source)
        elif names is None:
            found = keep("classes", partial(_distinct, rows, column, several, source))
        else:
            found = [str(name) for name in names]
        if names is not None:
            strange = [value for value in found if value not in list(map(str, names))]
            if strange:
                raise DataError(f"{strange[0]!r} is none of the label_names {names}", file=source, field=column)
            found = [str(name) for name in names]
        if len(found) < 2:
            raise DataError(f"at least two classes are expected, not {found}", file=source, field=column)
        return cls(column, task, found, source)

    @property
    def type(self) -> Any:
        """The type of our column `label`."""
        if self.task == "regression":
            return Value("float32")
        return List(ClassLabel(names=self.names)) if self.task == "multi_label" else ClassLabel(names=self.names)

    def __call__(self, value: Any, row: int, split: str) -> Any:
        """A row's label; None where it is missing. Raises DataError for a value that is no label."""
        place = {"file": self.source, "row": row, "field": f"{split}.{self.column}"}
        if value is None or (isinstance(value, float) and np.isnan(value)):
            if split == "train":
                raise DataError("a training row needs a label", **place)
            return None
        if self.task == "regression":
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = np.nan
            if not np.isfinite(number):
                raise DataError(f"a finite number is expected, not {value!r}", **place)
            return number
        if self.task == "multi_label":
            return [self._id(item, place) for item in (value if isinstance(value, (list, np.ndarray)) else [value])]
        return self._id(value, place)

    def _id(self, value: Any, place: dict[str, Any]) -> int:
        name = as_name(value)
        if name in self._ids:
            return self._ids[name]
        # Class ids of a column that names its classes itself.
        if isinstance(value, (int, np.integer)) and 0 <= value < len(self.names):
            return int(value)
        raise DataError(f"{value!r} is none of the classes {self.names[:10]}", **place)

    @property
    def _ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


@dataclass(frozen=True)
class Targets:
    """Reads the cells of a column of texts to translate into.

    Attributes:
        column (`str`): The table's name of it.
        source (`Path`): The table, for errors.
    """

    column: str
    source: Path
    name: ClassVar[str] = TARGET
    type: ClassVar[Value] = Value("string")

    @classmethod
    def of(cls, train: Dataset, column: str, source: Path) -> "Targets":
        """Raises DataError if the column is missing, or holds no text."""
        if column not in train.features:
            raise DataError(
                f"there is no such column; the table has {list(train.features)}", file=source, field=str(column)
            )
        kind = train.features[column]
        if getattr(kind, "dtype", None) not in ("string", "large_string"):
            raise DataError(f"a column of type {kind} is no text to translate into", file=source, field=column)
        return cls(column, source)

    def __call__(self, value: Any, row: int, split: str) -> str | None:
        """A row's text; None where it is missing or empty. Raises DataError in training."""
        if not value and split == "train":
            raise DataError(
                "a training row needs a translation", file=self.source, row=row, field=f"{split}.{self.column}"
            )
        return value or None


def as_name(value: Any) -> str:
    """A class's name: integers without a fraction, truth values in lower case."""
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _task(task: str | None, inner: Any, several: bool, column: str, source: Path) -> str:
    if task is not None:
        return require_choice("task", task, TASKS)
    if several:
        return "multi_label"
    dtype = str(getattr(inner, "dtype", ""))
    if isinstance(inner, ClassLabel) or dtype.startswith(("int", "uint", "bool")) or "string" in dtype:
        return "classification"
    if dtype.startswith(("float", "double")):
        return "regression"
    raise DataError(f"a column of type {inner} is no label", file=source, field=column)


def _distinct(rows: Mapping[str, Dataset | IterableDataset], column: str, several: bool, source: Path) -> list[str]:
    """The classes of all splits, integers in the order of their size and else sorted."""
    values: set[Any] = set()
    for data in rows.values():
        if column not in data.features:
            continue
        for table in arrow_tables(data, [column], source, batch_size=10_000):
            array = table.column(column).combine_chunks()
            values.update(pc.unique(array.flatten() if several else array).drop_null().to_pylist())
        if len(values) > _MOST_CLASSES:
            raise DataError(
                f"more than {_MOST_CLASSES} different values are no classes; for numbers say task: regression",
                file=source,
                field=column,
            )
    if all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer()
        for value in values
    ):
        return [as_name(value) for value in sorted(values)]
    return sorted({as_name(value) for value in values})
