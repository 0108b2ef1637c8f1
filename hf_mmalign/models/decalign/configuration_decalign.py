"""Config of DecAlign."""

from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from ..configuration_base import MultimodalConfigMixin

# Loss terms that `disabled_losses` may name, by the component of `output.losses` they belong to.
LOSS_TERMS = {
    "decouple": ("decouple",),
    "hete": ("hete_transport", "hete_prototype"),
    "homo": ("homo_semantic", "homo_mmd"),
    "contrastive": ("contrastive",),
    "polarity": ("polarity",),
}
_DROPOUTS = ("embedding_dropout", "activation_dropout", "residual_dropout", "classifier_dropout")


@strict
class DecAlignConfig(MultimodalConfigMixin, PreTrainedConfig):
    r"""DecAlign (Qian et al., `papers/decalign`) of two or more modalities: feature sequences, and text through an encoder.

    The defaults are the paper's model; where the public code (taco-group/DecAlign) differs, its way is an option, and the
    one to choose for its numbers is named below as *official*.

    Args:
        feature_sizes (`dict[str, int]`, *optional*): Width of every modality that comes as a feature sequence.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Config of a transformers text encoder; with it, the modality `"text"` comes as token ids.
        freeze_text_encoder (`bool`, defaults to `False`): Keep the text encoder as it is, in evaluation mode.
        cls_token_id, sep_token_id (`int`, *optional*):
            Ids of the text's class token and separator. A text of nothing else counts as missing.
        modalities (`list[str]`, *optional*):
            Names of the modalities, in order. Defaults to `"text"`, where there is a `text_config`, and `feature_sizes`.
        hidden_size (`int`, defaults to 64): Common width d of all modalities.
        num_hidden_layers (`int`, defaults to 5): Layers of each modality's cross-modal transformer.
        num_attention_heads (`int`, defaults to 8): Heads of each attention.
        conv_kernel_size (`int` or `dict[str, int]`, defaults to 1): Kernel of the temporal convolutions.
        conv_padding (`str`, defaults to `"same"`):
            `"same"` keeps the number of time steps, as the paper does; `"valid"`, official, loses a kernel's width − 1.
        position_embedding (`str`, defaults to `"sinusoidal"`):
            Positions of the tokens in the cross-modal transformers; `"none"` is official, and blind to the order in time.
        feature_dropout, attention_dropout (`float` or `dict[str, float]`, default to 0.0 and 0.1):
            On the features that enter, and on attention weights; one number or one for each modality.
        embedding_dropout, activation_dropout, residual_dropout, classifier_dropout (`float`, default to 0.1, last to 0):
            On the tokens that enter the cross-modal transformers, after their ReLU, on what each of their sublayers adds,
            and before the head (there also inside the latent encoders of Section 3.3.1).
        layer_norm_eps (`float`, defaults to 1e-5): Of the cross-modal transformers.

        decalign_alpha, decalign_beta (`float`, default to 0.05): α, the weight of L_hete, and β, of L_homo (Eq. 13).
        decoupling_weight (`float`, defaults to 1.0): Weight of L_dec; Eq. 13 has 1.
        contrastive_weight (`float`, defaults to 0.003): Weight of the supervised contrastive term ("CT" of Table 4).
        polarity_weight (`float`, defaults to 0.0):
            Regression only: weight of binary cross-entropy on the sign of non-zero labels; official for CH-SIMS: 0.01.
        disabled_losses (`list[str]`, defaults to none):
            Ablations of Tables 3 and 4: any of `decouple`, `hete`, `homo`, `contrastive`, `polarity`, or of the parts
            `hete_transport`, `hete_prototype`, `homo_semantic`, `homo_mmd`. A term of weight 0 is not computed either.
        loss_reduction (`str`, defaults to `"mean"`):
            `"mean"`, official, averages where `"sum"` adds up as printed: over the modalities in Eq. 1, the features in
            Eqs. 6 and 9, features and pairs in Eq. 10. The mean over features is `hidden_size` times weaker. Measured on
            RAVDESS with `"mean"`: the weighted gradient of L_hete is 2–4 % of the task's, that of L_homo 8–10 %; the
            strength of `"sum"` hurts there.

        decoupling (`str`, defaults to `"squared_cosine"`):
            Drives the cosine of unique and common features to 0; `"cosine"` is Eq. 1 as printed, which drives it to −1.
        num_prototypes (`int`, defaults to 7): K, Gaussian components per modality (Eq. 2).
        mixture_iterations (`int`, defaults to 5): EM steps per batch.
        mixture_variance_floor (`float`, defaults to 1e-4): Smallest variance of a component.
        mixture_gradient (`str`, defaults to `"last_step"`): EM steps the gradient passes; `"all_steps"` is official.
        mixture_momentum (`float`, defaults to 0.0):
            Share of the running mixtures in those of a batch; above 0, mixtures are followed across batches (kept in the
            checkpoint), which batches with few samples per component need.
        transport_epsilon (`float`, defaults to 0.1): Entropic regularisation λ of Eq. 7, relative to the mean cost.
        transport_epsilon_scale (`str`, defaults to `"mean_cost"`): `"absolute"`, official, takes ε as it is.
        transport_iterations (`int`, defaults to 50): At most so many rounds of Sinkhorn's scaling.
        transport_entropy (`bool`, defaults to `False`):
            Count Eq. 7's entropy term in the loss; official: `True`. The gradient is the plan either way. That is the
            objective's own gradient with the term only (the envelope theorem holds for the entropic objective); without
            it, how the plan moves with the costs is left out.
        prototype_matching (`str`, defaults to `"transport"`):
            Which prototypes of the other modality Eq. 9's second term draws a sample to: those its own component is
            transported to, or the ones of the same `"index"`, official, although two mixtures number theirs independently.
        latent_size (`int`, *optional*):
            Width of the latent space of Section 3.3.1, `hidden_size` by default: an MLP for each modality in front of
            L_homo, as in the public code. These can absorb the alignment and leave the common features apart (measured
            gap between the modalities: 0.34 with L_homo, 0.32 without); 0 aligns the common features themselves.
        mmd_bandwidth (`float`, defaults to 1.0): σ of the Gaussian kernel (Eq. 12).
        contrastive_temperature (`float`, defaults to 0.1): Temperature of the contrastive term.
        contrastive_features (`str`, defaults to `"fused"`):
            What the contrastive term compares: the `"fused"` representations, or with `"common"` the mean common features
            of all modalities in one set, so that those of one class are drawn together across modalities too (not in the
            paper).
        common_head (`str`, defaults to `"concat"`):
            What the head reads of the common features: all, concatenated, or with `"mean"` the mean over the modalities
            that a sample has, in which aligned features can stand for each other (not in the paper; with `latent_size: 0`,
            which aligns these features themselves).
        contrastive_range (`list[float]`, defaults to `[-3.0, 3.0]`): Range of regression labels, cut into 7 bins.

    Example:

    ```python
    >>> from hf_mmalign import DecAlignConfig, DecAlignForSequenceClassification

    >>> config = DecAlignConfig(feature_sizes={"text": 768, "audio": 5, "vision": 20}, num_labels=1)
    >>> model = DecAlignForSequenceClassification(config)
    ```
    """

    model_type = "decalign"
    has_no_defaults_at_init: ClassVar = True  # read by older transformers: there are no features without a width
    sub_configs: ClassVar = {"text_config": AutoConfig}

    feature_sizes: dict[str, int] | None = field(default=None)
    text_config: PreTrainedConfig | dict | None = None
    freeze_text_encoder: bool = False
    cls_token_id: int | None = None
    sep_token_id: int | None = None
    modalities: list[str] | None = None

    hidden_size: int = 64
    num_hidden_layers: int = 5
    num_attention_heads: int = 8
    conv_kernel_size: int | dict[str, int] = 1
    conv_padding: Literal["same", "valid"] = "same"
    position_embedding: Literal["sinusoidal", "none"] = "sinusoidal"
    feature_dropout: float | int | dict[str, float | int] = 0.0
    attention_dropout: float | int | dict[str, float | int] = 0.1
    embedding_dropout: float | int = 0.1
    activation_dropout: float | int = 0.1
    residual_dropout: float | int = 0.1
    classifier_dropout: float | int = 0.0
    layer_norm_eps: float = 1e-5

    decalign_alpha: float | int = 0.05
    decalign_beta: float | int = 0.05
    decoupling_weight: float | int = 1.0
    contrastive_weight: float | int = 0.003
    polarity_weight: float | int = 0.0
    disabled_losses: list[str] | None = None
    loss_reduction: Literal["mean", "sum"] = "mean"

    decoupling: Literal["squared_cosine", "cosine"] = "squared_cosine"
    num_prototypes: int = 7
    mixture_iterations: int = 5
    mixture_variance_floor: float = 1e-4
    mixture_gradient: Literal["last_step", "all_steps"] = "last_step"
    mixture_momentum: float | int = 0.0
    transport_epsilon: float | int = 0.1
    transport_epsilon_scale: Literal["mean_cost", "absolute"] = "mean_cost"
    transport_iterations: int = 50
    transport_entropy: bool = False
    prototype_matching: Literal["transport", "index"] = "transport"
    latent_size: int | None = None
    mmd_bandwidth: float | int = 1.0
    contrastive_temperature: float | int = 0.1
    contrastive_features: Literal["fused", "common"] = "fused"
    common_head: Literal["concat", "mean"] = "concat"
    contrastive_range: list[float | int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.feature_sizes = dict(self.feature_sizes or {})
        self.disabled_losses = list(self.disabled_losses or [])
        if isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**{"model_type": "bert"} | self.text_config)
        if self.contrastive_range is None:
            self.contrastive_range = [-3.0, 3.0]
        if self.latent_size is None:
            self.latent_size = self.hidden_size
        if self.modalities is None:
            native = ["text"] if self.text_config is not None and "text" not in self.feature_sizes else []
            self.modalities = native + list(self.feature_sizes)
        super().__post_init__(**kwargs)

    def _check_native(self, name: str) -> None:
        if name != "text" or self.text_config is None:
            raise ValueError(
                f"modalities has {name!r}, which feature_sizes ({self.feature_sizes}) does not name; raw text, as "
                "'text', needs a text_config."
            )

    def validate_multimodal(self) -> None:
        if len(self.modalities) == 1:
            raise ValueError(f"DecAlign aligns at least two modalities; modalities is {self.modalities}.")
        if self.text_config is not None and not self.is_native("text"):
            raise ValueError("text_config is given, but 'text' comes as features or is not among the modalities.")
        self._validate_architecture()
        self._validate_losses()

    def _validate_architecture(self) -> None:
        if self.hidden_size < 1 or self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is no multiple of num_attention_heads ({self.num_attention_heads})."
            )
        if self.num_hidden_layers < 1:
            raise ValueError(f"num_hidden_layers is {self.num_hidden_layers}; it is at least 1.")
        for name, kernel in self.per_modality("conv_kernel_size").items():
            if kernel < 1:
                raise ValueError(f"conv_kernel_size of {name!r} is {kernel}; it is at least 1.")
        rates = {name: getattr(self, name) for name in _DROPOUTS}
        for field_name in ("feature_dropout", "attention_dropout"):
            rates |= {f"{field_name} of {name!r}": rate for name, rate in self.per_modality(field_name).items()}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name} is {rate}; a dropout rate lies in [0, 1).")

    def _validate_losses(self) -> None:
        weights = ("decalign_alpha", "decalign_beta", "decoupling_weight", "contrastive_weight", "polarity_weight")
        for name in weights:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a weight is at least 0.")
        known = {*LOSS_TERMS, *(part for parts in LOSS_TERMS.values() for part in parts)}
        unknown = [name for name in self.disabled_losses if name not in known]
        if unknown:
            raise ValueError(f"disabled_losses has {unknown}; it may name {sorted(known)}.")
        positive = (
            "layer_norm_eps",
            "num_prototypes",
            "mixture_iterations",
            "mixture_variance_floor",
            "transport_epsilon",
            "transport_iterations",
            "mmd_bandwidth",
            "contrastive_temperature",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is above 0.")
        if not 0 <= self.mixture_momentum < 1:
            raise ValueError(f"mixture_momentum is {self.mixture_momentum}; it lies in [0, 1).")
        if self.latent_size < 0:
            raise ValueError(f"latent_size is {self.latent_size}; it is at least 0.")
        if len(self.contrastive_range) != 2 or not self.contrastive_range[0] < self.contrastive_range[1]:
            raise ValueError(f"contrastive_range is [lowest, highest] label, not {self.contrastive_range}.")

    def per_modality(self, field_name: str) -> dict[str, Any]:
        """The value for each modality of a field that is one number or a dict; those not named have the default.

        Raises:
            ValueError: If the dict names a modality that the config does not have.
        """
        value = getattr(self, field_name)
        if not isinstance(value, dict):
            return dict.fromkeys(self.modalities, value)
        stray = set(value) - set(self.modalities)
        if stray:
            raise ValueError(f"{field_name} has {sorted(stray)}, but the modalities are {self.modalities}.")
        default = next(f.default for f in self.__dataclass_fields__.values() if f.name == field_name)
        return {name: value.get(name, default) for name in self.modalities}

    @property
    def max_position_embeddings(self) -> int | None:
        """Longest text in tokens; None without a text encoder, or for one that takes any length."""
        return getattr(self.text_config, "max_position_embeddings", None)

    @property
    def padding_token_id(self) -> int:
        return max(getattr(self.text_config, "pad_token_id", None) or 0, 0)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of Eq. 13. The parts of L_hete and L_homo are reported beside their sum and so weigh 0 in the total."""
        weights = {
            "decouple": self.decoupling_weight,
            "hete": self.decalign_alpha,
            "homo": self.decalign_beta,
            "contrastive": self.contrastive_weight,
            "polarity": self.polarity_weight,
        }
        parts = [part for name in ("hete", "homo") for part in LOSS_TERMS[name]]
        return {name: float(weight) for name, weight in weights.items()} | dict.fromkeys(parts, 0.0)

    def computes(self, term: str) -> bool:
        """Whether training computes a loss term: its weight is above 0, and neither it nor what it is part of is off."""
        group = next(name for name, parts in LOSS_TERMS.items() if term == name or term in parts)
        on = self.loss_weights[group] > 0 and group not in self.disabled_losses
        parts = LOSS_TERMS[group] if term == group else (term,)
        return on and any(part not in self.disabled_losses for part in parts)
