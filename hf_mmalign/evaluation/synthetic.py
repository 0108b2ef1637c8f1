"""Batches of random values as a model's config asks for them, to measure what a model costs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.configuration_base import MultimodalConfigMixin

# What each kind of modality needs to be told.
_NEEDED = {"text": ("steps",), "image": ("height", "width"), "features": ("steps",)}
_CHANNELS = 3


def synthetic_inputs(
    config: MultimodalConfigMixin,
    sizes: Mapping[str, Mapping[str, int]],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Whole samples, none padded and nothing missing, as the keyword arguments of a model's `forward`; without labels.

    Args:
        config ([`MultimodalConfigMixin`]): Says which modalities the model takes, and each as what.
        sizes (`Mapping[str, Mapping[str, int]]`): By modality, `steps` of a feature sequence (`width` may be told, and is
            then compared with the config's); `steps`, tokens with class token and separator, of a raw text; `height`,
            `width` and `channels` (3) of raw pictures. Those of other modalities are not read.
        batch_size (`int`): Samples.
        generator (`torch.Generator`, *optional*): Of the values.

    Raises:
        ValueError: For a modality without its sizes, one of another width, and raw sound: what it is turned into depends on
            its extractor, and extractors are not measured.
    """
    inputs: dict[str, Any] = {"features": {}, "feature_mask": {}, "modality_inputs": {}}
    for name, kind in config.modality_kinds.items():
        size = _size_of(name, kind, sizes)
        if isinstance(kind, int):
            inputs["features"][name] = torch.randn(batch_size, size["steps"], kind, generator=generator)
            inputs["feature_mask"][name] = torch.ones(batch_size, size["steps"], dtype=torch.long)
            continue
        raw = (
            _text(config, name, size, batch_size, generator)
            if kind == "text"
            else _pictures(size, batch_size, generator)
        )
        inputs |= raw if name == kind else {"modality_inputs": inputs["modality_inputs"] | {name: raw}}
    return {key: value for key, value in inputs.items() if not isinstance(value, dict) or value}


def _size_of(name: str, kind: str | int, sizes: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
    what = f"features of width {kind}" if isinstance(kind, int) else f"raw {kind}"
    needed = _NEEDED.get(kind if isinstance(kind, str) else "features")
    if needed is None:
        raise ValueError(
            f"it takes {name!r} as {what}, which is not measured; of sound, features that an extractor made are."
        )
    size = sizes.get(name, {})
    missing = [key for key in needed if key not in size]
    if missing:
        example = ", ".join(f"{key}: {32 if key == 'steps' else 224}" for key in needed)
        raise ValueError(
            f"it takes {name!r} as {what}, and inputs has no {' and '.join(missing)} of it, but {dict(sizes)}; for example "
            f"`inputs: {{{name}: {{{example}}}}}`."
        )
    if isinstance(kind, int) and size.get("width", kind) != kind:
        raise ValueError(f"it takes {name!r} as {what}, and inputs has width {size['width']}.")
    return size


def _text(
    config: MultimodalConfigMixin,
    name: str,
    size: Mapping[str, int],
    batch_size: int,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    ids = _words(config, name, (batch_size, size["steps"]), generator)
    for place, special in ((0, config.cls_token_id), (-1, config.sep_token_id)):
        if special is not None:
            ids[:, place] = special
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _words(
    config: MultimodalConfigMixin, name: str, shape: tuple[int, int], generator: torch.Generator | None
) -> Tensor:
    """Random ids of a modality's vocabulary that stand for words."""
    special = {config.cls_token_id, config.sep_token_id, config.padding_token_id}
    words = torch.tensor([index for index in range(config.vocab_size_of(name)) if index not in special])
    return words[torch.randint(len(words), shape, generator=generator)]


def _pictures(size: Mapping[str, int], batch_size: int, generator: torch.Generator | None) -> dict[str, Tensor]:
    shape = (size["height"], size["width"])
    pixels = torch.randn(batch_size, size.get("channels", _CHANNELS), *shape, generator=generator)
    return {"pixel_values": pixels, "pixel_mask": torch.ones(batch_size, *shape, dtype=torch.long)}


def synthetic_labels(
    config: MultimodalConfigMixin,
    sizes: Mapping[str, Mapping[str, int]],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Labels as the config's task has them; a translation is as long as its text.

    Returns:
        `torch.Tensor`: `(B,)` classes, `(B, num_labels)` multi-hot floats, `(B,)` or `(B, num_labels)` floats of a
        regression, or `(B, T)` ids. Without a task, one label means regression.
    """
    count = config.num_labels
    if config.generates:
        return _words(config, "text", (batch_size, sizes["text"]["steps"]), generator)
    if config.task == "multi_label_classification":
        return torch.randint(2, (batch_size, count), generator=generator).float()
    if config.task == "regression" or (config.task is None and count == 1):
        return torch.randn((batch_size, count) if count > 1 else (batch_size,), generator=generator)
    return torch.randint(count, (batch_size,), generator=generator)
