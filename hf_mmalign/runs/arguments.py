"""What a recipe can say beyond the fields of the model's config and of the training arguments."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.tokenizers import TokenizerType
from ..models.auto import config_class_of
from ..perturbation.modalities import MissingMode, NoiseDistribution, NoiseUnit
from ..perturbation.protocols import NoiseUnits, ProtocolName


@dataclass
class ModelArguments:
    """Which model is trained and how its weights begin."""

    model_type: str = field(metadata={"help": "Model type as in config.json, for example vilt_wma or bert_wma."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to start from, a folder or a Hub name; left out, weights start at random."},
    )
    text_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Pretrained text encoder of a model that has one inside (decalign), a folder or a Hub name; raw text "
            "then takes its tokenizer."
        },
    )
    use_peft: bool = field(default=False, metadata={"help": "Train LoRA adapters and the new layers only."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA scaling."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout in front of the LoRA matrices."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the layers that get adapters; left out, queries and values, or convolutions."},
    )

    def __post_init__(self):
        for name in ("lora_r", "lora_alpha"):
            _at_least_one(self, name)
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}; it is a probability in [0, 1).")
        if self.use_peft and self.lora_target_modules is not None and not self.lora_target_modules:
            raise ValueError("lora_target_modules is empty; name the layers that get adapters.")


@dataclass
class DataArguments:
    """Which data set is read and how it is prepared."""

    dataset: str = field(metadata={"help": "Embedded data set or file format, see `hf-mmalign data inspect --help`."})
    dataset_path: str | None = field(default=None, metadata={"help": "Folder or file of the data set."})
    dataset_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Further options of the reader, for example {num_genres: 25}."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training split of a `table` while it is trained on, for data larger than disk or memory; "
            "max_steps says how long."
        },
    )
    shuffle_buffer_size: int | None = field(
        default=None,
        metadata={
            "help": "Rows of a streamed training split in memory, from which the next is drawn; left out, 1000. Files are "
            "taken in random order as well."
        },
    )
    normalize_features: bool = field(
        default=False,
        metadata={
            "help": "Bring feature sequences to zero mean and unit variance, fitted on the training split and saved with "
            "the model."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first samples only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first samples only."})
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer of texts where no checkpoint brings one, a folder or a Hub name; left out, one is trained."
        },
    )
    tokenizer_type: TokenizerType | None = field(
        default=None,
        metadata={
            "help": "Of the tokenizer that is trained: wordpiece (words and characters), or sentencepiece, for languages "
            "that write no spaces or need their accents; left out, wordpiece, and to translate sentencepiece."
        },
    )
    tokenizer_vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "Largest vocabulary of the tokenizer that is trained; left out, it follows the texts: the characters "
            "that make up 99.95 % of them, and the words seen twice, at most 30000."
        },
    )
    truncation: bool = field(default=True, metadata={"help": "Cut texts longer than the model takes; else refuse."})
    image_processor: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "Arguments of the image processor (ViltImageProcessor where no encoder brings one), over those of the "
            "checkpoint; or, by modality of pictures, such arguments: {image: {…}, depth: {…}}."
        },
    )
    feature_extractor: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Arguments of the feature extractor of raw sound, over those of the checkpoint."},
    )

    def __post_init__(self):
        for name in ("shuffle_buffer_size", "max_train_samples", "max_eval_samples", "tokenizer_vocab_size"):
            _at_least_one(self, name)
        if "streaming" in self.dataset_options:
            raise ValueError("dataset_options has streaming, which is a key of its own: streaming: true.")
        if self.shuffle_buffer_size is not None and not self.streaming:
            raise ValueError("shuffle_buffer_size is for streaming: true; other training splits are shuffled whole.")
        if self.streaming and self.dataset != "table":
            raise ValueError(f"streaming is for dataset: table, not {self.dataset}; leave it out.")
        if self.tokenizer_name_or_path is not None and self.tokenizer_vocab_size is not None:
            raise ValueError(
                "tokenizer_name_or_path brings a vocabulary of its own, and tokenizer_vocab_size is for one that is "
                "trained; give one of the two, for example with `--drop tokenizer_vocab_size`."
            )


@dataclass
class EvaluationArguments:
    """How the trained model is evaluated."""

    metrics: Literal["sentiment", "sims", "emotion", "prf", "bleu", "how2", "multi30k"] | None = field(
        default=None,
        metadata={
            "help": "What to report: sentiment (MOSI, MOSEI), sims (CH-SIMS), emotion (IEMOCAP), prf (precision, recall, "
            "F1, accuracy); of translations bleu alone, how2 (BLEU-1 to 4) or multi30k (BLEU and METEOR). Left out, by "
            "problem type; of translations all."
        },
    )
    robustness: bool = field(
        default=True, metadata={"help": "Evaluate noisy and missing modalities on the test split."}
    )
    noise: NoiseDistribution = field(
        default="uniform", metadata={"help": "Noise added to one modality's embeddings: uniform, gaussian."}
    )
    noise_amplitude: float | None = field(
        default=3.0,
        metadata={"help": "U(−a, a), or the standard deviation of a Gaussian; null leaves noise on embeddings out."},
    )
    noise_unit: NoiseUnit = field(
        default="one",
        metadata={"help": "std: amplitudes are multiples of the standard deviation of the modality's embeddings."},
    )
    missing_ratio: float = field(default=0.5, metadata={"help": "Share of the samples that miss a modality."})
    missing_ratios: list[float] = field(
        default_factory=lambda: [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0], metadata={"help": "Ratios of the missing curve."}
    )
    missing_mode: MissingMode = field(
        default="zero", metadata={"help": "zero: embeddings set to 0 (the paper's); mask: left out of attention."}
    )
    protocol: ProtocolName | None = field(
        default=None,
        metadata={
            "help": "Also noise on raw inputs: qmf, the published protocol to the letter, or clean, with clipped pixels "
            "and a draw per sample."
        },
    )
    epsilons: list[float] = field(
        default_factory=lambda: [5.0, 10.0], metadata={"help": "Strengths of the noise on raw inputs; 0 is clean."}
    )
    noise_units: NoiseUnits = field(
        default="mvsa",
        metadata={
            "help": "Of Gaussian noise on pictures, from 0 to 255: mvsa, a standard deviation of 10 ε at a shorter side of "
            "256; nyud2, of ε at 224 × 224."
        },
    )
    snrs: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Also white noise on raw waveforms and feature sequences, so many decibels below the signal."
        },
    )
    noisy_copies: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Also data sets that `data extract --noise` made of the same rows: what a model trained on extracted "
            "features makes of noise on the raw texts and pictures."
        },
    )
    robustness_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4], metadata={"help": "Seeds of noise and of the choice of samples."}
    )

    def __post_init__(self):
        if self.noise_amplitude is not None and not 0 <= self.noise_amplitude < math.inf:
            raise ValueError(f"noise_amplitude is {self.noise_amplitude}; it is a finite number of at least 0.")
        for name, ratios in (("missing_ratio", [self.missing_ratio]), ("missing_ratios", self.missing_ratios)):
            if not all(0 <= ratio <= 1 for ratio in ratios):
                raise ValueError(f"{name} is {getattr(self, name)}; shares of the samples lie between 0 and 1.")
        if not self.epsilons or not all(0 <= epsilon < math.inf for epsilon in self.epsilons) or not any(self.epsilons):
            raise ValueError(
                f"epsilons is {self.epsilons}; expected finite numbers of at least 0, one of them above it."
            )
        if not all(math.isfinite(snr) for snr in self.snrs):
            raise ValueError(f"snrs is {self.snrs}; expected finite numbers of decibels.")
        seeds = self.robustness_seeds
        if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise ValueError(f"robustness_seeds is {seeds}; expected different whole numbers of at least 0.")


@dataclass
class Arguments:
    """A recipe's values, each in the dataclass it belongs to."""

    model: ModelArguments
    data: DataArguments
    evaluation: EvaluationArguments
    training: dict[str, Any]
    config: dict[str, Any]

    def by_key(self) -> dict[str, Any]:
        """All values in one mapping; of the training's and the config's, those that the recipe gives."""
        return vars(self.model) | vars(self.data) | vars(self.evaluation) | self.training | self.config

    @property
    def config_class(self) -> type:
        """The class of the model's config."""
        return config_class_of(self.model.model_type)


def _at_least_one(arguments: Any, name: str) -> None:
    value = getattr(arguments, name)
    if value is not None and value < 1:
        raise ValueError(f"{name} is {value}; it is at least 1.")
