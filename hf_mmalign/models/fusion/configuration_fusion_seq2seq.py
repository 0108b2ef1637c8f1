"""Config of fusion for translation."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from .configuration_encoders import FusionEncodersConfig
from .encoders import longest_text

# Ids that generation needs and that the encoder–decoder's config knows.
_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


@strict
class FusionSeq2SeqConfig(FusionEncodersConfig):
    r"""An encoder–decoder for text that also attends to other modalities.

    The decoder's memory is the text encoder's states and, where there are other modalities, what `fusion` makes of all.
    With `modalities=["text"]` the model is the encoder–decoder alone: the text-only baseline.

    Args:
        text_config (`PreTrainedConfig` or `dict`):
            Config of an encoder–decoder that `AutoModelForSeq2SeqLM` makes (Marian, BART, T5, …), or a dict with its
            `model_type`, `"marian"` by default.
        fusion (`str`, defaults to `"concat"`):
            `"concat"`, early fusion: the concatenation of the modalities' vectors, the text's among them, projected to
            one memory token; `"auto"`, the same of their Auto-Fusion; `"gan"`, of their GAN-Fusion; `"def_aaf"`, of DEF
            + AAF, see [`DefAafFields`]; `"attention"`: every step of every other modality, projected, is a memory
            token.
        latent_size (`int`, defaults to 100): Width of the fused vector, except of `fusion="concat"`.
        fusion_weight (`float`, defaults to 1.0): Weight of the losses of the fusion.
        label_smoothing (`float`, defaults to 0.0): Of the tokens' cross-entropy, in training only.
        feature_sizes, encoders, modalities, encoder, hidden_size, num_encoder_layers, num_attention_heads, frozen, \
        frozen_stages, pooling, picture_steps, dropout, max_text_length, cls_token_id, sep_token_id:
            As in [`FusionConfig`], for all modalities but `"text"`, which comes as token ids and must be there; only
            `frozen` and `pooling` may name it. `modalities` is by default the text, those of `encoders`, then those of
            `feature_sizes`.

    Example:

    ```python
    >>> from hf_mmalign import FusionForConditionalGeneration, FusionSeq2SeqConfig

    >>> text = {"model_type": "marian", "vocab_size": 8000, "d_model": 256, "encoder_layers": 3, "decoder_layers": 3}
    >>> config = FusionSeq2SeqConfig(text_config=text, feature_sizes={"image": 1280})
    >>> model = FusionForConditionalGeneration(config)
    ```
    """

    model_type = "mmalign_fusion_seq2seq"
    generates: ClassVar[bool] = True
    sub_configs: ClassVar = {"text_config": AutoConfig}

    text_config: PreTrainedConfig | dict | None = None
    fusion: Literal["concat", "auto", "gan", "def_aaf", "attention"] = "concat"
    latent_size: int = 100
    fusion_weight: float | int = 1.0
    label_smoothing: float | int = 0.0
    is_encoder_decoder: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**{"model_type": "marian"} | self.text_config)
        if type(self.text_config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            raise ValueError(
                f"text_config is {type(self.text_config).__name__}; expected the config of an encoder–decoder that "
                "AutoModelForSeq2SeqLM makes, or a dict with its model_type, such as marian, bart or t5."
            )
        for name in _TOKEN_IDS:
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.text_config, name, None))
        super().__post_init__(**kwargs)

    def _raw_modalities(self) -> list[str]:
        others = [name for name in super()._raw_modalities() if name != "text"]
        return others if "text" in self.feature_sizes else ["text", *others]

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The encoder–decoder's own view of its decoder or encoder, whose layers caches are made for."""
        return self.text_config.get_text_config(decoder=decoder, encoder=encoder)

    def _check_native(self, name: str) -> None:
        if name != "text":
            super()._check_native(name)

    def validate_multimodal(self) -> None:
        if not self.is_native("text") or "text" in self.encoders:
            raise ValueError(
                f"modalities is {self.modalities}, feature_sizes names {list(self.feature_sizes)} and encoders "
                f"{list(self.encoders)}; a translation needs the modality 'text' as token ids, which text_config's encoder "
                "reads."
            )
        if self.latent_size < 1:
            raise ValueError(f"latent_size is {self.latent_size}; it is at least 1.")
        if self.fusion_weight < 0:
            raise ValueError(f"fusion_weight is {self.fusion_weight}; a weight is at least 0.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it lies in [0, 1).")
        if self.pad_token_id is None or self.eos_token_id is None or self.decoder_start_token_id is None:
            raise ValueError(
                f"text_config has pad_token_id {self.pad_token_id}, eos_token_id {self.eos_token_id} and "
                f"decoder_start_token_id {self.decoder_start_token_id}; a translation needs all three."
            )
        super().validate_multimodal()
        self.check_def_aaf(len(self.modalities))

    def _raw_kind(self, name: str) -> str:
        return "text" if name == "text" else super()._raw_kind(name)

    @property
    def max_position_embeddings(self) -> int | None:
        """Longest text, and longest translation, in tokens; None where the encoder–decoder takes any length."""
        return longest_text(self.text_config)

    @property
    def padding_token_id(self) -> int:
        return self.pad_token_id

    @property
    def num_classes(self) -> int:
        """None: a translation is of no class."""
        return 0

    @property
    def loss_weights(self) -> dict[str, float]:
        return self.fusion_loss_weights()

    @property
    def keys_to_ignore_at_inference(self) -> list[str]:
        return [
            *super().keys_to_ignore_at_inference,
            *("past_key_values", "decoder_hidden_states", "decoder_attentions", "cross_attentions"),
            "encoder_last_hidden_state",
        ]
