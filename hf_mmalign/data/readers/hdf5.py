"""HDF5 files that strangers wrote, read by a process of their own (:mod:`.hdf5_process`).

Of 3000 files with a few flipped bytes, most that were noticed made h5py raise something; four made the HDF5 library
crash or run in circles, which nothing inside this process could have stopped.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

# What a request may take: bytes, and seconds of the processor, for the description (honest: 0.1) and for rows. By the clock
# too, where disks are slow or the system keeps no account (Windows).
_MEMORY = 2 << 30
_DESCRIPTION_SECONDS = 5
_ROWS_SECONDS = 30
_CLOCK_SECONDS = 300

# No features of the field come near; a header can promise 2 · 10⁹ columns.
MAX_COLUMNS = 65_536
# Of a row, and of a chunk, which is unpacked whole. The rows read at once take no more either.
MAX_BYTES = 64 << 20
# How much larger than its file an array may be (gzip makes zeros a thousand times smaller, posters and features some ten
# times). Small arrays may always be.
_MOST_EXPANSION = 100
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class ArrayInfo:
    """What an array is: `kind` is `text`, or NumPy's letter."""

    name: str
    shape: tuple[int, ...]
    kind: str
    type: str
    item_bytes: int
    chunk_bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, in memory."""
        size = self.item_bytes
        for length in self.shape[1:]:
            size *= length
        return size


class HDF5File:
    """An HDF5 file that another process reads; a context manager, inside of which that process lives.

    Args:
        path (`Path`): The file.

    Raises:
        DataError: By every method, if the file is no HDF5 file, is damaged, or makes the HDF5 library crash or take more
            memory and time than any honest file does.
    """

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> "HDF5File":
        program = [sys.executable, "-P", str(Path(__file__).with_name("hdf5_process.py")), str(self._path)]
        # It finds packages where this process does, and needs no threads, for each of which memory is reserved.
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._complaints = tempfile.TemporaryFile()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._complaints}
        try:
            self._process = subprocess.Popen([*program, str(_MEMORY)], env=environment, **pipes)
        except OSError as error:
            message = f"Python ({sys.executable!r}) cannot be started to read the file: {error}"
            raise DataError(message, file=self._path) from error
        return self

    def __exit__(self, *_exception: Any) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stdin, self._complaints):
            try:
                stream.close()
            except BrokenPipeError:  # of a request that a crashed process never took
                continue

    def describe(self, names: list[str], table: str, attributes: dict[str, str]) -> dict[str, Any]:
        """What the file holds.

        Args:
            names (`list[str]`): The arrays asked for.
            table (`str`): The file's attribute that is Fuel's split table.
            attributes (`dict[str, str]`): By array, an attribute of it that is a text.

        Returns:
            `names`, up to 20 of all there are; `arrays`, by name an :class:`ArrayInfo`, or None where it is missing or lies
            in another file; `table`, rows of (split, source, start, stop), or None; `attributes`, by array, a text or None.
        """
        request = {"names": names, "table": table, "attributes": attributes}
        answer, _ = self._ask("describe", request, _DESCRIPTION_SECONDS, {})
        arrays = {
            name: found and ArrayInfo(name, tuple(found.pop("shape")), **found)
            for name, found in answer["arrays"].items()
        }
        texts = {name: answer["attributes"][f"{name}.{attribute}"] for name, attribute in attributes.items()}
        return answer | {"arrays": arrays, "attributes": texts}

    def check_size(self, array: ArrayInfo) -> None:
        """Refuse an array that is empty, or whose size is not to be believed. Raises DataError."""
        place = {"file": self._path, "field": array.name}
        if 0 in array.shape:
            raise DataError(f"the array is empty, of shape {array.shape}", **place)
        if len(array.shape) == 2 and array.shape[1] > MAX_COLUMNS:
            raise DataError(f"{array.shape[1]} columns; at most {MAX_COLUMNS} are read", **place)
        for what, size in (("a row", array.row_bytes), ("a chunk", array.chunk_bytes)):
            if size > MAX_BYTES:
                raise DataError(f"{what} of {size} bytes; at most {MAX_BYTES} are read at once", **place)
        size, there = array.row_bytes * array.shape[0], self._path.stat().st_size
        if size > max(MAX_BYTES, _MOST_EXPANSION * there):
            message = f"shape {array.shape} is {size} bytes, more than {_MOST_EXPANSION} times the file's {there}"
            raise DataError(f"{message}; it is damaged or hostile", **place)

    def chunks(self, arrays: list[ArrayInfo], start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Stream rows of several arrays: the first row's number, and by name an array, or a list of strings."""
        rows = max(1, min(_ROWS_AT_ONCE, MAX_BYTES // max(array.row_bytes for array in arrays)))
        for first in range(start, stop, rows):
            last = min(first + rows, stop)
            yield first, {array.name: self._read(array, first, last) for array in arrays}

    def _read(self, array: ArrayInfo, start: int, stop: int) -> np.ndarray | list[str]:
        request = {"name": array.name, "start": start, "stop": stop}
        answer, content = self._ask("read", request, _ROWS_SECONDS, {"row": start, "field": array.name})
        if array.kind == "text":
            return answer["texts"]
        return np.frombuffer(content, np.dtype(answer["type"])).reshape(answer["shape"])

    def _ask(
        self, what: str, request: dict[str, Any], seconds: int, place: dict[str, Any]
    ) -> tuple[dict[str, Any], bytes]:
        """Have the process do `what`, a method of its reader; errors name `place`, and this file."""
        place = place | {"file": self._path}
        watch = threading.Timer(_CLOCK_SECONDS, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            self._process.stdin.write(json.dumps([what, request, seconds]).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            answer = json.loads(line)
            content = self._process.stdout.read(answer.get("size", 0))
            if len(content) < answer.get("size", 0):
                raise BrokenPipeError
        except (BrokenPipeError, ValueError):
            raise DataError(self._reason_of_death(watch.finished.is_set()), **place) from None
        finally:
            watch.cancel()
        if "error" in answer:
            raise DataError(f"not a readable HDF5 file: {answer['error']}", **place)
        return answer, content

    def _reason_of_death(self, too_late: bool) -> str:
        status = self._process.wait()
        if too_late or status == -getattr(signal, "SIGXCPU", 0):
            return "the HDF5 library finds no end in reading the file, which is damaged or hostile"
        if status < 0 or status > 255:  # a signal, or Windows's codes
            return f"the file makes the HDF5 library crash (status {status}); it is damaged or hostile"
        self._complaints.seek(0)
        last = self._complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f"the process that reads HDF5 files failed with status {status}: {last[:200]}"
