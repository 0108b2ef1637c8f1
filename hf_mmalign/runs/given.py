"""Keys of a recipe as Python gives them, and what errors call the place where they were given."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from enum import Enum
from typing import Any

import numpy as np

from ..data.errors import shown
from .errors import RecipeError

_place = ContextVar("place", default="the keyword arguments")


def where_keys_come_from() -> str:
    """The place of keys over a recipe's, as errors call it."""
    return _place.get()


@contextmanager
def keys_come_from(place: str) -> Iterator[None]:
    """Let errors within call it so: the command line gives keys to the same functions that Python calls."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def plain_values(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Values as YAML would have read them: of paths their text, of tuples lists, of enumerations and NumPy numbers what
    they stand for. Containers are copied.

    Raises:
        RecipeError: For a key that is no text, and a value that no recipe can hold, named by its key.
    """
    wrong = [key for key in values if not isinstance(key, str)]
    if wrong:
        raise RecipeError(f"{origin}: {shown(wrong[0])} is no key; keys are text.")
    return {key: _plain(value, key, origin) for key, value in values.items()}


def _plain(value: Any, key: str, origin: str) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return _plain(value.value, key, origin)
    if value is None or isinstance(value, (str, int, float, bytes, date, set)):  # all that YAML's scalars can be
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_plain(name, key, origin): _plain(content, key, origin) for name, content in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(item, key, origin) for item in value]
    raise RecipeError(
        f"{origin}: {key} is {shown(value)} ({type(value).__name__}); a recipe holds text, numbers, booleans, lists and "
        "mappings."
    )
