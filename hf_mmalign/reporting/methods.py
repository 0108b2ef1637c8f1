"""The methods of this package and the papers they come from, for model cards."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """A reference, as far as the paper's own text gives it."""

    title: str
    authors: str

    def __str__(self) -> str:
        return f"{self.authors}: *{self.title}*."


@dataclass(frozen=True)
class Method:
    """How a model was trained.

    Args:
        label (`str`): Its name in headings.
        tag (`str`): Its tag on the Hub.
        summary (`str`): What it does, for someone who has not read the paper.
        settings (`tuple[str, ...]`): The config's fields that belong to it, which a card states.
        paper (`Paper`, *optional*): Where it comes from.
    """

    label: str
    tag: str
    summary: str
    settings: tuple[str, ...] = ()
    paper: Paper | None = None


_WMA_PAPER = Paper(
    "Wasserstein Modality Alignment Makes Your Multimodal Transformer More Robust",
    "Zhuo Zhi, Ziquan Liu, Qiangqiang Wu, Miguel Rodrigues",
)
_FUSION_PAPER = Paper("Adaptive Fusion Techniques for Multimodal Data", "Gaurav Sahu, Olga Vechtomova")

METHODS: dict[str, Method] = {
    "plain": Method(
        "plain fine-tuning",
        "fine-tuning",
        "All modalities are embedded, concatenated and encoded by one transformer, which is fine-tuned on the task "
        "loss alone: the baseline of the methods of this package.",
    ),
    "minimise_ot": Method(
        "minimised optimal-transport distance",
        "minimise-ot",
        "All modalities are embedded, concatenated and encoded by one transformer. Beside the task loss, the "
        "optimal-transport distance between the encoded tokens of each pair of modalities is minimised: the ablation "
        "β = 0 of Wasserstein Modality Alignment. Nothing is added at inference.",
        ("wma_alpha", "wma_beta"),
        _WMA_PAPER,
    ),
    "wma": Method(
        "Wasserstein Modality Alignment (WMA)",
        "wasserstein-modality-alignment",
        "All modalities are embedded, concatenated and encoded by one transformer. Beside the task loss, the "
        "optimal-transport distance between the encoded tokens of each pair of modalities is held at β times its value "
        "before training, with weight α. Nothing is added at inference.",
        ("wma_alpha", "wma_beta"),
        _WMA_PAPER,
    ),
    "decalign": Method(
        "DecAlign",
        "decalign",
        "Each modality's features are decoupled into unique and common ones. Beside the task loss, prototypes of the "
        "unique features are aligned across modalities by multi-marginal optimal transport, and the common features by "
        "their moments and the maximum mean discrepancy. A cross-modal transformer fuses the unique features.",
        ("decalign_alpha", "decalign_beta", "num_prototypes"),
        Paper(
            "DecAlign: Hierarchical Cross-Modal Alignment for Decoupled Multimodal Representation Learning",
            "Chengxuan Qian, Shuo Xing, Shawn Li, Yue Zhao, Zhengzhong Tu",
        ),
    ),
    "mmalign_fusion": Method(
        "late fusion by concatenation",
        "late-fusion",
        "Each modality is encoded on its own and averaged over time; a head takes the modalities' vectors side by side: "
        "a baseline of the methods of this package.",
        ("encoder", "hidden_size", "num_head_layers"),
    ),
    "cal": Method(
        "Contribution-Guided Asymmetric Learning (CAL)",
        "contribution-guided-asymmetric-learning",
        "Each modality is encoded on its own, and a head takes the modalities' vectors side by side. Beside the task loss, "
        "an information bottleneck on each modality's vector is to keep what the fused vector tells and to lose the rest, "
        "weighted by what the modality contributes. Nothing is added at inference.",
        ("aib_weight", "bottleneck_size", "compression_lambda", "unimodal_heads"),
        Paper(
            "Contribution-Guided Asymmetric Learning for Robust Multimodal Fusion under Imbalance and Noise",
            "Zijing Xu, Yunfeng Kou, Kunming Wu, Hong Liu",
        ),
    ),
}


