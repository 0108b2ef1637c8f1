"""`mmsa`: the pickles in which MMSA, Self-MM and DecAlign have CMU-MOSI, CMU-MOSEI and CH-SIMS.

    {"train": {"raw_text": N strings, "text": (N, T, 768), "text_bert": (N, 3, T), "audio": (N, T, D_a),
               "vision": (N, T, D_v), "id": N strings, "annotations": …, "classification_labels": N numbers,
               "regression_labels": N numbers}, "valid": …, "test": …}

`text_bert` holds token ids, attention mask and segments. Unaligned files have another T for each modality, and
`audio_lengths` and `vision_lengths`; CH-SIMS has labels of the single modalities too (`regression_labels_T`, `_A`, `_V`).
Which of the two kinds a file is, it says itself.

Padding is stripped. In an aligned file, where all modalities have the steps of the text, the text's attention mask says
which steps count, as in MMSA; in an unaligned one it says so for the text, and the lengths for audio and vision. Without
either, zeros at the end are padding. A sequence of zeros alone, or a blank raw text, is a missing modality.

A pickle cannot be streamed: it is loaded once, whole, when the Arrow file is written, and not again. It is read by
:mod:`hf_mmalign.data.safe_pickle`, so nothing it contains is executed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, Value

from ..schema import Source, feature_sequence
from .features import FiniteGate, strip_back_padding
from .options import require_choice
from .pickled_splits import SPLIT_KEYS, FeatureRows, PickledSplit, common_width, load_splits, modalities_in

_POLARITIES = ("negative", "neutral", "positive")


def open_source(
    path: Path,
    text: str = "features",
    label: str = "M",
    task: str = "regression",
    nonfinite: str = "replace",
) -> Source:
    """Open an MMSA pickle, aligned or unaligned.

    Args:
        path (`Path`): The file, for example `aligned_50.pkl` or `unaligned_50.pkl`.
        text (`str`): `features` for the column `text` of the file, `raw` for its `raw_text`, to be encoded by a text
            model, which is MMSA's `use_bert`.
        label (`str`): `M`, the label of the whole; `T`, `A` or `V`, that of a single modality (CH-SIMS only).
        task (`str`): `regression`, or `classification` of the polarity (negative, neutral, positive).
        nonfinite (`str`): `replace` NaN and Inf by 0, as MMSA does for the -Inf in audio features, or `error`.
    """
    require_choice("label", label, ("M", "T", "A", "V"))
    require_choice("task", task, ("regression", "classification"))
    field = f"{task}_labels" + ("" if label == "M" else f"_{label}")
    if task == "regression":
        return open_layout(path, "an MMSA pickle", field, Value("float32"), PickledSplit.numbers, text, nonfinite)
    polarity = ClassLabel(names=list(_POLARITIES))
    read = partial(PickledSplit.integers, smallest=0, largest=len(_POLARITIES) - 1)
    return open_layout(path, "an MMSA pickle", field, polarity, read, text, nonfinite)


def open_layout(
    path: Path,
    what: str,
    label_field: str,
    label_type: Value | ClassLabel,
    read_labels: Callable[[PickledSplit, str], np.ndarray],
    text: str,
    nonfinite: str,
    group_of: Callable[[str], str | None] = lambda identifier: None,
) -> Source:
    """Open any pickle of this layout: columns `id`, `text`, `audio`, `vision` and `label`.

    Args:
        path (`Path`): The file.
        what (`str`): What it is, for the error where it is missing.
        label_field (`str`), label_type, read_labels: The field of the labels, their column type, and the method of
            :class:`PickledSplit` that reads them.
        text (`str`), nonfinite (`str`): As for :func:`open_source`.
        group_of (`Callable`, *optional*): What an id says of its speaker, None for nothing. If all say something, the rows
            have a column `group`, by which folds are drawn.
    """
    require_choice("text", text, ("features", "raw"))
    loaded = load_splits(path, what)
    fields = {"text": "raw_text" if text == "raw" else "text", "audio": "audio", "vision": "vision"}
    modalities = modalities_in(loaded, fields, path)
    raw = text == "raw" and "text" in modalities
    sequences = [name for name in modalities if not (raw and name == "text")]
    splits = {name: _Split(split, label_field, read_labels, raw, sequences) for name, split in loaded.items()}
    columns: dict[str, Any] = {"id": Value("string")}
    if all(group_of(identifier) for split in splits.values() for identifier in split.ids):
        columns["group"] = Value("string")
    for modality in modalities:
        if raw and modality == "text":
            columns["text"] = Value("string")
        else:
            widths = {name: split.modalities[modality].features.width for name, split in splits.items()}
            columns[modality] = feature_sequence(common_width(widths, modality, path))
    grouped = group_of if "group" in columns else None
    rows = {name: partial(_rows, split, nonfinite, path, SPLIT_KEYS[name], grouped) for name, split in splits.items()}
    return Source(Features({**columns, "label": label_type}), rows)


@dataclass(frozen=True)
class _Modality:
    """Feature sequences, and which of their steps count: by a mask (N, T), by lengths (N,), or up to the last non-zero."""

    features: FeatureRows
    mask: np.ndarray | None
    lengths: np.ndarray | None

    def __getitem__(self, row: int) -> np.ndarray:
        sequence = self.features.rows[row]
        if self.mask is not None:
            return sequence[self.mask[row]]
        if self.lengths is not None:
            return sequence[: self.lengths[row]]  # a length beyond T is that of a sequence cut at T
        return strip_back_padding(sequence)


class _Split:
    """All of one split that becomes columns."""

    def __init__(
        self,
        split: PickledSplit,
        label_field: str,
        read_labels: Callable[[PickledSplit, str], np.ndarray],
        raw_text: bool,
        sequences: list[str],
    ):
        self.ids = split.ids()
        self.labels = read_labels(split, label_field)
        self.texts = split.texts("raw_text") if raw_text else None
        mask = _attention_mask(split) if "text_bert" in split else None
        features = {name: split.features(name) for name in sequences}
        aligned = mask is not None and all(
            rows.steps == mask.shape[1] for name, rows in features.items() if name != "text"
        )
        self.modalities: dict[str, _Modality] = {}
        for name, rows in features.items():
            covered = mask is not None and rows.steps == mask.shape[1] and (aligned or name == "text")
            has_lengths = not covered and f"{name}_lengths" in split
            lengths = split.integers(f"{name}_lengths", smallest=0) if has_lengths else None
            self.modalities[name] = _Modality(rows, mask if covered else None, lengths)
        sizes = {name: len(rows.rows) for name, rows in features.items()}
        sizes |= {
            f"{name}_lengths": len(modality.lengths)
            for name, modality in self.modalities.items()
            if modality.lengths is not None
        }
        sizes |= {"id": len(self.ids), label_field: len(self.labels)}
        sizes |= {"raw_text": len(self.texts)} if self.texts is not None else {}
        sizes |= {"text_bert": len(mask)} if mask is not None else {}
        split.check_sizes(sizes)


def _attention_mask(split: PickledSplit) -> np.ndarray:
    """(N, T) bool, from `text_bert`."""
    tokens = split.array("text_bert")
    if tokens.ndim != 3 or tokens.shape[1] != 3:
        raise split.error(
            f"(N, 3, T) is expected: token ids, attention mask, segments; not {tokens.shape}", "text_bert"
        )
    mask, segments = tokens[:, 1], tokens[:, 2]
    if not mask.any():
        mask = segments  # older files have the two in the other order, and one text has no second segment
    if not np.isin(mask, (0, 1)).all():
        raise split.error("the attention mask, index 1 of the second axis, must be of zeros and ones", "text_bert")
    return mask.astype(bool)


def _rows(
    split: _Split, nonfinite: str, path: Path, key: str, group_of: Callable[[str], str | None] | None
) -> Iterator[dict[str, Any]]:
    gates = {name: FiniteGate(nonfinite, path, f"{key}.{name}") for name in split.modalities}
    for row, (identifier, label) in enumerate(zip(split.ids, split.labels, strict=True)):
        columns: dict[str, Any] = {"id": identifier, "label": label}
        if group_of is not None:
            columns["group"] = group_of(identifier)
        if split.texts is not None:
            columns["text"] = split.texts[row] if split.texts[row].strip() else None
        for name, modality in split.modalities.items():
            sequence = gates[name](modality[row][None], row)[0]
            columns[name] = sequence if sequence.any() else sequence[:0]
        yield columns
    for gate in gates.values():
        gate.close()
