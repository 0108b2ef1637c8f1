"""What the configs of all fusion models share: modalities, and an encoder for each."""

import math
from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..configuration_base import MultimodalConfigMixin
from .configuration_def_aaf import DefAafFields
from .encoders import KINDS, config_to_dict, encoder_config, longest_text, main_input

SequenceEncoder = Literal["mlp", "none", "lstm", "transformer"]
Pooling = Literal["mean", "cls"]


@strict
class FusionEncodersConfig(DefAafFields, MultimodalConfigMixin, PreTrainedConfig):
    """The fields by which [`FusionConfig`] and [`FusionSeq2SeqConfig`], which say what they mean, describe encoders."""

    has_no_defaults_at_init: ClassVar = True  # read by older transformers: there are no features without a width

    feature_sizes: dict[str, int] | None = field(default=None)
    encoders: dict[str, Any] | None = None
    modalities: list[str] | None = None

    encoder: SequenceEncoder | dict[str, SequenceEncoder] = "mlp"
    hidden_size: int = 64
    num_encoder_layers: int = 1
    num_attention_heads: int = 4
    frozen: list[str] | None = None
    frozen_stages: dict[str, int] | None = None
    pooling: Pooling | dict[str, Pooling] = "mean"
    picture_steps: dict[str, int] | None = None
    dropout: float | int = 0.1
    max_text_length: int | None = None
    cls_token_id: int | None = None
    sep_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.feature_sizes = dict(self.feature_sizes or {})
        self.encoders = {name: encoder_config(name, value) for name, value in (self.encoders or {}).items()}
        self.frozen = list(self.frozen or [])
        self.frozen_stages = dict(self.frozen_stages or {})
        self.picture_steps = dict(self.picture_steps or {})
        if self.modalities is None:
            self.modalities = [*self._raw_modalities(), *self.feature_sizes]
        super().__post_init__(**kwargs)

    def _raw_modalities(self) -> list[str]:
        """The raw modalities, in order, where `modalities` is left out."""
        return [name for name in self.encoders if name not in self.feature_sizes]

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        values["encoders"] = {name: config_to_dict(config) for name, config in self.encoders.items()}
        return values

    def _check_native(self, name: str) -> None:
        if name not in self.encoders:
            raise ValueError(
                f"modalities has {name!r}, which neither feature_sizes ({self.feature_sizes}) nor encoders "
                f"({list(self.encoders)}) names; without an encoder, {type(self).__name__} takes feature sequences only."
            )

    def validate_multimodal(self) -> None:
        for name in ("hidden_size", "num_encoder_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1.")
        if self.fusion == "gan" and len(self.modalities) < 2:
            raise ValueError(f"fusion is 'gan', which needs two modalities or more; they are {self.modalities}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; a dropout rate lies in [0, 1).")
        if self.max_text_length is not None and not 2 <= self.max_text_length <= (
            self.max_position_embeddings or math.inf
        ):
            raise ValueError(
                f"max_text_length is {self.max_text_length}; a text has at least 2 tokens, and at most the "
                f"{self.max_position_embeddings} that its encoder takes."
            )
        self._validate_encoders()

    def _validate_encoders(self) -> None:
        named: dict[str, Any] = {"encoders": self.encoders, "frozen": self.frozen, "frozen_stages": self.frozen_stages}
        for field_name in ("encoder", "pooling"):
            named[field_name] = getattr(self, field_name) if isinstance(getattr(self, field_name), dict) else ()
        for field_name, names in {**named, "picture_steps": self.picture_steps}.items():
            stray = sorted(set(names) - set(self.modalities))
            if stray:
                raise ValueError(f"{field_name} has {stray}, but the modalities are {self.modalities}.")
        for name, count in self.frozen_stages.items():
            if name not in self.encoders or count < 0:
                raise ValueError(
                    f"frozen_stages has {name!r}: {count}; expected a number of stages, from 0, of one of "
                    f"{list(self.encoders)}."
                )
        for name, steps in self.picture_steps.items():
            if name not in self.encoders or name not in self.feature_sizes or steps < 1:
                raise ValueError(
                    f"picture_steps has {name!r}: {steps}; expected at least 1 step of a feature sequence with an entry in "
                    "encoders."
                )
        for name in self.feature_sizes:
            if name in self.encoders:
                self._check_sees_features(name)
            elif self.sequence_encoder(name) == "transformer" and self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size ({self.hidden_size}) is no multiple of num_attention_heads ({self.num_attention_heads})."
                )

    def _check_sees_features(self, name: str) -> None:
        config = self.encoders[name]
        taken = main_input(name, config)
        mels = getattr(config, "num_mel_bins", None) if taken == "input_values" else None
        if taken != "pixel_values" and mels is None:
            raise ValueError(
                f"encoders[{name!r}] takes {taken}, but {name!r} comes as a feature sequence, which encoders of pictures "
                "and AST take; leave it out of feature_sizes if it comes raw."
            )
        if mels not in (None, self.feature_sizes[name]):
            raise ValueError(
                f"encoders[{name!r}] has num_mel_bins {mels}, but feature_sizes[{name!r}] is {self.feature_sizes[name]}."
            )

    def fusion_loss_weights(self) -> dict[str, float]:
        """Weights of the loss components of the fusion that `fusion` names."""
        weights: dict[str, float] = {}
        if self.fusion in ("auto", "gan"):
            weights["reconstruction"] = 1.0
        if self.fusion == "gan":
            weights |= {f"generator_{name}": 1.0 for name in self.modalities}
        if self.fusion == "def_aaf":
            weights = self.def_aaf_weights(self.modalities)
        return {name: self.fusion_weight * weight for name, weight in weights.items()}

    def sequence_encoder(self, name: str) -> str:
        """What the feature sequence `name`, which has no entry in `encoders`, passes through."""
        return self.encoder.get(name, "mlp") if isinstance(self.encoder, dict) else self.encoder

    def pooling_of(self, name: str) -> str:
        """How modality `name` becomes a vector."""
        return self.pooling.get(name, "mean") if isinstance(self.pooling, dict) else self.pooling

    @property
    def modality_kinds(self) -> dict[str, str | int]:
        """Each modality's kind, in order: `"text"`, `"image"`, `"audio"`, or the width of a feature sequence."""
        return {name: self.feature_sizes.get(name) or self._raw_kind(name) for name in self.modalities}

    def _raw_kind(self, name: str) -> str:
        return KINDS[main_input(name, self.encoders[name])]

    def vocab_size_of(self, name: str) -> int:
        return (self.encoders.get(name) or self).get_text_config().vocab_size

    @property
    def max_position_embeddings(self) -> int | None:
        """Longest text in tokens; None without a text encoder, or for one that takes any length."""
        texts = [name for name, kind in self.modality_kinds.items() if kind == "text"]
        limits = [longest_text(self.encoders[name]) for name in texts]
        return min((limit for limit in limits if limit is not None), default=None)
