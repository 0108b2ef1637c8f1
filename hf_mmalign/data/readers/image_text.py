"""`image-text`: a folder of JSON-lines files with pictures beside them, as Hateful Memes is distributed.

    folder/train.jsonl            {"id": 42953, "img": "img/42953.png", "label": 0, "text": "its their character …"}
    folder/dev.jsonl              or dev_seen.jsonl
    folder/test.jsonl             or test_seen.jsonl
    folder/img/42953.png

`img` is relative to the folder. `label` is a class id (from 0) or a class name. `text` or `img` may be null: that
modality is missing from the row. Rows of the test split may have no label, as in the Hateful Memes challenge: their label
is None, so they can be predicted and not scored. Other keys are ignored.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, Image, Value

from ..errors import DataError
from ..schema import Source
from .files import ImageChecker, first_file, path_inside, read_json_lines, require_file, require_folder, require_text

_VALIDATION_FILES = ("dev.jsonl", "dev_seen.jsonl")
_TEST_FILES = ("test.jsonl", "test_seen.jsonl")


def open_source(
    path: Path,
    label_names: list[str] | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
) -> Source:
    """Open an image–text folder.

    Args:
        path (`Path`): The folder.
        label_names (`list[str]`, *optional*): Class names by class id. By default the training split tells: ids 0 to the
            highest one become the names "0", "1", …; names are sorted.
        validation_file (`str`, *optional*): The validation split; by default `dev.jsonl`, else `dev_seen.jsonl`.
        test_file (`str`, *optional*): The test split; by default `test.jsonl`, else `test_seen.jsonl`.
    """
    require_folder(path, "the folder of train.jsonl and its pictures")
    files = {
        "train": require_file(path / "train.jsonl", "the training split"),
        "validation": first_file(path, (validation_file,) if validation_file else _VALIDATION_FILES, "validation"),
        "test": first_file(path, (test_file,) if test_file else _TEST_FILES, "the test split"),
    }
    classes = ClassLabel(names=[str(name) for name in label_names] if label_names else _label_names(files["train"]))
    features = Features({"id": Value("string"), "text": Value("string"), "image": Image(), "label": classes})
    images = ImageChecker()
    return Source(
        features, {name: partial(_rows, path, file, classes, images, name == "test") for name, file in files.items()}
    )


def _label_names(train_file: Path) -> list[str]:
    labels = {_label(row, train_file, line) for line, row in read_json_lines(train_file)}
    if not labels:
        raise DataError("the training split is empty", file=train_file)
    if all(isinstance(label, str) for label in labels):
        return sorted(labels)  # type: ignore[type-var]
    if all(isinstance(label, int) for label in labels):
        # A gap is legal (a rare class may be absent from a subset); a wild number is not a class id.
        if max(labels) > 10_000:  # type: ignore[type-var]
            raise DataError(f"class id {max(labels)} is implausible", file=train_file, field="label")  # type: ignore[type-var]
        return [str(index) for index in range(max(labels) + 1)]  # type: ignore[operator,type-var]
    raise DataError("some labels are class ids and some are class names", file=train_file, field="label")


def _rows(
    folder: Path, file: Path, classes: ClassLabel, images: ImageChecker, may_lack_label: bool
) -> Iterator[dict[str, Any]]:
    for line, row in read_json_lines(file):
        missing = sorted({"id", "img", "text"} - row.keys())
        if missing:
            raise DataError(f"the row has only {sorted(row)}", file=file, row=line, field=missing[0])
        if not isinstance(row["id"], (int, str)):
            raise DataError(f"a number or string is expected, not {row['id']!r}", file=file, row=line, field="id")
        for field in ("img", "text"):
            if not isinstance(row[field], (str, type(None))):
                raise DataError(f"a string, or null, is expected, not {row[field]!r}", file=file, row=line, field=field)
        for field in ("id", "img", "text"):
            require_text(str(row[field]), file=file, row=line, field=field)
        image = None
        if row["img"] is not None:
            place = {"file": file, "row": line, "field": "img"}
            image = images.cell(path_inside(folder, row["img"], **place), **place)
        label = None if may_lack_label and row.get("label") is None else _label(row, file, line)
        yield {
            "id": str(row["id"]),
            "text": row["text"],
            "image": image,
            "label": _class_id(label, classes, file, line),
        }


def _label(row: dict[str, Any], file: Path, line: int) -> int | str:
    label = row.get("label")
    if label is None:
        raise DataError("the row has no label; only test rows may lack it", file=file, row=line, field="label")
    if isinstance(label, bool) or not isinstance(label, (int, str)) or (isinstance(label, int) and label < 0):
        raise DataError(
            f"a class id from 0 or a class name is expected, not {label!r}", file=file, row=line, field="label"
        )
    require_text(str(label), file=file, row=line, field="label")
    return label


def _class_id(label: int | str | None, classes: ClassLabel, file: Path, line: int) -> int | None:
    if isinstance(label, str) and label in classes.names:
        return classes.str2int(label)
    if label is None or (isinstance(label, int) and label < classes.num_classes):
        return label
    raise DataError(
        f"label {label!r} is outside the range: the classes are {_shortened(classes.names)} "
        f"(ids 0 to {classes.num_classes - 1})",
        file=file,
        row=line,
        field="label",
    )


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
