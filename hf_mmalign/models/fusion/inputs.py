"""The raw inputs of a late-fusion model by modality."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .configuration_encoders import FusionEncodersConfig

# The modality that the inputs of `forward` stand for, each with the one that must be there.
_SHORTHANDS = {
    "text": ("input_ids", "attention_mask", "token_type_ids"),
    "image": ("pixel_values", "pixel_mask"),
    "audio": ("input_values", "input_features", "audio_mask"),
}


@dataclass(frozen=True)
class RawInputs:
    """The raw inputs of a fusion model's `forward`, which says what they are."""

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    pixel_values: Tensor | None = None
    pixel_mask: Tensor | None = None
    input_values: Tensor | None = None
    input_features: Tensor | None = None
    audio_mask: Tensor | None = None
    modality_inputs: dict[str, dict[str, Tensor]] | None = None


def by_modality(config: FusionEncodersConfig, model: str, given: RawInputs) -> dict[str, dict[str, Any]]:
    """The raw inputs of a batch by modality; those that are not there are left out.

    Args:
        config ([`FusionEncodersConfig`]): Names the modalities.
        model (`str`): The model's class, for errors.
        given ([`RawInputs`]): What it was called with.

    Raises:
        ValueError: For a modality that the config does not name, or that comes as a feature sequence, or twice.
    """
    inputs: dict[str, dict[str, Any]] = {}
    for name, arguments in _SHORTHANDS.items():
        values = {argument: getattr(given, argument) for argument in arguments}
        given_ones = [argument for argument in arguments if values[argument] is not None and "mask" not in argument]
        if not given_ones:
            continue
        if not config.is_native(name):
            raise ValueError(
                f"{given_ones[0]} was given, but {model} takes the modalities {config.modalities} and no raw {name}."
            )
        inputs[name] = values
    for name, values in (given.modality_inputs or {}).items():
        if not config.is_native(name):
            raise ValueError(
                f"modality_inputs has {name!r}, but {model} takes the modalities {config.modalities}, and as feature "
                f"sequences {list(config.feature_sizes)}."
            )
        if name in inputs:
            raise ValueError(f"modality_inputs has {name!r}, which other arguments gave already.")
        inputs[name] = values
    return inputs
