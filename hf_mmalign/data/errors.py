"""Errors about data: they say which file, row and field is wrong and what would be right."""

from pathlib import Path


class DataError(ValueError):
    """A data file, row or value that cannot be used.

    Attributes:
        file (`str` or `None`): The file the value comes from.
        row (`int` or `None`): The line counted from 1 in a text file, else the index counted from 0.
        field (`str` or `None`): The name of the column, key or array.
    """

    def __init__(
        self, message: str, *, file: Path | str | None = None, row: int | None = None, field: str | None = None
    ):
        self.file = None if file is None else str(file)
        self.row = row
        self.field = field
        place = [part for part in (self.file, _labelled("row", row), _labelled("field", field)) if part]
        super().__init__(f"{', '.join(place)}: {message}" if place else message)


class UnsafePickleError(DataError):
    """A pickle that asks for more than numbers, strings, containers and NumPy arrays."""


def _labelled(label: str, value) -> str | None:
    return None if value is None else f"{label} {value!r}"
