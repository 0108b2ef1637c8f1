"""Reading files that strangers wrote: JSON, JSON lines and pictures, with errors that name the place."""

import json
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..pictures import opened_picture


def require_file(path: Path, what: str) -> Path:
    """Return `path` if it is a file, else raise `DataError` saying `what` was expected there."""
    if not path.is_file():
        found = "this is a folder" if path.is_dir() else "no regular file" if path.exists() else "no such file"
        raise DataError(f"{found}; {what} is expected there", file=path)
    return path


def require_folder(path: Path, what: str) -> Path:
    """Return `path` if it is a folder, else raise `DataError` saying `what` was expected there."""
    if not path.is_dir():
        raise DataError(
            f"{'this is a file' if path.is_file() else 'no such folder'}; {what} is expected there", file=path
        )
    return path


def first_file(folder: Path, names: tuple[str, ...], what: str) -> Path:
    """The first of `names` that exists in `folder`."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{what} is missing: the folder holds none of {', '.join(names)}", file=folder)


def read_json(path: Path, expected: type) -> Any:
    """The content of a JSON file whose top level must be of type `expected` (`dict` or `list`)."""
    require_file(path, "a JSON file")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", file=path) from error
    if not isinstance(content, expected):
        raise DataError(f"a JSON {_json_name(expected)} is expected, not {_json_name(type(content))}", file=path)
    return content


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers (from 1) and objects of a JSON-lines file; blank lines are skipped."""
    with open(require_file(path, "a JSON-lines file"), "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"not valid JSON: {error}", file=path, row=number) from error
            if not isinstance(row, dict):
                raise DataError(f"a JSON object is expected, not {_json_name(type(row))}", file=path, row=number)
            yield number, row


def require_text(value: str, **place: Any) -> str:
    """Return `value` if it is text that can be written as UTF-8.

    JSON and pickles may hold halves of surrogate pairs ("\\ud800"), which Arrow and tokenizers stumble over later.

    Raises:
        DataError: If it is not; `place` (file, row, field) goes into it.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = value[max(0, error.start - 20) : error.start + 20]
        message = f"half of a surrogate pair at index {error.start}, which is no text: {found!r}"
        raise DataError(message, **place) from error
    return value


def path_inside(folder: Path, relative: str, **place: Any) -> Path:
    """`folder / relative`, refused if the text leads out of the folder."""
    path = Path(os.path.normpath(folder / relative))
    if not path.is_relative_to(os.path.normpath(folder)) or "\0" in relative:
        raise DataError(f"{relative!r} leads out of the data set's folder", **place)
    return path


_MOST_REMEMBERED = 100_000


class ImageChecker:
    """Makes sure that picture files can be decoded, each file once unless there are a great many."""

    def __init__(self):
        self._checked: set[Path] = set()

    def cell(self, path: Path, **place: Any) -> dict[str, Any]:
        """The value of an image column for a picture file: its path, so that nothing is decoded and encoded anew.

        Raises:
            DataError: If the file is missing, truncated, no picture, or one that is too large or too long
                (:mod:`hf_mmalign.data.pictures`); `place` (file, row, field) goes into it.
        """
        if path not in self._checked:
            self.check(path, **place)
            if len(self._checked) == _MOST_REMEMBERED:
                self._checked.clear()
            self._checked.add(path)
        return {"path": str(path), "bytes": None}

    def check(self, source: Path | BytesIO, **place: Any) -> None:
        """Raise DataError as :meth:`cell` does, for a file or the bytes of one."""
        with opened_picture(source, **place) as image:
            # JPEG: the whole stream is read, but decoded at 1/8 scale, which is several times faster.
            image.draft("RGB", (max(image.width // 8, 1), max(image.height // 8, 1)))
            image.load()


def _json_name(kind: type) -> str:
    return {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}.get(kind, "number")
