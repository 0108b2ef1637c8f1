"""The program that unpickles what strangers wrote; :mod:`.safe_pickle` starts it as a process of its own.

It reads a pickle from standard input and leaves its content, measured and found harmless, on standard output: a line of
JSON (`{"error": kind, "message": …}`, or the sizes of what follows), a pickle of plain containers, then the long buffers.

Two walls. Only NumPy's own way of building arrays is permitted, and even that never touches NumPy: its `__setstate__`
methods trust their arguments, so a pickle can declare an object array whose elements are raw bytes, that is, pointers of
its choosing. It fills the small stand-ins below instead. And what no list of permitted functions stops (memory by the
gigabyte, hashes that take years, a C stack that overflows) ends with this process, which limits its own memory and time.

The standard library is all it needs, so that it starts in milliseconds.
"""

import gc
import io
import itertools
import json
import os
import pickle
import re
import reprlib
import sys
from collections.abc import Callable, Collection
from typing import Any, NoReturn

# What a shared part costs wherever it is met, in bytes: a pointer, and the number it points to.
_SLOT = 16
_MAX_HEIGHT = 100
# Buffers from here on are sent one by one and freed at once, so that a large file is in memory only once.
_LONG = 1 << 16
# Kinds: bool, signed, unsigned, floating, complex, unicode, bytes, and object (whose elements go through the same gate).
_TYPE_CODE = re.compile(r"[<>=|]?[?biufcUSO]\d{0,10}")
_ATOMS = {type(None), bool, int, float, complex}
_TEXTS = {str, bytes, bytearray}
_SIZED = _TEXTS | {list, tuple, dict, set, frozenset}

OUT_OF_MEMORY = 3


class UnsafeError(Exception):
    """The pickle asks for what is not data, or for more than it holds."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BufferedReader, size: int):
        # latin1 is how NumPy arrays pickled by Python 2 come through whole.
        super().__init__(file, encoding="latin1")
        self._copies = _Copies(size)

    def find_class(self, module: str, name: str) -> Any:
        root = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        constructor = _CONSTRUCTORS.get((root, name))
        if constructor is None:
            raise UnsafeError(
                f"the pickle asks for {module[:80]}.{name[:80]}, which is not allowed: only NumPy arrays, numbers, "
                "strings and containers are read"
            )
        return _Permitted(f"{module}.{name}", constructor, self._copies)

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafeError(f"the pickle refers to an outside object ({reprlib.repr(pid)})")


class _Copies:
    """Counts what the pickle has copied. An honest one stores all of it; a bomb copies one string a million times."""

    def __init__(self, budget: int):
        self._budget = budget

    def count(self, copied: Any) -> None:
        if type(copied) in _SIZED:
            self._budget -= len(copied)
        if self._budget < 0:
            raise UnsafeError("the pickle holds more than its file: copies of copies")


class _Permitted:
    """A permitted global. It can be called, and nothing else: the pickle can set no attribute on it."""

    # Not the unpickler: in a cycle with it, all that it remembers would outlive it, buffers and all.
    __slots__ = ("constructor", "copies", "name")
    name: str
    constructor: Callable[..., Any]
    copies: _Copies

    def __init__(self, name: str, constructor: Callable[..., Any], copies: _Copies):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "constructor", constructor)
        object.__setattr__(self, "copies", copies)

    def __call__(self, *args: Any) -> Any:
        if args:  # what is copied comes first
            self.copies.count(args[0])
        try:
            return self.constructor(*args)
        except (TypeError, ValueError, LookupError) as error:
            raise UnsafeError(f"the pickle misuses {self.name[:160]}: {str(error)[:200]}") from error

    def __setattr__(self, attribute: str, value: Any) -> NoReturn:
        raise UnsafeError(f"the pickle tries to change {self.name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise UnsafeError(f"the pickle tries to change {self.name}")


class _Dtype:
    """Collects what `numpy.dtype` would be built from: a type code, then the byte order as state."""

    __slots__ = ("byte_order", "code")

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str):
            raise TypeError(f"a type code is expected, not {type(code).__name__}")
        if not _TYPE_CODE.fullmatch(code):
            raise TypeError(f"arrays of type {code[:40]!r} are not read")
        self.code = code
        self.byte_order = "|"  # as the code says

    def __setstate__(self, state: tuple) -> None:
        _version, byte_order, subtype, names, fields, *_sizes = state
        if byte_order not in ("<", ">", "=", "|") or subtype or names or fields:
            raise UnsafeError("structured array types are not read")
        self.byte_order = byte_order

    def is_object(self) -> bool:
        return "O" in self.code


class _Array:
    """Collects the state of a `numpy.ndarray`; `shape` is None for a scalar. The reader's process builds the array."""

    __slots__ = ("data", "dtype", "fortran_order", "shape")

    def __init__(self):
        self.data: bytes | bytearray | list | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran_order, data = state
        self.fill(data, dtype, shape, bool(fortran_order))

    def fill(self, data: Any, dtype: Any, shape: Any, fortran_order: bool) -> "_Array":
        if not isinstance(dtype, _Dtype):
            raise UnsafeError("an array without an array type")
        if isinstance(data, str):  # Python 2
            data = data.encode("latin1")
        if dtype.is_object() and type(data) is not list:
            raise UnsafeError("an object array whose elements are not a list")
        if not dtype.is_object() and type(data) not in (bytes, bytearray):
            raise TypeError(f"array data must be bytes, not {type(data).__name__}")
        if shape is not None and not (
            type(shape) is tuple and len(shape) <= 32 and all(type(length) is int and length >= 0 for length in shape)
        ):
            raise TypeError("an array's shape must be a tuple of lengths")
        self.dtype, self.shape, self.data = dtype, shape, data
        # Object arrays are stored in the array's own order, C by the time they reach the pickle.
        self.fortran_order = fortran_order and not dtype.is_object()
        return self

    def cost(self) -> int:
        """Bytes, without an object array's elements. An array without content claims its other axes' lengths."""
        if self.data is None:
            raise UnsafeError("an array without content")
        if self.data or self.shape is None:
            return len(self.data)
        cost = 1
        for length in self.shape:
            cost *= length or 1
        return cost


