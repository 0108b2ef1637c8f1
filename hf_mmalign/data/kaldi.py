"""Kaldi's binary matrices of features (`.ark`), by the index beside them (`.scp`), without Kaldi.

An index may name a command whose output is to be read; that is refused, as is a file outside the data set's folder.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import DataError

_HEADER = np.dtype([("smallest", "<f4"), ("range", "<f4"), ("rows", "<i4"), ("columns", "<i4")])
# No utterance has more numbers; a damaged header may say anything.
_MOST_NUMBERS = 1 << 28


def read_index(file: Path, folder: Path) -> dict[str, tuple[Path, int]]:
    """Where each utterance's matrix begins, by its id.

    A line is `ID FILE.ark:OFFSET`. What the index calls by the path of another machine is looked for by its name, beside
    the index and anywhere below `folder`.

    Raises:
        DataError: For another line, a command, or a file that is not there.
    """
    found: dict[str, Path] = {}
    places: dict[str, tuple[Path, int]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"no index of Kaldi: {error}", file=file) from error
    for number, line in enumerate(lines, start=1):
        name, _, place = line.strip().partition(" ")
        ark, _, offset = place.strip().rpartition(":")
        if not ark or not offset.isdigit() or "|" in place:
            raise DataError(f"`ID FILE.ark:OFFSET` is expected, not {line[:80]!r}", file=file, row=number)
        if ark not in found:
            found[ark] = _find(ark, file, folder, number)
        places[name] = found[ark], int(offset)
    return places


def _find(ark: str, index: Path, folder: Path, number: int) -> Path:
    for candidate in (folder / ark, index.parent / ark, index.parent / Path(ark).name):
        if candidate.is_file() and candidate.resolve().is_relative_to(folder.resolve()):
            return candidate
    below = next(iter(sorted(folder.rglob(Path(ark).name))), None)
    if below is None:
        raise DataError(f"{Path(ark).name} is not in {folder}", file=index, row=number)
    return below


def read_matrix(file: Path, offset: int) -> np.ndarray:
    """`(T, D)` float32 at an offset of a file: plain (FM, DM) or compressed (CM, CM2, CM3).

    Raises:
        DataError: If there is no such matrix.
    """
    try:
        with open(file, "rb") as stream:
            stream.seek(offset)
            return _matrix(stream)
    except (OSError, ValueError) as error:
        raise DataError(f"no matrix of Kaldi at {offset}: {error}", file=file) from error


def _matrix(stream: BinaryIO) -> np.ndarray:
    if stream.read(2) != b"\0B":
        raise ValueError("it is not in binary form")
    kind = b""
    while not kind.endswith(b" ") and len(kind) < 5:
        kind += _exactly(stream, 1)
    if kind in (b"FM ", b"DM "):
        rows, columns = (_integer(stream) for _ in range(2))
        width = np.dtype("<f4" if kind == b"FM " else "<f8")
        _check_size(rows, columns)
        content = _exactly(stream, rows * columns * width.itemsize)
        return np.frombuffer(content, width).reshape(rows, columns).astype(np.float32)
    if kind not in (b"CM ", b"CM2 ", b"CM3 "):
        raise ValueError(f"its kind is {kind!r}, none of FM, DM, CM, CM2 and CM3")
    (header,) = np.frombuffer(_exactly(stream, _HEADER.itemsize), _HEADER)
    rows, columns = int(header["rows"]), int(header["columns"])
    _check_size(rows, columns)
    smallest, whole = np.float32(header["smallest"]), np.float32(header["range"])
    if kind == b"CM ":
        return _from_quartiles(stream, rows, columns, smallest, whole)
    width = np.dtype("<u2" if kind == b"CM2 " else "u1")
    codes = np.frombuffer(_exactly(stream, rows * columns * width.itemsize), width).reshape(rows, columns)
    return smallest + whole * (codes.astype(np.float32) / np.float32(np.iinfo(width).max))


def _from_quartiles(stream: BinaryIO, rows: int, columns: int, smallest: np.float32, whole: np.float32) -> np.ndarray:
    """Each column has its minimum, quartiles and maximum, and a byte per row between them."""
    quantiles = np.frombuffer(_exactly(stream, columns * 8), "<u2").reshape(columns, 4).astype(np.float32)
    low, quarter, three, high = (smallest + whole * (quantiles / np.float32(65535))).T
    codes = np.frombuffer(_exactly(stream, rows * columns), "u1").reshape(columns, rows).T.astype(np.float32)
    first = low + (quarter - low) * codes / 64
    middle = quarter + (three - quarter) * (codes - 64) / 128
    last = three + (high - three) * (codes - 192) / 63
    return np.where(codes <= 64, first, np.where(codes <= 192, middle, last)).astype(np.float32)


def _integer(stream: BinaryIO) -> int:
    size, *value = _exactly(stream, 5)
    if size != 4:
        raise ValueError("its size is not given in 4 bytes")
    return int.from_bytes(bytes(value), "little", signed=True)


def _check_size(rows: int, columns: int) -> None:
    if rows < 0 or columns < 0 or rows * columns > _MOST_NUMBERS:
        raise ValueError(f"it says that it is of size {rows} × {columns}")


def _exactly(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise ValueError("the file ends before it does")
    return content
