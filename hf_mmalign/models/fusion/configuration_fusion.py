"""Config of the late-fusion models."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..configuration_base import MultimodalConfigMixin


@strict
class FusionConfig(MultimodalConfigMixin, PreTrainedConfig):
    r"""Late fusion of any number of modalities that come as feature sequences.

    With `encoder="none"` and `num_head_layers=0` the model is a linear classifier on the concatenated means over time of
    the features: multinomial logistic regression, or linear regression.

    Args:
        feature_sizes (`dict[str, int]`): Width of every modality.
        modalities (`list[str]`, *optional*): Their names, in order; by default that of `feature_sizes`.
        fusion (`str`, defaults to `"concat"`): How the modalities' vectors become one: concatenated.
        encoder (`str`, defaults to `"mlp"`):
            What every time step passes through: a linear layer and ReLU, or, with `"none"`, nothing.
        hidden_size (`int`, defaults to 64): Width of the encoders.
        num_head_layers (`int`, defaults to 1): Hidden layers (linear and ReLU) between the fused vector and the output.
        head_hidden_size (`int`, *optional*): Their width, `hidden_size` by default.
        dropout (`float`, defaults to 0.1): On the fused vector and on what each hidden layer of the head returns.

    Example:

    ```python
    >>> from hf_mmalign import FusionConfig, FusionForSequenceClassification

    >>> config = FusionConfig(feature_sizes={"audio": 74, "vision": 35}, num_labels=8)
    >>> model = FusionForSequenceClassification(config)
    ```
    """

    model_type = "mmalign_fusion"
    has_no_defaults_at_init: ClassVar = True  # read by older transformers: there are no features without a width

    feature_sizes: dict[str, int] | None = field(default=None)
    modalities: list[str] | None = None

    fusion: Literal["concat"] = "concat"
    encoder: Literal["mlp", "none"] = "mlp"
    hidden_size: int = 64
    num_head_layers: int = 1
    head_hidden_size: int | None = None
    dropout: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        self.feature_sizes = dict(self.feature_sizes or {})
        if self.modalities is None:
            self.modalities = list(self.feature_sizes)
        if self.head_hidden_size is None:
            self.head_hidden_size = self.hidden_size
        super().__post_init__(**kwargs)

    def _check_native(self, name: str) -> None:
        raise ValueError(
            f"modalities has {name!r}, which feature_sizes ({self.feature_sizes}) does not name; {type(self).__name__} "
            "takes feature sequences only."
        )

    def validate_multimodal(self) -> None:
        for name in ("hidden_size", "head_hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a width is at least 1.")
        if self.num_head_layers < 0:
            raise ValueError(f"num_head_layers is {self.num_head_layers}; it is at least 0.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; a dropout rate lies in [0, 1).")

    def encoded_size(self, name: str) -> int:
        """Width of modality `name` after its encoder."""
        return self.feature_sizes[name] if self.encoder == "none" else self.hidden_size
