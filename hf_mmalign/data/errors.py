"""Errors about data: they say which file, row and field is wrong and what would be right."""

import reprlib
from pathlib import Path
from typing import Any

_LONGEST = 1000  # of a message; what it quotes may come from a stranger


def shown(value: Any) -> str:
    """`repr` for error messages: it looks into the first few parts of a container only, however many there are."""
    return _SHORT_REPR.repr(value)


class _ShortRepr(reprlib.Repr):
    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to write integers of more than 4300 digits.
        return super().repr_int(value, level) if value.bit_length() < 10_000 else f"<{value.bit_length()} bits>"


_SHORT_REPR = _ShortRepr()
_SHORT_REPR.maxlevel = 3
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = 80


class DataError(ValueError):
    """A data file, row or value that cannot be used. A very long message is cut.

    Attributes:
        message (`str`): What is wrong, without the place.
        file (`str` or `None`): The file the value comes from.
        row (`int` or `None`): The line counted from 1 in a text file, else the index counted from 0.
        field (`str` or `None`): The name of the column, key or array.
    """

    def __init__(
        self, message: str, *, file: Path | str | None = None, row: int | None = None, field: str | None = None
    ):
        self.message = message
        self.file = None if file is None else str(file)
        self.row = row
        self.field = field
        place = [part for part in (self.file, _labelled("row", row), _labelled("field", field)) if part]
        if len(message) > _LONGEST:
            message = message[:_LONGEST] + " …"
        super().__init__(f"{', '.join(place)}: {message}" if place else message)


class UnsafePickleError(DataError):
    """A pickle that asks for more than numbers, strings, containers and arrays, or takes more than its size allows."""


def _labelled(label: str, value) -> str | None:
    return None if value is None else f"{label} {value!r}"
