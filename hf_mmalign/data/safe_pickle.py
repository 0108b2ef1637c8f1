"""Reading pickles from strangers: NumPy arrays, numbers, strings and containers come out, nothing else ever runs.

The data sets of affective computing (MOSI, MOSEI, UR-FUNNY, CH-SIMS, RAVDESS features) circulate as pickles, and a pickle
is a program. So it runs where it can do no harm: in a process of its own (:mod:`.unpickling`) that knows NumPy's arrays
and plain data, nothing else, and that may take memory and time in proportion to the file. That process measures what
came out and answers with plain containers and buffers, from which the arrays are built here.

The answer is a pickle too, the other process's own, of what it has measured. The one function it may name is ours.
"""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from .errors import DataError, UnsafePickleError
from .unpickling import OUT_OF_MEMORY

# What reading may take: a constant, and a multiple of the file's size. Arrays take their size once (as Python 2 wrote them
# thrice), lists of floats and dicts of short strings some 25 times theirs; a list of None 8 times, in content 16 times.
_BASE_BYTES = 512 << 20
_MEMORY_FACTOR = 64
_CONTENT_FACTOR = 16
# Of the processor, plus one for each MB. Single numbers of NumPy are slowest, at some 10 MB a second.
_BASE_SECONDS = 5
# By the clock, where disks are slow, processors shared, or the system keeps no account (Windows).
_CLOCK_FACTOR = 6

_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive (npz, or what torch.save writes)",
    b"\x93NUMPY": "a NumPy file (npy)",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed by gzip",
}


def load_pickle(path: Path | str) -> Any:
    """Load a pickle that holds nothing but NumPy arrays and scalars, Python scalars, strings and built-in containers.

    Arrays may be read-only and may share memory. Where the file holds arrays, memory peaks at little more than its size.

    Args:
        path (`Path` or `str`): The file.

    Returns:
        The object, typically a dict of arrays.

    Raises:
        UnsafePickleError: If the pickle refers to any other class or function or misuses the permitted ones (nothing of
            what it asks for has been run), takes more memory or time than any honest file of its size, or holds what
            would: the same parts over and over, containers in more than 100 levels.
        DataError: If the file is truncated or is no pickle.
    """
    with open(path, "rb", buffering=0) as file:  # the position is the process's, too
        start = file.read(8)
        for magic, what in _OTHER_FORMATS.items():
            if start.startswith(magic):
                raise DataError(f"a pickle is expected, and this is {what}", file=path)
        file.seek(0)
        answer, buffers = _unpickled_elsewhere(file, path)
    try:
        return _Answer(answer, buffers).load()
    except Exception as error:  # a shape that does not fit, an array type that NumPy does not know, an array as a key …
        raise DataError(f"not a readable pickle ({type(error).__name__}: {str(error)[:200]})", file=path) from error


