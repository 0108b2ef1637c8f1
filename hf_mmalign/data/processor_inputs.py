"""What a processor was called with: one sample or several, how many, and whether it can be."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor

from .errors import DataError

PICTURES = (PIL.Image.Image, str, Path)
SOUNDS = (str, Path, bytes, Mapping)


def listed(
    value: Any, single: type | tuple[type, ...], field: str, dimensions: tuple[int, ...] = (2, 3)
) -> list | None:
    """What is given for one sample, of the type `single` or an array of so many dimensions, or for several, as a list."""
    if value is None:
        return None
    if isinstance(value, single) or getattr(value, "ndim", None) in dimensions:
        return [value]
    if isinstance(value, (Mapping, bytes)) or not isinstance(value, Iterable):
        raise DataError(f"one sample, or a list of them, is expected, not {type(value).__name__}", field=field)
    return list(value)


def batch_size(
    raw: Mapping[str, list[Any] | None],
    features: Mapping[str, Any] | None,
    feature_mask: Mapping[str, Any] | None,
) -> int:
    """B, which all that is given must agree on; `raw` are the samples of texts, pictures and sounds by argument."""
    for field, value in (("features", features), ("feature_mask", feature_mask)):
        if not isinstance(value, (Mapping, type(None))):
            raise DataError(f"a dict by modality is expected, not {type(value).__name__}", field=field)
    unknown = sorted(set(feature_mask or {}) - set(features or {}))
    if unknown:
        raise DataError(f"there are no features of {unknown[0]!r} for this mask", field="feature_mask")
    sizes = {name: len(samples) for name, samples in raw.items() if samples is not None}
    for name, values in (features or {}).items():
        if values is not None:
            if not hasattr(values, "__len__") or isinstance(values, (str, Mapping)):
                raise DataError(
                    f"sequences (T, D), one a sample, are expected, not {type(values).__name__}", field=name
                )
            # An array of two dimensions is one sample.
            sizes[name] = 1 if getattr(values, "ndim", None) == 2 else len(values)
    if not sizes and not features:
        raise DataError("nothing to process: text, images, audio or features are expected")
    if len(set(sizes.values())) > 1:
        raise DataError(f"the same number of samples is expected of all, not {sizes}")
    size = next(iter(sizes.values()), 1)
    if not size:
        raise DataError("nothing to process: there is no sample")
    return size


def check_text(text: Any, row: int, field: str = "text") -> None:
    """Raise DataError unless it is a string that has an encoding, or None."""
    if not isinstance(text, (str, type(None))):
        raise DataError(f"a string, or None, is expected, not {type(text).__name__}", row=row, field=field)
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"half of a surrogate pair at index {error.start}, which is no text"
        raise DataError(message, row=row, field=field) from error


def as_arrays(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of nested dicts as NumPy's arrays."""
    return {
        name: as_arrays(value) if isinstance(value, Mapping) else np.asarray(value.cpu())
        for name, value in batch.items()
    }


def moved(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The tensors of nested dicts on another device; floats, and only they, as another dtype, as of a `BatchFeature`."""
    from transformers import BatchFeature

    flat = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    flat = BatchFeature(flat).to(*args, **kwargs).data
    return {
        name: moved(value, *args, **kwargs) if isinstance(value, Mapping) else flat.get(name, value)
        for name, value in batch.items()
    }
