"""What is in a data set: sizes, shapes, lengths, label distribution, missing values; streamed, nothing is kept."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from .audio import check_audio
from .errors import DataError
from .pictures import opened_picture
from .schema import TARGET, label_names_of, modalities_of, problem_type_of
from .validation import column_batches, feature_chunks, file_sources, flat_labels, image_sources

if TYPE_CHECKING:  # a look at a data set without texts needs no transformers
    from transformers import PreTrainedTokenizerBase


def inspect_dataset(
    dataset: DatasetDict, tokenizer: "PreTrainedTokenizerBase | None" = None, max_length: int | None = None
) -> dict[str, Any]:
    """Describe a data set as :func:`load_multimodal_dataset` returns it.

    Args:
        dataset (`DatasetDict`): The splits.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Counts the tokens of texts.
        max_length (`int`, *optional*): Longest text in tokens, [CLS] and [SEP] included; by default the tokenizer's own
            limit, if it has one.

    Returns:
        A JSON-ready dict: `problem_type`, `modalities` (kinds), and for each split `rows`, `modalities` and `label`, which
        is described as a text where it is one to translate into.
        A feature sequence has `width`, `missing`, `length` (steps), `value` (its numbers, without NaN and Inf) and
        `nonfinite` (their count); a text has `missing`, `length` (words) and `distinct`; an image has `missing`,
        `height` and `width` (pixels, each file once) and `mode`; a sound has `missing`, `seconds` and `sampling_rate` (each
        file once). `length`, `height`, … are dicts of min, mean and max.
        With a tokenizer a text also has `tokens` ([CLS] and [SEP] included), `unknown` (share of its tokens) and, where
        there is a limit, `limit` and `too_long` (share of the texts).

    Raises:
        DataError: For a tokenizer where there is no text.
    """
    modalities = modalities_of(dataset)
    if tokenizer is not None and "text" not in modalities.values():
        raise DataError(f"there is no text to count tokens of; the modalities are {', '.join(modalities)}")
    if tokenizer is not None and max_length is None and tokenizer.model_max_length < 1_000_000:
        max_length = tokenizer.model_max_length  # tokenizers without a limit say 1e30
    names, problem_type = label_names_of(dataset), problem_type_of(dataset)
    report: dict[str, Any] = {"problem_type": problem_type, "modalities": modalities, "splits": {}}
    for split, data in dataset.items():
        described = {name: _describe(data, name, kind, tokenizer, max_length) for name, kind in modalities.items()}
        if problem_type == "translation":
            labels = _describe(data, TARGET, "text", tokenizer, max_length)
        else:
            labels = _labels(data, names)
        report["splits"][str(split)] = {"rows": len(data), "modalities": described, "label": labels}
    return report


def _describe(
    data: Dataset, name: str, kind: str | int, tokenizer: "PreTrainedTokenizerBase | None", max_length: int | None
) -> dict[str, Any]:
    if kind == "text":
        return _text(data, name) | ({} if tokenizer is None else _tokens(data, name, tokenizer, max_length))
    if kind == "image":
        return _images(data, name)
    if kind == "audio":
        return _sounds(data, name)
    return _features(data, name)


class _Summary:
    """Minimum, mean and maximum of numbers that pass by."""

    def __init__(self):
        self.count = 0
        self.total = 0.0
        self.smallest = np.inf
        self.largest = -np.inf

    def add(self, values: np.ndarray) -> None:
        if values.size:
            self.count += values.size
            self.total += float(values.sum(dtype=np.float64))
            self.smallest = min(self.smallest, float(values.min()))
            self.largest = max(self.largest, float(values.max()))

    def result(self) -> dict[str, float] | None:
        if not self.count:
            return None
        return {"min": self.smallest, "mean": self.total / self.count, "max": self.largest}


def _features(data: Dataset, name: str) -> dict[str, Any]:
    lengths, values = _Summary(), _Summary()
    missing = nonfinite = 0
    for _, counts, steps in feature_chunks(data, name):
        missing += int((counts == 0).sum())
        lengths.add(counts[counts > 0])
        finite = np.isfinite(steps)
        nonfinite += int(steps.size - finite.sum())
        values.add(steps[finite])
    width = modalities_of(data)[name]
    summaries = {"length": lengths.result(), "value": values.result()}
    return {"kind": "features", "width": width, "missing": missing, "nonfinite": nonfinite, **summaries}


def _text(data: Dataset, name: str) -> dict[str, Any]:
    lengths = _Summary()
    missing, distinct = 0, set()
    for _, array in column_batches(data, name):
        missing += array.null_count
        texts = array.drop_null().to_pylist()
        lengths.add(np.array([len(text.split()) for text in texts]))
        distinct.update(hash(text) for text in texts)  # a hash, not the text: memory stays small
    return {"kind": "text", "missing": missing, "length": lengths.result(), "distinct": len(distinct)}


def _tokens(data: Dataset, name: str, tokenizer: "PreTrainedTokenizerBase", max_length: int | None) -> dict[str, Any]:
    from .tokenizers import TextFit

    lengths, fit = _Summary(), TextFit()
    for _, array in column_batches(data, name):
        lengths.add(fit.add(tokenizer, array.drop_null().to_pylist(), max_length))
    limit = {} if max_length is None else {"limit": max_length, "too_long": fit.too_long_share}
    return {"tokens": lengths.result(), "unknown": fit.unknown_share, **limit}


def _images(data: Dataset, name: str) -> dict[str, Any]:
    heights, widths, modes = _Summary(), _Summary(), Counter()
    for row, source in image_sources(data, name):
        with opened_picture(source, row=row, field=name) as image:
            heights.add(np.array([image.height]))
            widths.add(np.array([image.width]))
            modes[image.mode] += 1
    missing = sum(array.null_count for _, array in column_batches(data, name))
    return {
        "kind": "image",
        "missing": missing,
        "height": heights.result(),
        "width": widths.result(),
        "mode": dict(modes),
    }


def _sounds(data: Dataset, name: str) -> dict[str, Any]:
    seconds, rates, missing = _Summary(), Counter(), len(data)
    for row, source in file_sources(data, name):
        length, rate = check_audio(source, row=row, field=name)
        seconds.add(np.array([length]))
        rates[str(rate)] += 1
    for _, array in column_batches(data, name):
        there = [pc.struct_field(array, key).is_valid() for key in ("bytes", "path")]
        missing -= int(pc.sum(pc.or_(*there)).as_py() or 0)
    return {"kind": "audio", "missing": missing, "seconds": seconds.result(), "sampling_rate": dict(rates)}


def _labels(data: Dataset, names: list[str] | None) -> dict[str, Any]:
    missing, counts, values = 0, Counter(), _Summary()
    for _, array in column_batches(data, "label"):
        missing += array.null_count
        _, flat = flat_labels(array)
        if names is None:
            values.add(flat)
        else:
            counts.update(flat.tolist())
    if names is None:
        return {"missing": missing, "value": values.result()}
    return {"missing": missing, "counts": {name: counts[index] for index, name in enumerate(names)}}