METHODS |= {
    "mmalign_fusion_auto": Method(
        "Auto-Fusion",
        "auto-fusion",
        "Each modality is encoded on its own and averaged over time; the vectors side by side are compressed to a latent "
        "one, from which they must be reconstructed beside the task, and a head takes that.",
        ("encoder", "hidden_size", "num_head_layers", "latent_size", "fusion_weight"),
        _FUSION_PAPER,
    ),
    "mmalign_fusion_seq2seq": Method(
        "early fusion by concatenation",
        "early-fusion",
        "An encoder–decoder translates the text; its decoder also attends to one token made of the modalities' vectors "
        "side by side. With text alone it is the encoder–decoder: the baselines of Auto-Fusion.",
        ("hidden_size", "label_smoothing"),
    ),
    "mmalign_fusion_seq2seq_attention": Method(
        "attention to every modality",
        "image-attention",
        "An encoder–decoder translates the text; its decoder also attends to every step of the other modalities, each "
        "projected to a token: a baseline of Auto-Fusion.",
        ("hidden_size", "label_smoothing"),
    ),
    "mmalign_fusion_seq2seq_auto": Method(
        "Auto-Fusion",
        "auto-fusion",
        "An encoder–decoder translates the text; its decoder also attends to one token. That is made of the modalities' "
        "vectors, compressed to a latent one from which they must be reconstructed beside the task.",
        ("hidden_size", "latent_size", "fusion_weight", "label_smoothing"),
        _FUSION_PAPER,
    ),
}

_CODES = (
    "a shared class-conditional autoencoder encodes each vector to a code, and a gate weighs a sample's codes by what they "
    "are worth. Codes of one sample are to be alike and to tell each other's vectors, and a critic, trained beside the "
    "model, is to find their sum distributed as they are. No label and no critic is needed to predict."
)
_DEF_AAF_FIELDS = (
    *("latent_size", "homologous_weight", "reconstruction_weight", "contrastive_weight", "alignment_weight", "gate"),
    "class_dropout",
)
METHODS |= {
    "mmalign_fusion_def_aaf": Method(
        "DEF + AAF",
        "def-aaf",
        f"Each modality is encoded on its own and averaged over time; {_CODES}",
        ("encoder", "hidden_size", "num_head_layers", *_DEF_AAF_FIELDS),
    ),
    "mmalign_fusion_seq2seq_def_aaf": Method(
        "DEF + AAF",
        "def-aaf",
        "An encoder–decoder translates the text; its decoder also attends to one token made of the modalities' vectors: "
        f"{_CODES}",
        ("hidden_size", *_DEF_AAF_FIELDS, "label_smoothing"),
    ),
}


_GAN = (
    "Each modality's vector goes through a generator, against a critic that tells what comes out from what the other "
    "modalities compress to; the generated vectors become one"
)
_DEF_AAF = (
    "Each modality's vector goes through one class-conditional autoencoder; a gate weighs the codes, which are drawn "
    "together, reconstruct themselves and each other, and are aligned with the fused one against a critic"
)
_DEF_SETTINGS = ("latent_size", "homologous_weight", "reconstruction_weight", "contrastive_weight", "alignment_weight")
METHODS |= {
    "mmalign_fusion_gan": Method(
        "GAN-Fusion",
        "gan-fusion",
        f"{_GAN}, which a head takes. No critic is needed to predict.",
        ("encoder", "hidden_size", "num_head_layers", "latent_size", "fusion_weight"),
        _FUSION_PAPER,
    ),
    "mmalign_fusion_seq2seq_gan": Method(
        "GAN-Fusion",
        "gan-fusion",
        "An encoder–decoder translates the text; its decoder also attends to one token of all modalities. "
        f"{_GAN}. No critic is needed to translate.",
        ("hidden_size", "latent_size", "fusion_weight", "label_smoothing"),
        _FUSION_PAPER,
    ),
    "mmalign_fusion_def_aaf": Method(
        "DEF + AAF",
        "def-aaf",
        f"{_DEF_AAF}. A head takes the weighted code; labels and critic are not needed to predict.",
        ("encoder", "hidden_size", *_DEF_SETTINGS),
    ),
    "mmalign_fusion_seq2seq_def_aaf": Method(
        "DEF + AAF",
        "def-aaf",
        "An encoder–decoder translates the text; its decoder also attends to one token of all modalities. "
        f"{_DEF_AAF}. No critic is needed to translate.",
        ("hidden_size", *_DEF_SETTINGS, "label_smoothing"),
    ),
}


def method_of(config: Any) -> str:
    """The key in `METHODS` of the method that a model's config describes.

    Raises:
        ValueError: If it is none of them.
    """
    if getattr(config, "aib_weight", 0) > 0:
        return "cal"
    fusion = getattr(config, "fusion", "concat")
    name = config.model_type if fusion == "concat" else f"{config.model_type}_{fusion}"
    if name in METHODS:
        return name
    if not hasattr(config, "wma_alpha"):
        raise ValueError(
            f"A config of type {config.model_type!r} does not tell its method; it is one of {list(METHODS)}."
        )
    if config.wma_alpha == 0:
        return "plain"
    return "minimise_ot" if config.wma_beta == 0 else "wma"