def _reconstruct_array(subtype: Any, shape: Any, typecode: Any) -> _Array:
    if not (isinstance(subtype, _Permitted) and subtype.constructor is _refuse_direct_call):
        raise TypeError("only plain numpy.ndarray is reconstructed")
    return _Array()


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: str = "C") -> _Array:
    return _Array().fill(data, dtype, shape, order == "F")


def _scalar(dtype: Any, data: Any) -> _Array:
    return _Array().fill(data, dtype, None, False)


def _refuse_direct_call(*args: Any) -> NoReturn:
    raise TypeError("it may be named, not called")


def _encode_latin1(text: str, encoding: str) -> bytes:
    # How Python 2's protocol spells bytes; the other codecs (zlib, bz2, punycode …) have no business in a data file.
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"encoding {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: str = "latin1") -> bytearray:
    if not isinstance(data, (bytes, str)):  # bytearray(10**12) would allocate
        raise TypeError("a bytearray of bytes is expected")
    return bytearray(_encode_latin1(data, encoding) if isinstance(data, str) else data)


def _empty_bytes() -> bytes:
    return b""


_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _refuse_direct_call,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("_codecs", "encode"): _encode_latin1,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "bytes"): _empty_bytes,
    ("builtins", "complex"): complex,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "set"): set,
    # A plain dict: an OrderedDict would let the pickle set attributes on it.
    ("collections", "OrderedDict"): dict,
}


