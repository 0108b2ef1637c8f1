"""Checks of readers' options, which come from YAML or from keyword arguments."""

from collections.abc import Collection
from typing import Any

from ..errors import DataError


def require_choice(field: str, value: Any, choices: Collection[str]) -> str:
    """Return `value` if it is one of `choices`, else raise `DataError`."""
    if value not in choices:
        raise DataError(f"one of {', '.join(choices)} is expected, not {value!r}", field=field)
    return value


def require_integer(field: str, value: Any, smallest: int, largest: int) -> int:
    """Return `value` if it is an integer from `smallest` to `largest`, else raise `DataError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise DataError(f"an integer from {smallest} to {largest} is expected, not {value!r}", field=field)
    return value


def require_positive(field: str, value: Any) -> float:
    """Return `value` as a float if it is a number above 0, else raise `DataError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise DataError(f"a number above 0 is expected, not {value!r}", field=field)
    return float(value)


def require_boolean(field: str, value: Any) -> bool:
    """Return `value` if it is True or False, else raise `DataError`."""
    if not isinstance(value, bool):
        raise DataError(f"true or false is expected, not {value!r}", field=field)
    return value
