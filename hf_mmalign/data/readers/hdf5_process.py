"""The program that reads HDF5 files that strangers wrote. :mod:`.hdf5` starts it; nothing imports it.

The HDF5 library is C and trusts its files more than it should: a few flipped bytes make it crash, run in circles or ask for
terabytes. Here that ends this process only, which limits its own memory, and its time for each request.

Requests come on standard input, a line of JSON each; each answer on standard output is a line of JSON, after it the bytes
of an array where one was asked for.
"""

import json
import os
import sys
from typing import Any

import h5py
import numpy as np

# A chunk must fit the cache, or it is unpacked anew for every few rows.
_CHUNK_CACHE = 64 << 20


class _Reader:
    def __init__(self, path: str):
        self._path = path
        self._file: h5py.File | None = None

    @property
    def file(self) -> h5py.File:
        if self._file is None:
            self._file = h5py.File(self._path, "r", rdcc_nbytes=_CHUNK_CACHE)
        return self._file

    def describe(self, names: list[str], table: str, attributes: dict[str, str]) -> tuple[dict[str, Any], bytes]:
        """The arrays among `names`, Fuel's split table, and text attributes (by array, the attribute's name)."""
        return {
            "names": sorted(str(name) for name in self.file)[:20],
            "arrays": {name: self._array(name) for name in names},
            "table": self._table(table),
            "attributes": {
                f"{name}.{attribute}": self._text_attribute(name, attribute) for name, attribute in attributes.items()
            },
        }, b""

    def read(self, name: str, start: int, stop: int) -> tuple[dict[str, Any], bytes]:
        """The rows of an array: bytes, or where it is of strings, those."""
        values = self.file[name][start:stop]
        if values.dtype.kind in "SO":
            texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]
            return {"texts": texts}, b""
        content = values.tobytes()
        return {"type": values.dtype.str, "shape": values.shape, "size": len(content)}, content

    def _array(self, name: str) -> dict[str, Any] | None:
        """What it is, or None where there is none in this file (HDF5 can point anywhere on the disk)."""
        link = self.file.get(name, getlink=True) if name in self.file else None
        array = self.file[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual or array.shape is None:
            return None
        chunk = int(np.prod([int(size) for size in array.chunks], dtype=object)) if array.chunks else 0
        text = array.dtype.kind == "S" or h5py.check_string_dtype(array.dtype) is not None
        return {
            "shape": [int(size) for size in array.shape],
            "kind": "text" if text else array.dtype.kind,
            "type": str(array.dtype),
            "item_bytes": array.dtype.itemsize,
            "chunk_bytes": chunk * array.dtype.itemsize,
        }

    def _table(self, attribute: str) -> list[list] | None:
        """Fuel's rows (split, source, start, stop); none of them if it is another table."""
        if attribute not in self.file.attrs:
            return None
        table = self.file.attrs[attribute]
        try:
            return [
                [row["split"].decode(), row["source"].decode(), int(row["start"]), int(row["stop"])] for row in table
            ]
        except (KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError):
            return []

    def _text_attribute(self, name: str, attribute: str) -> str | None:
        if self._array(name) is None or attribute not in self.file[name].attrs:
            return None
        value = self.file[name].attrs[attribute]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _limit(memory: int | None = None, seconds: int | None = None) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: None if seconds is None else int(used.ru_utime + used.ru_stime) + 1 + seconds,
    }
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        try:
            if limit is not None:
                resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        except (ValueError, OSError):  # macOS takes no limit of the address space
            continue


def main(path: str, memory: int) -> None:
    """Answer requests about one file until there are no more, within `memory` bytes, and the seconds each request says."""
    _limit(memory=memory)
    reader = _Reader(path)
    with open(0, "rb") as requests, open(1, "wb") as answers:
        for line in requests:
            what, request, seconds = json.loads(line)
            _limit(seconds=seconds)
            content = b""
            try:
                header, content = getattr(reader, what)(**request)
            # A damaged file makes h5py raise nearly anything.
            except Exception as error:
                header = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
            answers.write(json.dumps(header).encode() + b"\n" + content)
            answers.flush()
        os._exit(0)  # closing a damaged file can crash too


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
