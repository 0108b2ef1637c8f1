"""Configs of the one-tower models with Wasserstein Modality Alignment."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import BertConfig, ViltConfig

from ...ot.solvers import Solver
from ..configuration_base import MultimodalConfigMixin


@dataclass(kw_only=True)
class WmaFields(MultimodalConfigMixin):
    """The fields that make a one-tower config one with Wasserstein Modality Alignment (Zhi et al., `papers/wma`).

    Args:
        modalities (`list[str]`, *optional*):
            Names of the modalities, in order. Defaults to the native ones of the backbone followed by those of
            `feature_sizes`. `"text"` and `"image"` are native where the backbone has them and `feature_sizes` does not
            name them.
        feature_sizes (`dict[str, int]`, *optional*):
            Width of every modality that comes as a feature sequence; each gets a linear projection and a modality-type
            embedding.
        wma_alpha (`float`, defaults to 1.0): α, the weight of the regulariser (Eq. 9). 0 turns it off.
        wma_beta (`float`, defaults to 1.0):
            β, the target distance as a multiple of the reference D̄ (Eq. 9). 0 minimises the distance.
        wma_reference (`str`, defaults to `"first_batch"`):
            D̄ is the mean distance over the first global training batch before any update, in eval mode, kept in the
            checkpoint; or, with `"batch"`, the current batch's mean (Eq. 9 read literally; a constant of the gradient).
        wma_calibration_batches (`int`, defaults to 1):
            With `"first_batch"`, over how many global batches of the training data [`MultimodalTrainer`] takes that mean.
            One of 32 samples has a standard deviation of 16 %, the step of a grid over β (not in the paper).
        wma_scale (`str`, defaults to `"absolute"`):
            The deviation D − β·D̄ as it is (Eq. 9), or `"relative"` to D̄, so that an α means the same whatever the
            network's distances are (not in the paper).
        wma_solver (`str`, defaults to `"auto"`):
            Optimal-transport solver, see [`hf_mmalign.ot.solve`]; `"ipot"` is the paper's.
        wma_certificate (`bool`, defaults to `False`):
            Report as component `wma_gap` of the losses, and so in the Trainer's log, by how much the solver can have
            overestimated a distance of the batch, proven by duality. It has no weight in the loss.
        classifier_pooling (`str`, defaults to `"cls"`):
            What the classifier sees: the class token, through the backbone's pooler; or, with `"mean"`, the mean over the
            modalities of each one's mean token. Sentence encoders (MiniLM and its kind) were trained for the latter.
        max_text_length (`int`, *optional*):
            Longest native text in tokens. Beyond the backbone's position table, the table is interpolated linearly to
            this length; left out, longer texts are refused.
        cls_token_id, sep_token_id (`int`, defaults to 101 and 102):
            Ids of the class token and the separator. They are no content of the text: alignment leaves them out, and
            the class token stands alone where a model or a batch has no native text.
    """

    native_modalities: ClassVar[tuple[str, ...]] = ()
    positive_fields: ClassVar[tuple[str, ...]] = (
        "vocab_size",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
        "layer_norm_eps",
    )

    modalities: list[str] | None = None
    feature_sizes: dict[str, int] | None = field(default=None)
    wma_alpha: float | int = 1.0
    wma_beta: float | int = 1.0
    wma_reference: Literal["first_batch", "batch"] = "first_batch"
    wma_calibration_batches: int = 1
    wma_scale: Literal["absolute", "relative"] = "absolute"
    wma_solver: Solver = "auto"
    wma_certificate: bool = False
    classifier_pooling: Literal["cls", "mean"] = "cls"
    max_text_length: int | None = None
    cls_token_id: int = 101
    sep_token_id: int = 102

    def __post_init__(self, **kwargs: Any) -> None:
        self.feature_sizes = dict(self.feature_sizes or {})
        if self.modalities is None:
            native = [name for name in self.native_modalities if name not in self.feature_sizes]
            self.modalities = native + list(self.feature_sizes)
        super().__post_init__(**kwargs)

    def _check_native(self, name: str) -> None:
        if name not in self.native_modalities:
            raise ValueError(
                f"modalities has {name!r}, which is neither native to {type(self).__name__} "
                f"({', '.join(self.native_modalities)}) nor named in feature_sizes ({self.feature_sizes})."
            )

    def validate_multimodal(self) -> None:
        for name in self.positive_fields:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is above 0.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is no multiple of num_attention_heads ({self.num_attention_heads})."
            )
        if self.wma_alpha < 0 or self.wma_beta < 0:
            raise ValueError(f"wma_alpha and wma_beta are at least 0, not {self.wma_alpha} and {self.wma_beta}.")
        if self.wma_calibration_batches < 1:
            raise ValueError(f"wma_calibration_batches is {self.wma_calibration_batches}; it is at least 1.")
        if self.max_text_length is not None and self.max_text_length < 2:
            raise ValueError(f"max_text_length is {self.max_text_length}; a text has at least 2 tokens.")

    @property
    def padding_token_id(self) -> int:
        return max(self.pad_token_id or 0, 0)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"wma": float(self.wma_alpha), "wma_gap": 0.0}


@strict
class ViltWmaConfig(WmaFields, ViltConfig):
    __doc__ = f"""ViLT with Wasserstein Modality Alignment; native text and image, any further feature sequences.

    Takes every argument of [`ViltConfig`] and those below. Reads the `config.json` of a stock ViLT checkpoint.

    {WmaFields.__doc__.split("Args:", 1)[1]}
    Example:

    ```python
    >>> from hf_mmalign import ViltWmaConfig, ViltWmaForSequenceClassification

    >>> config = ViltWmaConfig(num_labels=2, wma_alpha=1.0, wma_beta=2.0)
    >>> model = ViltWmaForSequenceClassification(config)
    ```
    """

    model_type = "vilt_wma"
    compatible_model_types: ClassVar[tuple[str, ...]] = ("vilt",)
    native_modalities: ClassVar[tuple[str, ...]] = ("text", "image")
    positive_fields: ClassVar[tuple[str, ...]] = (
        *WmaFields.positive_fields,
        "patch_size",
        "num_channels",
        "modality_type_vocab_size",
    )

    def validate_multimodal(self) -> None:
        super().validate_multimodal()
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size is {self.image_size}; it is at least patch_size, {self.patch_size}.")


@strict
class BertWmaConfig(WmaFields, BertConfig):
    __doc__ = f"""BERT as a one-tower with Wasserstein Modality Alignment; native text, any further feature sequences.

    Takes every argument of [`BertConfig`] and those below. Reads the `config.json` of a stock BERT checkpoint.

    {WmaFields.__doc__.split("Args:", 1)[1]}
    Example:

    ```python
    >>> from hf_mmalign import BertWmaConfig, BertWmaForSequenceClassification

    >>> config = BertWmaConfig(num_labels=2, feature_sizes={{"vision": 371, "audio": 81}}, wma_alpha=5.0, wma_beta=0.6)
    >>> model = BertWmaForSequenceClassification(config)
    ```
    """

    model_type = "bert_wma"
    compatible_model_types: ClassVar[tuple[str, ...]] = ("bert",)
    native_modalities: ClassVar[tuple[str, ...]] = ("text",)
