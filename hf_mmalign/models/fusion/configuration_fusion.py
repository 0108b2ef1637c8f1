"""Config of the late-fusion models."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..configuration_base import MultimodalConfigMixin
from .encoders import KINDS, config_to_dict, encoder_config, longest_text, main_input

SequenceEncoder = Literal["mlp", "none", "lstm", "transformer"]
Pooling = Literal["mean", "cls"]


@strict
class FusionConfig(MultimodalConfigMixin, PreTrainedConfig):
    r"""Late fusion of any number of modalities, each through an encoder of its own.

    A modality that `encoders` names and `feature_sizes` does not comes raw, as its encoder takes it: token ids, pictures or
    sound. All others are feature sequences. With `encoder="none"` and `num_head_layers=0` the model is a linear classifier
    on the concatenated means over time of the features: multinomial logistic regression, or linear regression.

    Args:
        feature_sizes (`dict[str, int]`, *optional*): Width of every modality that comes as a feature sequence.
        encoders (`dict[str, PreTrainedConfig | dict]`, *optional*):
            By modality, the config of an encoder that `AutoModel` makes: an object, a dict with its `model_type`, or, of
            timm, `{"architecture": "resnet18", "in_chans": 1}`. An encoder of pictures, or AST, may also stand for a
            feature sequence, which it sees as a picture of one channel, steps × width.
        modalities (`list[str]`, *optional*):
            Names, in order; by default the raw ones, in the order of `encoders`, then those of `feature_sizes`.
        fusion (`str`, defaults to `"concat"`): How the modalities' vectors become one: concatenated.
        encoder (`str` or `dict[str, str]`, defaults to `"mlp"`):
            What feature sequences without an entry in `encoders` pass through, for all or by modality: `"mlp"`, a linear
            layer and ReLU on each step; `"lstm"`; `"transformer"`; or `"none"`.
        hidden_size (`int`, defaults to 64): Width of these.
        num_encoder_layers (`int`, defaults to 1): Layers of LSTM and transformer.
        num_attention_heads (`int`, defaults to 4): Of the transformer.
        frozen (`list[str]`, *optional*): Modalities whose encoders are not trained; they stay in evaluation mode.
        frozen_stages (`dict[str, int]`, *optional*):
            By modality, how many stages of an encoder of `encoders` are not trained, and stay in evaluation mode: 1 is the
            stem or the embeddings, each layer (of a convolutional network, each stage) is one more.
        pooling (`str` or `dict[str, str]`, defaults to `"mean"`):
            The vector of a modality, for all or by modality: the `"mean"` of its tokens, or its first (`"cls"`).
        picture_steps (`dict[str, int]`, *optional*):
            For feature sequences that an encoder sees as pictures: steps to which each is cut or padded with 0. Left out,
            a batch is as long as its longest, and the edge of a shorter sample depends on it.
        num_head_layers (`int`, defaults to 1): Hidden layers (linear and ReLU) between the fused vector and the output.
        head_hidden_size (`int`, *optional*): Their width, `hidden_size` by default.
        dropout (`float`, defaults to 0.1):
            On the fused vector, on what each hidden layer of the head returns, and inside of LSTM and transformer.
        unimodal_heads (`bool`, defaults to `False`):
            A linear head on each modality's vector; its loss, over the samples that have it, is `unimodal_<name>`.
        unimodal_weight (`float`, defaults to 1.0): Weight of each of these losses.
        cls_token_id, sep_token_id (`int`, *optional*):
            Ids of a raw text's class token and separator. A text of nothing else counts as missing.

    Example:

    ```python
    >>> from hf_mmalign import FusionConfig, FusionForSequenceClassification

    >>> config = FusionConfig(feature_sizes={"audio": 74, "vision": 35}, num_labels=8)
    >>> model = FusionForSequenceClassification(config)

    >>> encoders = {"text": {"model_type": "bert", "num_hidden_layers": 2}, "image": {"architecture": "resnet18"}}
    >>> config = FusionConfig(encoders=encoders, feature_sizes={"audio": 74}, encoder="lstm", num_labels=8)
    ```
    """

    model_type = "mmalign_fusion"
    has_no_defaults_at_init: ClassVar = True  # read by older transformers: there are no features without a width

    feature_sizes: dict[str, int] | None = field(default=None)
    encoders: dict[str, Any] | None = None
    modalities: list[str] | None = None

    fusion: Literal["concat"] = "concat"
    encoder: SequenceEncoder | dict[str, SequenceEncoder] = "mlp"
    hidden_size: int = 64
    num_encoder_layers: int = 1
    num_attention_heads: int = 4
    frozen: list[str] | None = None
    frozen_stages: dict[str, int] | None = None
    pooling: Pooling | dict[str, Pooling] = "mean"
    picture_steps: dict[str, int] | None = None
    num_head_layers: int = 1
    head_hidden_size: int | None = None
    dropout: float | int = 0.1
    unimodal_heads: bool = False
    unimodal_weight: float | int = 1.0
    cls_token_id: int | None = None
    sep_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.feature_sizes = dict(self.feature_sizes or {})
        self.encoders = {name: encoder_config(name, value) for name, value in (self.encoders or {}).items()}
        self.frozen = list(self.frozen or [])
        self.frozen_stages = dict(self.frozen_stages or {})
        self.picture_steps = dict(self.picture_steps or {})
        if self.modalities is None:
            self.modalities = [*(name for name in self.encoders if name not in self.feature_sizes), *self.feature_sizes]
        if self.head_hidden_size is None:
            self.head_hidden_size = self.hidden_size
        super().__post_init__(**kwargs)

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
        for name in ("hidden_size", "head_hidden_size", "num_encoder_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1.")
        if self.num_head_layers < 0:
            raise ValueError(f"num_head_layers is {self.num_head_layers}; it is at least 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; a dropout rate lies in [0, 1).")
        if self.unimodal_weight < 0:
            raise ValueError(f"unimodal_weight is {self.unimodal_weight}; a weight is at least 0.")
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

    def sequence_encoder(self, name: str) -> str:
        """What the feature sequence `name`, which has no entry in `encoders`, passes through."""
        return self.encoder.get(name, "mlp") if isinstance(self.encoder, dict) else self.encoder

    def pooling_of(self, name: str) -> str:
        """How modality `name` becomes a vector."""
        return self.pooling.get(name, "mean") if isinstance(self.pooling, dict) else self.pooling

    @property
    def modality_kinds(self) -> dict[str, str | int]:
        """Each modality's kind, in order: `"text"`, `"image"`, `"audio"`, or the width of a feature sequence."""
        return {
            name: self.feature_sizes.get(name) or KINDS[main_input(name, self.encoders[name])]
            for name in self.modalities
        }

    @property
    def max_position_embeddings(self) -> int | None:
        """Longest text in tokens; None without a text encoder, or for one that takes any length."""
        texts = [name for name, kind in self.modality_kinds.items() if kind == "text"]
        limits = [longest_text(self.encoders[name]) for name in texts]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {f"unimodal_{name}": self.unimodal_weight for name in self.modalities} if self.unimodal_heads else {}