def _unpickled_elsewhere(file: BinaryIO, path: Path | str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The answer of the process that reads `file`: its pickle of plain containers, and the long buffers; all uint8."""
    size = os.fstat(file.fileno()).st_size
    memory, seconds = _memory_limit(size), _BASE_SECONDS + size // 10**6
    limits = [memory, seconds, _BASE_BYTES + _CONTENT_FACTOR * size]
    # -I and -S: nothing of the user's settings, paths and packages is read, so it starts at once.
    program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("unpickling.py")), *map(str, limits)]
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(program, stdin=file, stdout=subprocess.PIPE, stderr=complaints, pipesize=1 << 20)
        except OSError as error:
            message = f"Python ({sys.executable!r}) cannot be started to read the pickle: {error}"
            raise DataError(message, file=path) from error
        watch = threading.Timer(_CLOCK_FACTOR * seconds, process.kill)
        watch.daemon = True
        watch.start()
        try:
            header, *buffers = _received(process.stdout)
            if "error" in header:
                raise (UnsafePickleError if header["error"] == "unsafe" else DataError)(header["message"], file=path)
            return buffers[0], buffers[1:]
        except EOFError:
            too_late = watch.finished.is_set()
            complaints.seek(0)
            raise _broken_off(process.wait(), too_late, memory, seconds, complaints.read(), path) from None
        finally:
            watch.cancel()
            process.kill()
            process.wait()
            process.stdout.close()


def _memory_limit(size: int) -> int:
    limit = _BASE_BYTES + _MEMORY_FACTOR * size
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return limit
    return min(limit, max(there, 2 * size))


def _received(stream: BinaryIO) -> list[Any]:
    """The header, then as many uint8 arrays as it announces. Raises EOFError where the stream breaks off."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    received = [header]
    for size in header.get("sizes", ()):
        received.append(np.empty(size, np.uint8))
        if stream.readinto(received[-1]) < size:
            raise EOFError
    return received


def _broken_off(
    status: int, too_late: bool, memory: int, seconds: int, complaints: bytes, path: Path | str
) -> DataError:
    """The error for a reading process that ended without an answer."""
    no_honest_file = "which no honest file of its size does; it is damaged or hostile"
    if too_late or status == -getattr(signal, "SIGXCPU", 0):
        return UnsafePickleError(f"the pickle takes more than {seconds} seconds to read, {no_honest_file}", file=path)
    if status == OUT_OF_MEMORY:
        taken = f"more than {memory >> 20} MB of memory"
        return UnsafePickleError(f"the pickle takes {taken} to read, {no_honest_file}", file=path)
    if status == -getattr(signal, "SIGKILL", 0):
        return DataError("the process that reads the pickle was killed; the system may be out of memory", file=path)
    if status < 0 or status > 255:  # a signal, or Windows's codes
        message = f"the pickle makes the process that reads it crash (status {status}), as deeply nested keys do; it is"
        return UnsafePickleError(f"{message} damaged or hostile", file=path)
    last = complaints.decode(errors="replace").strip().rpartition("\n")[2]
    return DataError(f"the process that reads the pickle failed with status {status}: {last[:200]}", file=path)


class _Answer(pickle.Unpickler):
    """Reads what the process answered: built-in types, and calls of `array`."""

    def __init__(self, answer: np.ndarray, buffers: list[np.ndarray]):
        super().__init__(io.BytesIO(answer))
        # Not a method: in a cycle with this object, which remembers it, the arrays would outlive their users.
        self._array = partial(_array, buffers)

    def find_class(self, module: str, name: str) -> Any:
        if name == "array":
            return self._array
        if (module, name) == ("builtins", "complex"):
            return complex
        raise ValueError(f"{module}.{name} in the answer")


def _array(
    buffers: list[np.ndarray],
    code: str,
    byte_order: str,
    shape: tuple[int, ...] | None,
    fortran_order: bool,
    data: bytes | bytearray | int | list,
) -> np.ndarray | np.generic:
    """An array, or where `shape` is None a scalar; `data` are the elements, the bytes, or a buffer's number."""
    dtype = np.dtype(code).newbyteorder(byte_order)
    if isinstance(data, list):
        flat = np.empty(len(data), dtype=object)
        for index, item in enumerate(data):  # a slice would be filled with what lies in the items
            flat[index] = item
        return flat.reshape(shape)
    data = buffers[data] if isinstance(data, int) else data
    array = _array_from_buffer(data, dtype, (1,) if shape is None else shape, "F" if fortran_order else "C")
    return array[0] if shape is None else array


def _array_from_buffer(
    data: bytes | bytearray | np.ndarray, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]
) -> np.ndarray:
    if not len(data):
        if dtype.itemsize and 0 not in shape:
            raise ValueError(f"no bytes for shape {shape}")
        return np.zeros(shape, dtype)
    if dtype.kind == "U":
        points = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if points.max() > sys.maxunicode:
            raise ValueError("a string with what is no character")
    return np.frombuffer(data, dtype).reshape(shape, order=order)
