"""`mvsa-single`: tweets with a photo and their sentiment, as MVSA-Single is distributed.

    folder/labelResultAll.txt           ID <tab> text,image     then: 1 <tab> neutral,positive
    folder/data/1.jpg, data/1.txt       the photo and the tweet

Text and photo were labelled apart. By the field's rule (Xu and Mao 2017) equal labels are the sample's, a neutral one
yields to the other, and samples with a positive and a negative one are left out. Tweets come as UTF-8, UTF-16 or what
Windows wrote.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import ClassLabel, Features, Image, Value

from ..errors import DataError, shown
from ..schema import SPLITS, Source
from ..splitting import draw_parts
from .clips import annotation_lines
from .files import ImageChecker, path_inside, require_file, require_folder
from .options import require_choice, require_integer

SENTIMENTS = ("negative", "neutral", "positive")
_LABELS = "labelResultAll.txt"
# More than any tweet.
_MOST_BYTES = 100_000
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Sample(NamedTuple):
    """A labelled tweet: its ID, class, line in the label file, and text."""

    id: str
    label: str
    line: int
    text: str


def open_source(
    path: Path,
    conflicts: str = "merge",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    encoding: str | None = None,
) -> Source:
    """Open an MVSA-Single folder.

    Args:
        path (`Path`): The folder.
        conflicts (`str`): `merge` is the field's rule; `drop` leaves out whatever is not labelled alike (2592 samples
            stay, as in QMF and CAL).
        validation_fraction, test_fraction (`float`): Shares of the splits, drawn by class; tweets of one text, retweets
            say, stay in one split.
        seed (`int`): Seed of the draw.
        encoding (`str`, *optional*): Of all tweets, where it is known; else each is UTF-8, UTF-16 if it says so, or
            Windows-1252.
    """
    require_folder(path, f"the folder of {_LABELS} and data/")
    require_choice("conflicts", conflicts, ("merge", "drop"))
    require_integer("seed", seed, 0, 2**32 - 1)
    if encoding is not None:
        try:
            "".encode(encoding)
        except (LookupError, TypeError) as error:
            raise DataError(f"{encoding!r} is no encoding that Python knows", field="encoding") from error
    file = require_file(path / _LABELS, "the list of labels")
    samples = [_with_text(sample, path, file, encoding) for sample in _labelled(file, conflicts)]
    parts = draw_parts(
        len(samples),
        {"validation": validation_fraction, "test": test_fraction},
        seed,
        groups=[_same_text(sample) for sample in samples],
        classes=[sample.label for sample in samples],
    )
    features = Features(
        {"id": Value("string"), "text": Value("string"), "image": Image(), "label": ClassLabel(names=list(SENTIMENTS))}
    )
    chosen = {split: [samples[row] for row in parts["rest" if split == "train" else split]] for split in SPLITS}
    images = ImageChecker()
    return Source(features, {split: partial(_rows, chosen[split], path, file, images) for split in SPLITS})


def merged_label(text: str, image: str) -> str | None:
    """The label of a sample from those of its parts; None where one is positive and the other negative."""
    if text == image or image == "neutral":
        return text
    return image if text == "neutral" else None


def _labelled(file: Path, conflicts: str) -> list[Sample]:
    samples, seen = [], set()
    for number, line in annotation_lines(file):
        name, _, labels = (part.strip() for part in line.partition("\t"))
        if number == 1 and name.lower() == "id":
            continue
        both = [label.strip() for label in labels.split(",")]
        if not name or len(both) != 2 or any(label not in SENTIMENTS for label in both):
            expected = f"ID, a tab, and the labels of text and image ({', '.join(SENTIMENTS)}) with a comma between"
            raise DataError(f"{expected} are expected, not {shown(line)}", file=file, row=number)
        if name in seen:
            raise DataError(f"{shown(name)} is labelled twice", file=file, row=number, field="ID")
        seen.add(name)
        label = merged_label(*both)
        if label is not None and (conflicts == "merge" or both[0] == both[1]):
            samples.append(Sample(name, label, number, ""))
    if not samples:
        raise DataError("the file has no samples", file=file)
    return samples


def _with_text(sample: Sample, folder: Path, file: Path, encoding: str | None) -> Sample:
    place: dict[str, Any] = {"file": file, "row": sample.line, "field": "ID"}
    path = path_inside(folder, f"data/{sample.id}.txt", **place)
    if not path.is_file():
        raise DataError(f"the tweet {path.name} is missing from data/", **place)
    with open(path, "rb") as opened:
        content = opened.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path.name} is no tweet: it has more than {_MOST_BYTES} bytes", **place)
    try:
        text = _decoded(content, encoding)
    except UnicodeError as error:
        raise DataError(f"{path.name} cannot be decoded: {error}", **place) from error
    return sample._replace(text=text.replace("\0", "").strip())


def _decoded(content: bytes, encoding: str | None) -> str:
    if encoding is not None:
        return content.decode(encoding)
    for mark, marked in _MARKS.items():
        if content.startswith(mark):
            return content.decode(marked)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # it has a character for every byte


def _same_text(sample: Sample) -> str:
    """What retweets of one tweet have in common: its words without who passed it on and where it links to."""
    words = [word for word in sample.text.lower().split() if word != "rt" and not word.startswith(("@", "http"))]
    return " ".join(words) or f"\0{sample.id}"


def _rows(samples: list[Sample], folder: Path, file: Path, images: ImageChecker) -> Iterator[dict[str, Any]]:
    for sample in samples:
        place = {"file": file, "row": sample.line, "field": "ID"}
        yield {
            "id": sample.id,
            "text": sample.text or None,
            "image": images.cell(path_inside(folder, f"data/{sample.id}.jpg", **place), **place),
            "label": SENTIMENTS.index(sample.label),
        }
