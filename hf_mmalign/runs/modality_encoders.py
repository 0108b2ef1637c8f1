"""The key `encoders` of a recipe: where the encoders of a late-fusion model come from, and what prepares their inputs."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    FEATURE_EXTRACTOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    ViTImageProcessor,
)

from ..data.errors import shown
from ..data.image_processors import load_image_processor, timm_image_processor
from ..data.processor import MultimodalProcessor
from ..models.fusion.encoders import encoder_config
from .arguments import DataArguments
from .encoders import hub_name
from .errors import RecipeError

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def encoder_sources(encoders: Mapping[str, Any] | None) -> dict[str, str]:
    """The folder or Hub name of each encoder that the key `encoders` names by one: the others begin at random."""
    return {name: hub_name(value) for name, value in (encoders or {}).items() if isinstance(value, str)}


def encoder_configs(encoders: Mapping[str, Any], tokenizer: Any | None) -> dict[str, Any]:
    """The configs of the encoders, pretrained or not; a text encoder that begins at random has the tokenizer's words.

    Raises:
        RecipeError: If an encoder is neither there nor known.
    """
    if not isinstance(encoders, Mapping):
        raise RecipeError(
            f"encoders is {shown(encoders)}; expected an encoder for each modality, {{text: FOLDER_OR_NAME}}."
        )
    configs = {}
    for name, value in encoders.items():
        if tokenizer is not None and name == "text" and isinstance(value, Mapping):
            value = value | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        configs[name] = _config(name, value)
    return configs


def _config(name: str, value: Any) -> Any:
    """The config of one encoder, from its source or from its fields."""
    with _named(name, value):
        if isinstance(value, str):
            value = AutoConfig.from_pretrained(hub_name(value))
        return encoder_config(name, _with_numbers(value))


@contextmanager
def _named(name: str, value: Any) -> Iterator[None]:
    """Errors of libraries as those of the key `encoders`."""
    try:
        yield
    except RecipeError:
        raise
    except (OSError, ValueError, TypeError, ImportError, StrictDataclassError) as error:
        raise RecipeError(f"encoders: {name} is {shown(value)}, which cannot be used: {error}") from error


def _with_numbers(value: Any) -> Any:
    """Numbers such as 1e-5, which YAML takes for text, as numbers."""
    if isinstance(value, Mapping):
        return {key: _with_numbers(entry) for key, entry in value.items()}
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def modality_processors(
    kinds: Mapping[str, str | int], encoders: Mapping[str, Any], data: DataArguments
) -> dict[str, Any]:
    """What prepares pictures and sounds, by modality, for the encoders of the key `encoders`.

    Args:
        kinds (`Mapping[str, str | int]`): The modalities that are used, each with its kind.
        encoders (`Mapping[str, Any]`): As the recipe has them.
        data ([`DataArguments`]): With arguments of theirs.
    """
    made = {}
    for name, kind in kinds.items():
        if name not in encoders:
            continue
        if kind not in ("image", "audio"):
            _config(name, encoders[name])  # an error names it here rather than where its tokenizer is looked for
            continue
        arguments = data.feature_extractor if kind == "audio" else data.image_processor
        if kind == "image" and set(arguments) <= set(kinds):  # by modality
            arguments = arguments.get(name, {})
        with _named(name, encoders[name]):
            if isinstance(encoders[name], str):
                load = load_image_processor if kind == "image" else AutoFeatureExtractor.from_pretrained
                made[name] = load(hub_name(encoders[name]), **arguments)
            else:
                make = _new_image_processor if kind == "image" else _new_extractor
                made[name] = make(name, _config(name, encoders[name]), arguments)
    return made


def _new_image_processor(name: str, config: Any, arguments: Mapping[str, Any]) -> Any:
    if config.model_type == "timm_wrapper":
        return timm_image_processor(config.architecture, **arguments)
    size = getattr(config, "image_size", None)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return ViTImageProcessor(**({} if size is None else {"size": {"height": height, "width": width}}) | arguments)


def _new_extractor(name: str, config: Any, arguments: Mapping[str, Any]) -> Any:
    if type(config) not in FEATURE_EXTRACTOR_MAPPING:
        raise RecipeError(
            f"encoders: {name} is a {config.model_type}, for which transformers has no feature extractor."
        )
    fields: dict[str, Any] = {"return_attention_mask": True}
    bins, positions = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    if config.model_type == "whisper":  # its frames are 10 ms apart, and two make a position
        fields |= {"feature_size": bins, "chunk_length": max(1, positions // 50)}
    elif bins is not None and hasattr(config, "max_length"):
        fields |= {"num_mel_bins": bins, "max_length": config.max_length}
    return FEATURE_EXTRACTOR_MAPPING[type(config)](**fields | arguments)


def of_checkpoint(checkpoint: str) -> dict[str, Any]:
    """The `modality_processors` of a model of ours that is trained further."""
    return MultimodalProcessor.from_pretrained(checkpoint).modality_processors
