"""`digits-translation`, embedded: English sentences about a coloured digit, to be translated into German.

    "a warm three on white paper"   →   "eine rote Drei auf weißem Papier"   (or "eine gelbe")

The English names a family of colours, warm (red or yellow) or cold (green or blue), where German has to say which colour it
is, and the picture shows it. Within every split, each sentence is as often about the one colour as about the other, up to
one: whoever does not look at the picture is right about half of the sentences, however much they have learnt.

Pictures are those of `digits-captions`, split in the same way; the same on every machine.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from datasets import Features, Image, Value
from sklearn.datasets import load_digits

from ..schema import SPLITS, TARGET, Source
from .digits import COLOURS, DIGIT_NAMES, png_of, split_pictures

_FAMILIES = {"warm": ("red", "yellow"), "cold": ("green", "blue")}
_GERMAN_COLOURS = {"red": "rote", "yellow": "gelbe", "green": "grüne", "blue": "blaue"}
_GERMAN_DIGITS = ("Null", "Eins", "Zwei", "Drei", "Vier", "Fünf", "Sechs", "Sieben", "Acht", "Neun")
_PAPERS = (("black", "schwarzem"), ("white", "weißem"))


def open_source() -> Source:
    """Open `digits-translation`: `text`, `image` and `target`, one row for each of the 1797 digits."""
    features = Features({"id": Value("string"), "text": Value("string"), "image": Image(), TARGET: Value("string")})
    splits = split_pictures(load_digits().target)
    return Source(features, {name: partial(_rows, splits[name], seed) for seed, name in enumerate(SPLITS)})


def _rows(pictures: np.ndarray, seed: int) -> Iterator[dict[str, Any]]:
    digits = load_digits()
    # RandomState's stream is frozen by NumPy's policy, Generator's is not.
    rng = np.random.RandomState(seed)
    names = list(COLOURS)
    seen: dict[str, int] = {}
    for picture in rng.permutation(pictures).tolist():
        digit, family = int(digits.target[picture]), ("warm", "cold")[rng.randint(2)]
        paper = rng.randint(len(_PAPERS))
        text = f"a {family} {DIGIT_NAMES[digit]} on {_PAPERS[paper][0]} paper"
        # The two colours of a sentence take turns, after a first one that is drawn.
        turn = seen.get(text, rng.randint(2))
        seen[text] = 1 - turn
        colour = _FAMILIES[family][turn]
        target = f"eine {_GERMAN_COLOURS[colour]} {_GERMAN_DIGITS[digit]} auf {_PAPERS[paper][1]} Papier"
        image = {"path": None, "bytes": png_of(digits.images[picture], names.index(colour), paper)}
        yield {"id": str(picture), "text": text, "image": image, TARGET: target}
