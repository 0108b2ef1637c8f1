"""`multi30k`: descriptions of pictures in several languages, one sentence a line (the folder `data/task1` of Multi30k).

    folder/raw/{train,val,test_2016_flickr,…}.{en,de,fr,cs}.gz    or without .gz
    folder/image_splits/{train,val,test_2016_flickr,…}.txt         the picture's file name a line
    folder/images/1000092795.jpg                                   the pictures, as many as there are

A row is a sentence `text`, its translation `target`, and the picture `image`, which may be missing; or features of it.
"""

import gzip
import string
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, Image, Value

from ..errors import DataError, shown
from ..schema import TARGET, Source, feature_sequence
from .features import FiniteGate
from .files import ImageChecker, path_inside, require_folder, require_text
from .options import require_boolean

_FILES = {"train": "train", "validation": "val"}


def open_source(
    path: Path,
    source: str = "en",
    target: str = "de",
    test: str = "test_2016_flickr",
    text_folder: str = "raw",
    images: str | bool = "images",
    features: str | None = None,
    pictured: bool = False,
    nonfinite: str = "error",
) -> Source:
    """Open a folder of Multi30k.

    Args:
        path (`Path`): The folder.
        source, target (`str`): Languages, as the files end: any two of those that are there.
        test (`str`): The files of the test split: `test_2016_flickr`, `test_2017_flickr` or `test_2017_mscoco`.
        text_folder (`str`): Where the sentences lie, `raw` or another.
        images (`str` or `bool`): Folder of the pictures; false for text alone. A picture that is not there is missing.
        features (`str`, *optional*): Features instead of pictures: the `.npy` of a split, `resnet50/{split}.npy`, with a
            row (D,) or (T, D) for each line, or of a picture, `features/{image}.npy`, missing where there is no such file.
        pictured (`bool`): Leave out the rows without a picture (or its features).
        nonfinite (`str`): `error`, or `replace` NaN and Inf among features by 0.
    """
    require_folder(path, "the folder of raw/ and image_splits/")
    require_boolean("pictured", pictured)
    names = _FILES | {"test": test}
    columns: dict[str, Any] = {"id": Value("string"), "text": Value("string")}
    pictures: Callable[[str], _Pictures] | None = None
    if features is not None:
        pictures = partial(_open_features, path, features, nonfinite)
        columns["image"] = feature_sequence(_width(path, features, names["train"]))
    elif images is not False:
        folder = path / ("images" if images is True else str(images))
        require_folder(folder, "the pictures (for text alone say images: false)")
        checker = ImageChecker()
        pictures = partial(_PictureFiles, folder, checker)
        columns["image"] = Image()
    elif pictured:
        raise DataError("there are no pictures to go by: images is false", field="pictured")
    columns[TARGET] = Value("string")
    stream = partial(_rows, path, languages=(source, target), text_folder=text_folder, pictures=pictures)
    return Source(
        Features(columns),
        {split: partial(stream, name, pictured=pictured, training=split == "train") for split, name in names.items()},
    )


class _Pictures:
    """What stands in the column `image`."""

    def cell(self, row: int, name: str) -> Any:
        """Of row number `row` with the picture `name`; None if it is missing."""
        raise NotImplementedError

    def close(self, rows: int) -> None:
        """Check what can be known only at a split's end."""


class _PictureFiles(_Pictures):
    def __init__(self, folder: Path, checker: ImageChecker, split: str):
        self.folder, self.checker, self.split = folder, checker, split

    def cell(self, row: int, name: str) -> Any:
        place = {"file": f"image_splits/{self.split}.txt", "row": row + 1}
        file = path_inside(self.folder, name, **place)
        return self.checker.cell(file, **place) if file.is_file() else None


class _SplitFeatures(_Pictures):
    """One array for all rows."""

    def __init__(self, file: Path, gate: FiniteGate):
        self.file, self.gate = file, gate
        self.values = _load(file, mmap=True)

    def cell(self, row: int, name: str) -> np.ndarray:
        if row >= len(self.values):
            raise DataError(f"{len(self.values)} rows, but the split has more sentences", file=self.file)
        return self.gate(np.atleast_2d(self.values[row]), row)

    def close(self, rows: int) -> None:
        if rows != len(self.values):
            raise DataError(f"{len(self.values)} rows, but the split has {rows} sentences", file=self.file)
        self.gate.close()


