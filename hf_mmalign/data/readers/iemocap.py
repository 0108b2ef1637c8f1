"""`iemocap`: IEMOCAP with six emotions, in the pickle that DecAlign's authors share (`iemocap_data.pkl`).

    {"train": {"text": (N, 1, 1024), "audio": (N, 1, 512), "vision": (N, 1, 1024), "raw_text": N strings,
               "id": N strings, "classification_labels": N class ids}, "valid": …, "test": …}

One vector per utterance and modality, or sequences (N, T, D): the layout is that of :mod:`.mmsa`, and so is what is said
there about padding, missing modalities and safety. The splits are the file's own. Where all ids are those of the corpus,
`Ses01F_impro01_M003`, the column `group` says who speaks, and folds keep each of the ten speakers together.
"""

import re
from functools import partial
from pathlib import Path

from datasets import ClassLabel

from ..errors import DataError
from ..schema import Source
from .mmsa import open_layout
from .pickled_splits import PickledSplit

_UTTERANCE = re.compile(r"(?P<session>Ses\d\d)[FM]_.+_(?P<speaker>[FM])\d+")
# The order of the six-class IEMOCAP pickles since DialogueRNN.
EMOTIONS = ("happy", "sad", "neutral", "angry", "excited", "frustrated")


def open_source(
    path: Path,
    text: str = "features",
    label_names: list[str] | None = None,
    nonfinite: str = "replace",
) -> Source:
    """Open an IEMOCAP pickle.

    Args:
        path (`Path`): The file.
        text (`str`): `features` for the file's `text`, `raw` for its `raw_text`, to be encoded by a text model.
        label_names (`list[str]`, *optional*): Names of the classes 0, 1, …, for a file with other classes; the file does
            not name them. By default happy, sad, neutral, angry, excited, frustrated.
        nonfinite (`str`): `replace` NaN and Inf by 0, as the public code does, or `error`.
    """
    names = list(EMOTIONS) if label_names is None else label_names
    if not isinstance(names, list) or len(set(map(str, names))) < max(2, len(names)):
        raise DataError(f"a list of at least two different names is expected, not {names!r}", field="label_names")
    return open_layout(
        path,
        "an IEMOCAP pickle",
        "classification_labels",
        ClassLabel(names=[str(name) for name in names]),
        partial(PickledSplit.integers, smallest=0, largest=len(names) - 1),
        text,
        nonfinite,
        speaker_of,
    )


def speaker_of(identifier: str) -> str | None:
    """Who says the utterance `Ses01F_impro01_M003`: `Ses01M`, the man of the first session; None for other names."""
    found = _UTTERANCE.fullmatch(identifier)
    return found and f"{found['session']}{found['speaker']}"
