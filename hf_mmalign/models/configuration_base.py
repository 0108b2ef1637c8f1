"""What the configs of all our models share."""

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..stub import is_ours, write_stub

logger = logging.get_logger(__name__)

# Keyword arguments that `PreTrainedConfig` handles without declaring them as fields.
_TRANSFORMERS_KEYWORDS = {
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "tie_word_embeddings",
    "torch_dtype",
}


_LARGEST = torch.finfo(torch.float32).max
# Attributes of the modules that hold a submodule for each modality under its name.
_RESERVED = frozenset(dir(nn.ModuleDict()))


class MultimodalConfigMixin:
    """Mixed into every config of the package: refuses unknown arguments and checkpoints of another model type.

    transformers accepts any keyword argument silently, so that a misspelt ``wma_aplha=5`` would train the default.

    Subclasses declare the fields `modalities` (`list[str]`, names in order) and `feature_sizes` (`dict[str, int]`, the
    width of every modality that comes as a feature sequence), filled in before :meth:`__post_init__` of this class.

    Class attributes:
        generates (`bool`): Whether the model generates a text, rather than classes or numbers.
        compatible_model_types (`tuple[str, ...]`): Model types, beside its own, whose ``config.json`` this class reads.
    """

    model_type: ClassVar[str]
    generates: ClassVar[bool] = False
    compatible_model_types: ClassVar[tuple[str, ...]] = ()
    modalities: list[str]
    feature_sizes: dict[str, int]

    @classmethod
    def known_arguments(cls) -> set[str]:
        """Every keyword argument this config accepts."""
        return {field.name for field in fields(cls)} | _TRANSFORMERS_KEYWORDS  # type: ignore[arg-type]

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = [key for key in kwargs if key not in self.known_arguments()]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no argument {_with_suggestions(unknown, self.known_arguments())}"
            )
        check_finite({field.name: getattr(self, field.name) for field in fields(self)})  # type: ignore[arg-type]
        super().__post_init__(**kwargs)  # type: ignore[misc]
        if self.num_labels < 1:  # type: ignore[attr-defined]
            raise ValueError(f"num_labels is {self.num_labels}; it is at least 1.")  # type: ignore[attr-defined]
        self.validate_modalities()
        self.validate_multimodal()

    def validate_modalities(self) -> None:
        if not self.modalities:
            raise ValueError(
                f"{type(self).__name__} needs a modality, but feature_sizes is empty and modalities names none."
            )
        taken = [name for name in self.modalities if not name or "." in name or name in _RESERVED]
        if taken:
            raise ValueError(
                f"modalities has {taken}: PyTorch's modules have these names themselves, or take no empty one and no dot."
            )
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities names one twice: {self.modalities}")
        for name in self.modalities:
            if self.is_native(name):
                self._check_native(name)
        stray = set(self.feature_sizes) - set(self.modalities)
        if stray:
            raise ValueError(f"feature_sizes has {sorted(stray)}, which modalities {self.modalities} leaves out.")
        for name, size in self.feature_sizes.items():
            if size < 1:
                raise ValueError(f"feature_sizes[{name!r}] is {size}; a width is at least 1.")

    def _check_native(self, name: str) -> None:
        """Raise ValueError unless the model takes modality `name` raw, which `feature_sizes` does not name."""
        raise NotImplementedError

    def validate_multimodal(self) -> None:
        """Check the other fields against each other; called at construction. Raises ValueError naming the field."""

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        found = config_dict.get("model_type")
        if found in cls.compatible_model_types:
            config_dict = {**config_dict, "model_type": cls.model_type}
        elif config_dict and found != cls.model_type:
            readable = ", ".join(repr(name) for name in (cls.model_type, *cls.compatible_model_types))
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a checkpoint of model type {found!r}; {cls.__name__} reads "
                f"{readable}."
            )
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        # A stock config.json may carry fields of older transformers releases; those are no misspelt arguments.
        known = cls.known_arguments()
        dropped = sorted(set(config_dict) - known - {"auto_map"})
        if dropped:
            logger.info(f"{cls.__name__} ignores the fields {dropped} of the loaded config.")
        config_dict = {key: value for key, value in config_dict.items() if key in known}
        # transformers sets overrides one by one on the finished config; ours must be checked together with the rest.
        overrides = {field.name for field in fields(cls)} - {"dtype"}  # type: ignore[arg-type]
        config_dict |= {key: kwargs.pop(key) for key in list(kwargs) if key in overrides}
        return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """Write the config, and beside it the file that `auto_map` in it names (see :mod:`hf_mmalign.stub`)."""
        super().to_json_file(json_file_path, use_diff)  # type: ignore[misc]
        if is_ours(type(self)):
            path = Path(json_file_path)
            values = json.loads(path.read_text(encoding="utf-8"))
            values["auto_map"] = {"AutoConfig": write_stub(path.parent, type(self))}
            path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoConfig") -> None:
        """Register the package. transformers calls this when it met the class through a saved folder's `auto_map`.

        Its own method has the next save copy this class's source file, whose imports reach beyond the folder.
        """
        from .auto import register

        register()
        if not is_ours(cls):
            super().register_for_auto_class(auto_class)  # type: ignore[misc]

    def is_native(self, name: str) -> bool:
        """Whether modality `name` comes raw (token ids, pixels) rather than as a feature sequence."""
        return name in self.modalities and name not in self.feature_sizes

    @property
    def task(self) -> str | None:
        """The problem type, which transformers knows only where it is one of its own; None if labels have to tell."""
        return "translation" if self.generates else self.problem_type  # type: ignore[attr-defined]

    @property
    def padding_token_id(self) -> int:
        """The id that stands for what is under a mask of 0 in a raw text."""
        return 0

    def vocab_size_of(self, name: str) -> int:
        """How many ids the raw text `name` may have."""
        return self.get_text_config().vocab_size  # type: ignore[attr-defined]

    @property
    def modality_kinds(self) -> dict[str, str | int]:
        """Each modality's kind, in order: `"text"`, `"image"`, or the width of a feature sequence."""
        return {name: self.feature_sizes.get(name, name) for name in self.modalities}

    @property
    def modality_pairs(self) -> list[tuple[str, str]]:
        """Every unordered pair of modalities, in the order of `modalities`."""
        return [(m, n) for i, m in enumerate(self.modalities) for n in self.modalities[i + 1 :]]

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of each loss component in the total; components not named weigh 1."""
        return {}

    @property
    def keys_to_ignore_at_inference(self) -> list[str]:
        """Outputs that Trainer must not gather in evaluation: all but loss and logits."""
        return [
            "losses",
            "diagnostics",
            "modality_features",
            "unimodal_logits",
            "gate_weights",
            "codes",
            "critic_inputs",
            "hidden_states",
            "attentions",
        ]


def check_finite(values: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first number among the fields that is NaN or infinite in fp32, nested ones included.

    A comparison with NaN is False, so that a check of bounds may pass it and a weight of NaN switch its loss off.
    """
    for name, number in _numbers(values, ""):
        if not abs(number) <= _LARGEST:
            raise ValueError(f"{name} is {number}; it must be a finite number, also in single precision.")


def _numbers(value: Any, name: str) -> Iterator[tuple[str, Real]]:
    """Every number in nested mappings, lists and configs, with its path."""
    if isinstance(value, PreTrainedConfig):
        value = value.to_dict()
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _numbers(entry, f"{name}[{key!r}]" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            yield from _numbers(entry, f"{name}[{index}]")
    elif isinstance(value, Real):
        yield name, value


def _with_suggestions(names: list[str], known: set[str]) -> str:
    parts = []
    for name in names:
        close = difflib.get_close_matches(name, sorted(known), n=1)
        parts.append(f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    return ", ".join(parts)
