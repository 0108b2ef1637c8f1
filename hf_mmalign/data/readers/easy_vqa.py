"""`easy-vqa`: questions about a picture of one shape, as the easy-VQA repository's data folder lies on disk.

    folder/answers.txt                      one answer a line: the classes
    folder/{train,test}/questions.json      [[question, answer, picture id], …]
    folder/{train,test}/images/ID.png

There is no validation split, so pictures are taken from the training folder, with all their questions: a model that knows
a picture from training must not meet it in validation.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, Image, Value

from ..errors import DataError
from ..schema import Source
from .files import ImageChecker, read_json, require_file, require_folder, require_text


def open_source(path: Path, validation_fraction: float = 0.1, seed: int = 0) -> Source:
    """Open an easy-VQA folder.

    Args:
        path (`Path`): The folder.
        validation_fraction (`float`): Share of the training folder's pictures that become the validation split.
        seed (`int`): Seed of that choice.
    """
    if not 0 < validation_fraction < 1:
        raise DataError(f"a number between 0 and 1 is expected, not {validation_fraction}", field="validation_fraction")
    require_folder(path, "the data folder of easy-VQA")
    answers_file = require_file(path / "answers.txt", "the list of answers")
    try:
        answers = answers_file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"not valid UTF-8: {error}", file=answers_file) from error
    answers = [answer.strip() for answer in answers if answer.strip()]
    if not answers or len(set(answers)) < len(answers):
        raise DataError("one distinct answer a line is expected", file=answers_file)
    classes = ClassLabel(names=answers)

    pictures = sorted({picture for _, _, picture in _questions(path / "train", classes)})
    # RandomState's stream is frozen by NumPy's policy, Generator's is not.
    shuffled = np.random.RandomState(seed).permutation(pictures).tolist()
    held_out = set(shuffled[: max(1, round(validation_fraction * len(pictures)))])

    features = Features({"id": Value("string"), "text": Value("string"), "image": Image(), "label": classes})
    images = ImageChecker()
    rows = partial(_rows, classes=classes, images=images)
    return Source(
        features,
        {
            "train": partial(rows, path / "train", leave_out=held_out),
            "validation": partial(rows, path / "train", leave_out=set(pictures) - held_out),
            "test": partial(rows, path / "test", leave_out=set()),
        },
    )


def _questions(folder: Path, classes: ClassLabel) -> list[tuple[str, str, int]]:
    file = folder / "questions.json"
    questions = read_json(file, list)
    for index, row in enumerate(questions):
        if not (isinstance(row, list) and [type(part) for part in row] == [str, str, int]):
            raise DataError(f"[question, answer, picture id] is expected, not {row!r}", file=file, row=index)
        if row[1] not in classes.names:
            raise DataError(f"{row[1]!r} is not among the answers in answers.txt", file=file, row=index, field="answer")
        require_text(row[0], file=file, row=index, field="question")
    return questions


def _rows(folder: Path, leave_out: set[int], classes: ClassLabel, images: ImageChecker) -> Iterator[dict[str, Any]]:
    for index, (question, answer, picture) in enumerate(_questions(folder, classes)):
        if picture in leave_out:
            continue
        place = {"file": folder / "questions.json", "row": index, "field": "picture id"}
        yield {
            "id": f"{folder.name}/{index}",
            "text": question,
            "image": images.cell(folder / "images" / f"{picture}.png", **place),
            "label": classes.str2int(answer),
        }
