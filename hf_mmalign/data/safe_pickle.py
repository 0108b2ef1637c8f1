"""Reading pickles from strangers: NumPy arrays, numbers, strings and containers come out, nothing else ever runs.

The data sets of affective computing (MOSI, MOSEI, UR-FUNNY, CH-SIMS, RAVDESS features) circulate as pickles, and a pickle
is a program. An allow-list of NumPy's own reconstruction functions is not enough: `numpy.dtype.__setstate__` and
`numpy.ndarray.__setstate__` trust their arguments, so a pickle can declare an object array whose elements are raw
bytes, that is, pointers of its choosing. So the pickle never touches NumPy: it fills the small stand-ins below, which
check what they are given, and the arrays are built from them by us.
"""

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from .errors import DataError, UnsafePickleError

# bool, signed, unsigned, floating, complex, unicode, bytes, and object (whose elements went through the same gate).
_DTYPE_KINDS = "biufcUSO"


def load_pickle(path: Path | str) -> Any:
    """Load a pickle that holds nothing but NumPy arrays and scalars, Python scalars, strings and built-in containers.

    The arrays may be read-only views of the file's bytes (no copy is made), so the peak memory is the file's size.

    Args:
        path (`Path` or `str`): The file.

    Returns:
        The object, typically a dict of arrays.

    Raises:
        UnsafePickleError: If the pickle refers to any other class or function, or misuses the permitted ones. Nothing
            of what it asks for has been run.
        DataError: If the file is truncated or is no pickle.
    """
    try:
        with open(path, "rb") as file:
            loaded = _RestrictedUnpickler(file, path).load()
        return _resolve(loaded, {}, path)
    except DataError as error:
        if error.file is None:
            raise UnsafePickleError(str(error), file=path) from error
        raise
    except RecursionError as error:
        raise UnsafePickleError("containers are nested too deeply", file=path) from error
    except OSError:
        raise
    # A damaged or hostile stream makes the unpickler raise nearly anything.
    except Exception as error:
        raise DataError(f"not a readable pickle ({type(error).__name__}: {error})", file=path) from error


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file, path: Path | str):
        # latin1 is how NumPy arrays pickled by Python 2 come through whole.
        super().__init__(file, encoding="latin1")
        self._path = path
        self._copy_budget = os.fstat(file.fileno()).st_size

    def find_class(self, module: str, name: str) -> Any:
        root = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        constructor = _CONSTRUCTORS.get((root, name))
        if constructor is None:
            raise UnsafePickleError(
                f"the pickle asks for {module}.{name}, which is not allowed: only NumPy arrays, numbers, strings and "
                "containers are read",
                file=self._path,
            )
        return _Permitted(f"{module}.{name}", constructor, self)

    def call(self, name: str, constructor: Callable[..., Any], args: tuple) -> Any:
        try:
            result = constructor(*args)
        except (TypeError, ValueError, LookupError) as error:
            raise UnsafePickleError(f"the pickle misuses {name}: {error}", file=self._path) from error
        if isinstance(result, (bytes, bytearray, set, frozenset)):
            # An honest pickle stores each of these once; a bomb copies one stored string a million times.
            self._copy_budget -= len(result)
            if self._copy_budget < 0:
                raise UnsafePickleError("the pickle holds more than its file: copies of copies", file=self._path)
        return result

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafePickleError(f"the pickle refers to an outside object ({pid!r})", file=self._path)


