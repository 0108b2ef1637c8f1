"""`multibench`: the pickles in which MultiBench distributes CMU-MOSI, CMU-MOSEI, UR-FUNNY and MUStARD.

    {"train": {"vision": (N, T, D_v), "audio": (N, T, D_a), "text": (N, T, D_t), "labels": (N, …), "id": (N, …)},
     "valid": …, "test": …}

Sequences are padded with zeros at the front; the padding is stripped, per modality. A sequence of zeros alone is a missing
modality. Labels are sentiment strengths (MOSI, MOSEI; shape (N, 1, 1)) or two classes, {0, 1} or {-1, 1} (UR-FUNNY,
MUStARD; shape (N, 1)). Ids are strings, numbers, or (MOSEI) triples of video, start and end.

A pickle cannot be streamed: it is loaded once, whole, when the Arrow file is written, and not again. It is read by
:mod:`hf_mmalign.data.safe_pickle`, so nothing it contains is executed.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, Value

from ..errors import DataError
from ..schema import Source, feature_sequence
from .features import FiniteGate, strip_front_padding
from .pickled_splits import SPLIT_KEYS, PickledSplit, common_width, load_splits, modalities_in

_MODALITIES = ("vision", "audio", "text")
_CHUNK = 256


def open_source(
    path: Path,
    task: str | None = None,
    nonfinite: str = "error",
    drop_missing: list[str] | None = None,
) -> Source:
    """Open a MultiBench pickle.

    Args:
        path (`Path`): The file.
        task (`str`, *optional*): `classification` or `regression`. By default labels that are all 0 or 1, or all -1 or
            1, are two classes, and anything else is a regression target.
        nonfinite (`str`): `error`, or `replace` NaN and Inf by 0. (MultiBench's own loader puts 0 for the -Inf that the
            audio features of MOSI and MOSEI contain.)
        drop_missing (`list[str]`, *optional*): Leave out rows in which one of these modalities is missing.
            `["text"]` gives the split sizes of MultiBench and of the papers that use it (MOSEI: 16265, 1869, 4643).
    """
    loaded = load_splits(path, "a MultiBench pickle")
    modalities = modalities_in(loaded, {name: name for name in _MODALITIES}, path)
    splits = {name: _checked_split(split, modalities) for name, split in loaded.items()}
    widths = {
        field: common_width({name: split[field].shape[2] for name, split in splits.items()}, field, path)
        for field in modalities
    }
    unknown = sorted(set(drop_missing or ()) - set(modalities))
    if unknown:
        raise DataError(f"{unknown[0]!r} is none of {', '.join(modalities)}", field="drop_missing")
    label = _label_type(splits, task, path)
    columns = {"id": Value("string"), **{name: feature_sequence(width) for name, width in widths.items()}}
    rows = partial(
        _rows, classes=isinstance(label, ClassLabel), nonfinite=nonfinite, drop=set(drop_missing or ()), path=path
    )
    return Source(
        Features({**columns, "label": label}), {name: partial(rows, name, split) for name, split in splits.items()}
    )


def _checked_split(split: PickledSplit, modalities: list[str]) -> dict[str, Any]:
    """The arrays of one split: `modalities` (N, T, D), `labels` (N,) float64, `id` list of N strings."""
    checked: dict[str, Any] = {}
    for field in modalities:
        array = split.entries(field)
        if not (isinstance(array, np.ndarray) and array.ndim == 3 and array.dtype.kind in "fiu"):
            found = (
                f"shape {array.shape}, type {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            )
            raise split.error(f"a numeric array (N, T, D) is expected, not {found}", field)
        checked[field] = array
    checked |= {"labels": split.numbers("labels"), "id": split.ids()}
    split.check_sizes({field: len(values) for field, values in checked.items()})
    return checked


def _label_type(splits: dict[str, dict[str, Any]], task: str | None, path: Path) -> Value | ClassLabel:
    values = set(np.unique(np.concatenate([split["labels"] for split in splits.values()])).tolist())
    binary = values <= {0.0, 1.0} or values <= {-1.0, 1.0}
    if task not in (None, "classification", "regression"):
        raise DataError(f"classification or regression is expected, not {task!r}", field="task")
    if task == "classification" and not binary:
        raise DataError(
            f"labels from {min(values):g} to {max(values):g} are no classes: {{0, 1}} or {{-1, 1}} are", file=path
        )
    if task == "regression" or not binary:
        return Value("float32")
    return ClassLabel(names=["negative", "positive"])


def _rows(
    name: str, split: dict[str, Any], classes: bool, nonfinite: str, drop: set[str], path: Path
) -> Iterator[dict[str, Any]]:
    modalities = [field for field in _MODALITIES if field in split]
    gates = {field: FiniteGate(nonfinite, path, f"{SPLIT_KEYS[name]}.{field}") for field in modalities}
    # The negative class is written 0 or -1.
    labels = (split["labels"] > 0).astype(np.int64) if classes else split["labels"]
    for start in range(0, len(labels), _CHUNK):
        chunk = {field: gate(split[field][start : start + _CHUNK], start) for field, gate in gates.items()}
        for offset in range(len(chunk[modalities[0]])):
            row = {field: strip_front_padding(values[offset]) for field, values in chunk.items()}
            if any(not len(row[field]) for field in drop):
                continue
            yield {"id": split["id"][start + offset], **row, "label": labels[start + offset]}
    for gate in gates.values():
        gate.close()