class _Measure:
    """Walks the content as its users will: shared parts count wherever they are met, so laughs by the billion are too many.

    Refused are also containers in themselves, ones nested too deeply, and whatever is not data.
    """

    def __init__(self, budget: int):
        self._budget = budget
        self._done: dict[int, tuple[int, int] | None] = {}  # by id: size and height, or None while it is being walked

    def __call__(self, value: Any) -> tuple[int, int]:
        """The size in bytes of all that lies in `value`, and how deep it goes."""
        kind = type(value)
        if kind in _ATOMS:
            return _SLOT, 0
        if kind in _TEXTS:
            return self._checked(_SLOT + len(value)), 0
        size, parts = _SLOT, value
        if kind is _Array:
            size, parts = _SLOT + value.cost(), value.data if value.dtype.is_object() else ()
        elif kind is dict:
            parts = list(itertools.chain(value.keys(), value.values()))
        elif kind not in (list, tuple, set, frozenset):
            raise UnsafeError("a type or function where data is expected")
        kinds = set(map(type, parts))
        if kinds <= _ATOMS or kinds <= _TEXTS:
            lengths = sum(map(len, parts)) if kinds <= _TEXTS else 0
            return self._checked(size + _SLOT * len(parts) + lengths), 1
        if id(value) not in self._done:
            self._done[id(value)] = None
            self._done[id(value)] = self._container(parts, size)
        measured = self._done[id(value)]
        if measured is None:
            raise UnsafeError("a container that contains itself")
        return measured

    def _container(self, parts: Collection, size: int) -> tuple[int, int]:
        height = 0
        for part in parts:
            part_size, part_height = self(part)
            size = self._checked(size + part_size)
            height = max(height, part_height)
        # The height, not the depth at which a part is met first: a shared part may be met again further down.
        if height >= _MAX_HEIGHT:
            raise UnsafeError(f"containers are nested too deeply, in more than {_MAX_HEIGHT} levels")
        return size, height + 1

    def _checked(self, size: int) -> int:
        if size > self._budget:
            raise UnsafeError("the pickle holds more than its file: parts that contain the same parts, over and over")
        return size


class _Answer(pickle.Pickler):
    """Writes the content with a call of `array` for each array; long buffers stay behind in `buffers`, each once."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.buffers: list[bytes | bytearray] = []
        self._index: dict[int, int] = {}

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not _Array:
            return NotImplemented
        data: Any = value.data
        if type(data) is not list and len(data) >= _LONG:
            if id(data) not in self._index:
                self._index[id(data)] = len(self.buffers)
                self.buffers.append(data)
            data = self._index[id(data)]
        return array, (value.dtype.code, value.dtype.byte_order, value.shape, value.fortran_order, data)


def array(*args: Any) -> NoReturn:
    """The name by which the answer asks for an array."""
    raise NotImplementedError


def _limit_resources(memory: int, seconds: int) -> None:
    """Limit this process, where the system can (Windows cannot, macOS only the time)."""
    try:
        import resource
    except ImportError:
        return
    for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        _soft, hard = resource.getrlimit(kind)
        try:
            resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        except (ValueError, OSError):  # macOS takes no limit of the address space
            continue


def _read(budget: int) -> tuple[bytes, list[bytes | bytearray]]:
    with open(0, "rb") as file:
        content = _Unpickler(file, os.fstat(0).st_size).load()
    _Measure(budget)(content)
    answer = io.BytesIO()
    pickler = _Answer(answer)
    pickler.dump(content)
    return answer.getvalue(), pickler.buffers


def main(memory: int, seconds: int, budget: int) -> None:
    """Answer one pickle, within `memory` bytes, `seconds` of the processor, and `budget` bytes of content."""
    _limit_resources(memory, seconds)
    gc.disable()  # it would search millions of lists for cycles, again and again
    header: dict[str, Any]
    answer, buffers = b"", []
    try:
        answer, buffers = _read(budget)
        header = {"sizes": [len(answer), *map(len, buffers)]}
    except UnsafeError as error:
        header = {"error": "unsafe", "message": str(error)}
    except RecursionError:
        header = {"error": "unsafe", "message": f"containers are nested too deeply, in more than {_MAX_HEIGHT} levels"}
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    # A damaged or hostile stream makes the unpickler raise nearly anything.
    except Exception as error:
        message = f"not a readable pickle ({type(error).__name__}: {str(error)[:200]})"
        header = {"error": "damaged", "message": message}
    with open(1, "wb") as file:
        file.write(json.dumps(header).encode() + b"\n" + answer)
        buffers.reverse()
        while buffers:
            file.write(buffers.pop())
    os._exit(0)  # nothing is left to do, and taking a large content apart takes time


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
