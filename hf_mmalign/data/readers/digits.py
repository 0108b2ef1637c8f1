"""Embedded data sets on scikit-learn's handwritten digits: 1797 real pictures of 8×8 pixels, no download.

`digits-captions` — a digit in coloured ink on black or white paper, and a sentence about the digit, the ink or the paper;
the label says whether the sentence is true. Neither modality alone tells anything: in every split every sentence is true
exactly as often as false, and so is every picture.

`digits-views` — three feature sequences of one picture, with noise; ten classes, and a regression target (how much ink the
picture holds). No view suffices.

Both are split by picture, 70 / 15 / 15 % of every digit, and are the same on every machine.
"""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import PIL.Image
from datasets import ClassLabel, Features, Image, Value
from sklearn.datasets import load_digits

from ..errors import DataError
from ..schema import SPLITS, Source, feature_sequence

_PICTURE_SIZE = 32
_VIEW_NOISE = 0.3
_ZONE_NOISE = 0.2

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
PAPERS = {"black": (0, 0, 0), "white": (255, 255, 255)}
_OPENINGS = ("this is", "the picture shows", "someone wrote")

# Share of each kind of sentence. The easy ones weigh most, so that a small model learns from scratch in a minute.
_KIND_WEIGHTS = {"colour": 0.3, "paper": 0.15, "parity": 0.15, "half": 0.15, "both": 0.1, "name": 0.1, "order": 0.05}

# What a sentence can speak about: the digit, and the numbers of the ink's and the paper's colour.
Look = tuple[int, int, int]


def open_captions(captions_per_picture: int = 4) -> Source:
    """Open `digits-captions`.

    Args:
        captions_per_picture (`int`): Sentences per picture, an even number: half of them are true.
    """
    if captions_per_picture < 2 or captions_per_picture % 2:
        raise DataError(f"an even number is expected, not {captions_per_picture}", field="captions_per_picture")
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "image": Image(),
            "label": ClassLabel(names=["false", "true"]),
        }
    )
    splits = split_pictures(load_digits().target)
    rounds = captions_per_picture // 2
    return Source(
        features, {name: partial(_caption_rows, splits[name], rounds, seed) for seed, name in enumerate(SPLITS)}
    )


def open_views() -> Source:
    """Open `digits-views`.

    Modalities, each with independent Gaussian noise on pixels scaled to [0, 1]:
        `top` (4, 8): the rows of the upper half. `bottom` (8, 4): the columns of the lower half.
        `zones` (4, 4): mean ink of the 4×4 zones of the whole picture, row by row.

    Targets: `label`, the digit; `target`, the standardised ink of the clean picture (pass `label_column="target"`).
    """
    features = Features(
        {
            "id": Value("string"),
            "top": feature_sequence(8),
            "bottom": feature_sequence(4),
            "zones": feature_sequence(4),
            "label": ClassLabel(names=list(DIGIT_NAMES)),
            "target": Value("float32"),
        }
    )
    splits = split_pictures(load_digits().target)
    return Source(features, {name: partial(_view_rows, splits[name], seed) for seed, name in enumerate(SPLITS)})


def split_pictures(digits: np.ndarray) -> dict[str, np.ndarray]:
    """Picture numbers (sorted) of each split."""
    # RandomState's stream is frozen by NumPy's policy, Generator's is not.
    rng = np.random.RandomState(0)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
    for digit in range(10):
        pictures = rng.permutation(np.flatnonzero(digits == digit))
        ends = [round(0.7 * len(pictures)), round(0.85 * len(pictures))]
        for name, part in zip(SPLITS, np.split(pictures, ends), strict=True):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def _caption_rows(pictures: np.ndarray, rounds: int, seed: int) -> Iterator[dict[str, Any]]:
    digits = load_digits()
    sentences = _sentences()
    rng = np.random.RandomState(seed)
    for number in range(rounds):
        colours = rng.randint(len(COLOURS), size=len(pictures)).tolist()
        papers = rng.randint(len(PAPERS), size=len(pictures)).tolist()
        looks = list(zip(digits.target[pictures].tolist(), colours, papers, strict=True))
        true, false = _captions(looks, sentences, rng)
        for index, picture in enumerate(pictures.tolist()):
            image = {"path": None, "bytes": png_of(digits.images[picture], *looks[index][1:])}
            for label, sentence in enumerate((false[index], true[index])):
                yield {"id": f"{picture}-{number}-{label}", "text": sentence, "image": image, "label": label}