class _FeatureFiles(_Pictures):
    """One array for each picture."""

    def __init__(self, folder: Path, pattern: str, gate: FiniteGate, width: int):
        self.folder, self.pattern, self.gate, self.width = folder, pattern, gate, width

    def cell(self, row: int, name: str) -> np.ndarray:
        file = path_inside(self.folder, self.pattern.format(image=_stem(name)), row=row + 1)
        if not file.is_file():
            return np.zeros((0, self.width), np.float32)
        values = np.atleast_2d(_load(file))
        if values.shape[1] != self.width:
            raise DataError(f"width {values.shape[1]}, where others have {self.width}", file=file)
        return self.gate(values, row)

    def close(self, rows: int) -> None:
        self.gate.close()


def _open_features(folder: Path, pattern: str, nonfinite: str, split: str) -> _Pictures:
    gate = FiniteGate(nonfinite, folder / pattern, "image")
    if "split" in _fields(pattern):
        return _SplitFeatures(path_inside(folder, pattern.format(split=split), field="features"), gate)
    return _FeatureFiles(folder, pattern, gate, _width(folder, pattern, split))


def _fields(pattern: str) -> set[str]:
    """What is to be filled in: `{"split"}` or `{"image"}`."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
    except ValueError:
        fields = set()
    if fields not in ({"split"}, {"image"}):
        raise DataError(
            f"{{split}} or {{image}} is expected in the file's name, not {shown(pattern)}", field="features"
        )
    return fields


def _width(folder: Path, pattern: str, split: str) -> int:
    if "split" in _fields(pattern):
        return _load(path_inside(folder, pattern.format(split=split), field="features"), mmap=True).shape[-1]
    file = next((file for file in sorted(folder.glob(pattern.format(image="*"))) if file.is_file()), None)
    if file is None:
        raise DataError(f"there is no file of this kind in {folder}", field="features")
    return _load(file).shape[-1]


def _load(file: Path, mmap: bool = False) -> np.ndarray:
    """The numbers of a `.npy`, which may carry no objects."""
    try:
        values = np.load(file, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"no array of numbers: {error}", file=file) from error
    if (
        not isinstance(values, np.ndarray)
        or values.dtype.kind not in "fiu"
        or values.ndim not in ((2, 3) if mmap else (1, 2))
    ):
        found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(
            f"numbers (N, D) or (N, T, D), of a picture (D,) or (T, D), are expected, not {found}", file=file
        )
    return values


def _rows(
    folder: Path,
    name: str,
    *,
    languages: tuple[str, str],
    text_folder: str,
    pictures: Callable[[str], _Pictures] | None,
    pictured: bool,
    training: bool,
) -> Iterator[dict[str, Any]]:
    files = [_text_file(folder / text_folder, f"{name}.{language}") for language in languages]
    names_file = folder / "image_splits" / f"{name}.txt"
    columns = [_lines(file) for file in files]
    if pictures is not None or names_file.is_file():
        files.append(names_file)
        columns.append(_lines(names_file))
    made = pictures(name) if pictures is not None else None
    count = 0
    for row, cells in enumerate(zip_longest(*columns)):
        if None in cells:
            short, whole = (
                files[cells.index(None)],
                next(file for file, cell in zip(files, cells, strict=True) if cell is not None),
            )
            raise DataError(f"{row} lines, but {whole.name} has more", file=short)
        for file, cell in zip(files, cells, strict=True):
            require_text(cell, file=file, row=row + 1)
        if training and not cells[1]:
            raise DataError("a training row needs a translation, and this line is empty", file=files[1], row=row + 1)
        picture = cells[2].split("#")[0] if len(cells) > 2 else None
        result = {
            "id": _stem(picture) if picture else f"{name}-{row}",
            "text": cells[0] or None,
            TARGET: cells[1] or None,
        }
        count = row + 1
        if made is not None:
            result["image"] = made.cell(row, picture)
            if pictured and (result["image"] is None or len(result["image"]) == 0):
                continue
        yield result
    if made is not None:
        made.close(count)


def _text_file(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    others = sorted({file.name.removesuffix(".gz") for file in folder.glob(f"{name.rpartition('.')[0]}.*")})
    raise DataError(
        f"no such file, with .gz or without; there is {', '.join(others) or 'none of this split'}", file=folder / name
    )


def _lines(file: Path) -> Iterator[str]:
    """The lines of a text, which end in a newline and at nothing else that Unicode takes for a line's end."""
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8", newline="\n") as stream:
            for line in stream:
                yield line.strip()
    except (OSError, EOFError, UnicodeDecodeError) as error:  # gzip's own errors are OSErrors
        raise DataError(f"cannot be read as UTF-8 text: {error}", file=file) from error


def _stem(picture: str) -> str:
    return picture.rsplit(".", 1)[0]