class _Permitted:
    """A permitted global. It can be called, and nothing else: the pickle can set no attribute on it."""

    __slots__ = ("constructor", "name", "unpickler")
    name: str
    constructor: Callable[..., Any]
    unpickler: _RestrictedUnpickler

    def __init__(self, name: str, constructor: Callable[..., Any], unpickler: _RestrictedUnpickler):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "constructor", constructor)
        object.__setattr__(self, "unpickler", unpickler)

    def __call__(self, *args: Any) -> Any:
        return self.unpickler.call(self.name, self.constructor, args)

    def __setattr__(self, attribute: str, value: Any) -> NoReturn:
        raise UnsafePickleError(f"the pickle tries to change {self.name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise UnsafePickleError(f"the pickle tries to change {self.name}")


class _DtypeStandIn:
    """Collects what `numpy.dtype` would be built from: a type code, then the byte order as state."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str):
            raise TypeError(f"a type code is expected, not {type(code).__name__}")
        dtype = np.dtype(code)
        if dtype.kind not in _DTYPE_KINDS or dtype.fields is not None or dtype.subdtype is not None:
            raise TypeError(f"arrays of type {code!r} are not read")
        self.dtype = dtype

    def __setstate__(self, state: tuple) -> None:
        _version, byte_order, subtype, names, fields, *_sizes = state
        if byte_order not in ("<", ">", "=", "|") or subtype or names or fields:
            raise UnsafePickleError("structured array types are not read")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _ArrayStandIn:
    """Collects the state of a `numpy.ndarray`, and builds the array from it."""

    __slots__ = ("array", "objects", "shape")

    def __init__(self):
        self.array: np.ndarray | None = None
        self.objects: list | None = None
        self.shape: tuple[int, ...] = ()

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran_order, data = state
        if not isinstance(dtype, _DtypeStandIn):
            raise UnsafePickleError("an array without an array type")
        self.shape = shape
        if dtype.dtype.kind == "O":
            # Object arrays are stored in the array's own order, C by the time they reach the pickle.
            if not isinstance(data, list):
                raise UnsafePickleError("an object array whose elements are not a list")
            self.objects = data
        else:
            self.array = _array_from_buffer(data, dtype, shape, "F" if fortran_order else "C")


def _reconstruct_array(subtype: Any, shape: Any, typecode: Any) -> _ArrayStandIn:
    if not (isinstance(subtype, _Permitted) and subtype.constructor is _refuse_direct_call):
        raise TypeError("only plain numpy.ndarray is reconstructed")
    return _ArrayStandIn()


def _array_from_buffer(data: Any, dtype: Any, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> np.ndarray:
    """The array of an in-band buffer; its length must fit the shape, so the pickle cannot claim memory it has not."""
    if isinstance(data, str):  # Python 2
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise TypeError(f"array data must be bytes, not {type(data).__name__}")
    if not isinstance(dtype, _DtypeStandIn) or dtype.dtype.kind == "O":
        raise TypeError("array data of an unknown type")
    if 0 in shape or dtype.dtype.itemsize == 0:
        if len(data) or np.prod(shape, dtype=float) > 1e6:
            raise ValueError(f"shape {shape} does not fit {len(data)} bytes")
        return np.empty(shape, dtype.dtype)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> np.generic:
    return _array_from_buffer(data, dtype, (1,))[0]


def _refuse_direct_call(*args: Any) -> NoReturn:
    raise TypeError("it may be named, not called")


def _encode_latin1(text: str, encoding: str) -> bytes:
    # How Python 2's protocol spells bytes; the other codecs (zlib, bz2 …) have no business in a data file.
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin1")


def _bytearray(*args: Any) -> bytearray:
    if args and not isinstance(args[0], (bytes, str)):  # bytearray(10**12) would allocate
        raise TypeError("a bytearray of bytes is expected")
    return bytearray(*args)


def _empty_bytes() -> bytes:
    return b""


_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _refuse_direct_call,
    ("numpy", "dtype"): _DtypeStandIn,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("_codecs", "encode"): _encode_latin1,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "bytes"): _empty_bytes,
    ("builtins", "complex"): complex,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "set"): set,
    ("collections", "OrderedDict"): OrderedDict,
}


def _resolve(value: Any, done: dict[Any, Any], path: Path | str) -> Any:
    """Replace stand-ins by their arrays, all the way down; shared parts stay shared."""
    if not isinstance(value, (_ArrayStandIn, _DtypeStandIn, _Permitted, dict, list, tuple, set, frozenset)):
        return value
    key = id(value)
    if key in done:
        if done[key] is _IN_PROGRESS:
            raise UnsafePickleError("a container that contains itself", file=path)
        return done[key][1]
    done[key] = _IN_PROGRESS
    if isinstance(value, _ArrayStandIn):
        resolved: Any = _finish_array(value, done, path)
    elif isinstance(value, dict):
        resolved = {_resolve(k, done, path): _resolve(v, done, path) for k, v in dict.items(value)}
    elif isinstance(value, (list, tuple, set, frozenset)):
        resolved = type(value)(_resolve(item, done, path) for item in value)
    else:
        raise UnsafePickleError("a type or function where data is expected", file=path)
    done[key] = (value, resolved)  # holding `value` keeps its id from being reused
    return resolved


_IN_PROGRESS = object()


def _finish_array(stand_in: _ArrayStandIn, done: dict[Any, Any], path: Path | str) -> np.ndarray:
    if stand_in.array is not None:
        return stand_in.array
    if stand_in.objects is None:
        raise UnsafePickleError("an array without content", file=path)
    if done.setdefault(("elements", id(stand_in.objects)), stand_in) is not stand_in:
        raise UnsafePickleError("two object arrays that claim the same elements", file=path)
    flat = np.empty(len(stand_in.objects), dtype=object)
    for index, item in enumerate(stand_in.objects):
        flat[index] = _resolve(item, done, path)
    return flat.reshape(stand_in.shape)