def _captions(
    looks: list[Look], sentences: dict[str, list[tuple[str, frozenset[Look]]]], rng: np.random.RandomState
) -> tuple[list[str], list[str]]:
    """A true and a false sentence for each picture, such that all pictures have the same sentences true and false.

    Each picture is paired at random with one of another look, and gets a sentence that is true of it and false of that
    other, which takes it as its false one. So neither the sentence nor the picture betrays the label.
    """
    other = rng.permutation(len(looks)).tolist()
    while clashes := [index for index, partner in enumerate(other) if looks[index] == looks[partner]]:
        for index in clashes:
            swap = rng.randint(len(looks))
            other[index], other[swap] = other[swap], other[index]
    true = [_draw_sentence(sentences, look, looks[partner], rng) for look, partner in zip(looks, other, strict=True)]
    false = [""] * len(looks)
    for sentence, partner in zip(true, other, strict=True):
        false[partner] = sentence
    return true, false


def _draw_sentence(
    sentences: dict[str, list[tuple[str, frozenset[Look]]]], true_of: Look, false_of: Look, rng: np.random.RandomState
) -> str:
    kinds, weights = list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values())
    while True:  # some kind fits, because the looks differ
        group = sentences[kinds[rng.choice(len(kinds), p=weights)]]
        texts = [text for text, looks in group if true_of in looks and false_of not in looks]
        if texts:
            return texts[rng.randint(len(texts))]


def _sentences() -> dict[str, list[tuple[str, frozenset[Look]]]]:
    """All sentences by kind, each with the looks it is true of."""
    groups: dict[str, list[tuple[str, frozenset[Look]]]] = {kind: [] for kind in _KIND_WEIGHTS}
    everything, colours, papers = frozenset(range(10)), range(len(COLOURS)), range(len(PAPERS))

    def add(kind: str, text: str, digits=everything, colours=colours, papers=papers) -> None:
        groups[kind].append((text, frozenset(product(digits, colours, papers))))

    for opening in _OPENINGS:
        for colour, colour_name in enumerate(COLOURS):
            add("colour", f"{opening} a {colour_name} digit", colours=[colour])
        for paper, paper_name in enumerate(PAPERS):
            add("paper", f"{opening} a digit on {paper_name} paper", papers=[paper])
        add("parity", f"{opening} an even digit", range(0, 10, 2))
        add("parity", f"{opening} an odd digit", range(1, 10, 2))
        add("half", f"{opening} a digit below five", range(5))
        add("half", f"{opening} a digit above four", range(5, 10))
        for digit in everything:
            for name in (str(digit), DIGIT_NAMES[digit]):
                add("name", f"{opening} a {name}", [digit])
                for colour, colour_name in enumerate(COLOURS):
                    add("both", f"{opening} a {colour_name} {name}", [digit], [colour])
    for digit in everything:
        for name in (str(digit), DIGIT_NAMES[digit]):
            add("name", f"the digit is {name}", [digit])
            add("name", f"the digit is not {name}", everything - {digit})
            add("order", f"the digit is less than {name}", range(digit))
            add("order", f"the digit is greater than {name}", range(digit + 1, 10))
    return groups


def png_of(picture: np.ndarray, colour: int, paper: int) -> bytes:
    """An 8×8 picture of ink 0–16 as an RGB PNG in the given ink, on the given paper."""
    grey = PIL.Image.fromarray(np.rint(picture * (255 / 16)).astype(np.uint8))
    ink = np.asarray(grey.resize((_PICTURE_SIZE, _PICTURE_SIZE), PIL.Image.Resampling.BICUBIC)).astype(int)[:, :, None]
    ink_colour, paper_colour = np.array(list(COLOURS.values())[colour]), np.array(list(PAPERS.values())[paper])
    pixels = (ink * ink_colour + (255 - ink) * paper_colour) // 255
    buffer = BytesIO()
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _view_rows(pictures: np.ndarray, seed: int) -> Iterator[dict[str, Any]]:
    digits = load_digits()
    ink = digits.images.sum(axis=(1, 2))
    target = (ink - ink.mean()) / ink.std()
    rng = np.random.RandomState(seed)
    for picture in pictures.tolist():
        pixels = digits.images[picture] / 16
        noisy = pixels + _VIEW_NOISE * rng.standard_normal(pixels.shape)
        zones = pixels.reshape(4, 2, 4, 2).mean(axis=(1, 3))
        yield {
            "id": str(picture),
            "top": noisy[:4].astype(np.float32),
            "bottom": noisy[4:].T.astype(np.float32),
            "zones": (zones + _ZONE_NOISE * rng.standard_normal(zones.shape)).astype(np.float32),
            "label": int(digits.target[picture]),
            "target": float(target[picture]),
        }
