"""Config of late fusion for classification and regression."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_encoders import FusionEncodersConfig


@strict
class FusionConfig(FusionEncodersConfig):
    r"""Late fusion of any number of modalities, each through an encoder of its own.

    A modality that `encoders` names and `feature_sizes` does not comes raw, as its encoder takes it: token ids, pictures or
    sound. All others are feature sequences. With `encoder="none"` and `num_head_layers=0` the model is a linear classifier
    on the concatenated means over time of the features: multinomial logistic regression, or linear regression.

    Args:
        feature_sizes (`dict[str, int]`, *optional*): Width of every modality that comes as a feature sequence.
        encoders (`dict[str, PreTrainedConfig | dict]`, *optional*):
            By modality, the config of an encoder that `AutoModel` makes: an object, a dict with its `model_type`, or, of
            timm, `{"architecture": "resnet18", "in_chans": 1}`, or of ours, `{"model_type": "mmalign_lstm"}`, an LSTM on
            token ids ([`~models.fusion.lstm_text.LstmTextConfig`]). An encoder of pictures, or AST, may also stand for a
            feature sequence, which it sees as a picture of one channel, steps × width.
        modalities (`list[str]`, *optional*):
            Names, in order; by default the raw ones, in the order of `encoders`, then those of `feature_sizes`.
        fusion (`str`, defaults to `"concat"`):
            How the modalities' vectors become one: `"concat"`, concatenated; `"auto"`, compressed so that they can be
            reconstructed (Auto-Fusion), whose loss is `reconstruction`; `"gan"`, each generated so that a critic takes
            it for what the others say (GAN-Fusion), whose losses are `generator_<modality>` and `reconstruction`;
            `"def_aaf"`, the weighted sum of class-conditional codes, see [`DefAafFields`], whose fields belong here
            too.
        latent_size (`int`, defaults to 50): Width of the fused vector, except of `fusion="concat"`.
        fusion_weight (`float`, defaults to 1.0): Weight of the losses of the fusion.
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
        aib_weight (`float`, defaults to 0.0):
            Weight of CAL's asymmetric information bottleneck, the loss `aib`; the paper's is 0.1, and with 0 there is none.
        aib_variant (`str`, defaults to `"beta"`):
            Its terms (CAL, Table 4): `"beta"` as printed, `"inverse_beta"` as the text says, `"mx_mi"` without weights,
            `"mi"` or `"mx"` alone.
        bottleneck_size (`int`, defaults to 16):
            Width of each modality's bottleneck. Gaussian information means little where it comes near the batch size.
        compression_lambda (`float`, defaults to 2.0): How much the modalities' β_m = exp(−λ a_m) differ (CAL, Eq. 9).
        max_text_length (`int`, *optional*): Longest text in tokens; by default as long as its encoder takes.
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

    fusion: Literal["concat", "auto", "gan", "def_aaf"] = "concat"
    latent_size: int = 50
    fusion_weight: float | int = 1.0
    num_head_layers: int = 1
    head_hidden_size: int | None = None
    unimodal_heads: bool = False
    unimodal_weight: float | int = 1.0
    aib_weight: float | int = 0.0
    aib_variant: Literal["mi", "mx", "mx_mi", "inverse_beta", "beta"] = "beta"
    bottleneck_size: int = 16
    compression_lambda: float | int = 2.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.head_hidden_size is None:
            self.head_hidden_size = self.hidden_size
        super().__post_init__(**kwargs)

    def validate_multimodal(self) -> None:
        if self.head_hidden_size < 1:
            raise ValueError(f"head_hidden_size is {self.head_hidden_size}; it is at least 1.")
        if self.num_head_layers < 0:
            raise ValueError(f"num_head_layers is {self.num_head_layers}; it is at least 0.")
        if self.latent_size < 1:
            raise ValueError(f"latent_size is {self.latent_size}; it is at least 1.")
        if self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size is {self.bottleneck_size}; a width is at least 1.")
        if self.compression_lambda <= 0:
            raise ValueError(f"compression_lambda is {self.compression_lambda}; it is greater than 0.")
        for name in ("unimodal_weight", "fusion_weight", "aib_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a weight is at least 0.")
        super().validate_multimodal()
        self.check_def_aaf(len(self.modalities))

    @property
    def num_classes(self) -> int:
        """Classes that a sample can be of; 0 of regression."""
        return 0 if self.problem_type == "regression" or self.num_labels == 1 else self.num_labels

    @property
    def loss_weights(self) -> dict[str, float]:
        heads = self.modalities if self.unimodal_heads else []
        fusion = self.fusion_loss_weights()
        fusion |= {"aib": self.aib_weight} if self.aib_weight else {}
        return fusion | {f"unimodal_{name}": self.unimodal_weight for name in heads}
