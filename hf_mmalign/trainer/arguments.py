"""Training arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from ..losses.contribution import ContributionVariant
from ..models.configuration_base import check_finite
from ..perturbation.noisy_data import check_noise
from .stages import read_stages

GradientModulation = Literal["none", "cal", "ogm", "weak"]
ModulationMode = Literal["gradient", "lr"]


@dataclass
class MultimodalTrainingArguments(TrainingArguments):
    """Every argument of [`TrainingArguments`], with the defaults a multimodal model needs, and those below."""

    # Those that JSON text may stand for.
    _VALID_DICT_FIELDS: ClassVar = [
        *TrainingArguments._VALID_DICT_FIELDS,
        "train_noise",
        "modality_learning_rates",
        "modality_optimizers",
    ]

    remove_unused_columns: bool = field(
        default=False,
        metadata={
            "help": "Drop the data set's columns that are no argument of the model before collation. Off by default: "
            "the collator makes the model's arguments from text, pictures and feature sequences itself."
        },
    )
    backbone_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the pretrained encoder, that is of the parameters outside the model's "
            "`modules_outside_backbone` (DecAlign's text encoder, the BERT or ViLT of WMA); the others take "
            "`learning_rate`. Left out, all parameters take `learning_rate`. Scheduler and weight decay are the same."
        },
    )
    modality_learning_rates: dict | str | None = field(
        default=None,
        metadata={
            "help": "Learning rates of single modalities, {image: 1e-3, text: 2e-5}: of the parameters that only that "
            "modality passes through (the model's `modality_parameters`). It goes before `backbone_learning_rate`."
        },
    )
    modality_optimizers: dict | str | None = field(
        default=None,
        metadata={
            "help": "Optimizers of single modalities, as `optim` names them, with their own options if need be: "
            "{image: {optim: sgd, momentum: 0.9}, text: adamw_torch}. All other parameters take `optim`. Scheduler and "
            "weight decay are the same."
        },
    )
    gradient_modulation: GradientModulation = field(
        default="none",
        metadata={
            "help": "How fast each modality's encoder learns beside the others: cal strengthens those that contribute more "
            "and can still gain, weak those that contribute less, ogm weakens those that are ahead (OGM-GE)."
        },
    )
    modulation_mode: ModulationMode = field(
        default="gradient",
        metadata={
            "help": "What is scaled: gradient, for optimizers such as sgd, or lr, the learning rate of the same "
            "parameters, for those such as Adam that divide a gradient by its own size."
        },
    )
    modulation_eta: float = field(
        default=1.0,
        metadata={"help": "η of cal and weak: a modality's factor is 1 + η a; 0 measures and scales nothing."},
    )
    modulation_measure_steps: int | None = field(
        default=None,
        metadata={
            "help": "Measure contributions in every n-th step. Left out, in each where a head on features already computed "
            "answers, and in every 10th where that takes forward passes."
        },
    )
    modulation_update_steps: int | None = field(
        default=None,
        metadata={
            "help": "Update the coefficients of cal and weak every n steps; left out, once an epoch, as in the paper. ogm "
            "updates after every step that measures."
        },
    )
    contribution_variant: ContributionVariant = field(
        default="phi_times_potential",
        metadata={
            "help": "What a contribution is (CAL, Table 5): phi_times_potential, phi, potential, phi_plus_potential, "
            "performance_times_potential."
        },
    )
    contribution_temperature: float = field(
        default=4.0, metadata={"help": "T of CAL's Eq. 7: 0 makes the coefficients equal, a large T one-hot."}
    )
    performance_smoothing: float = field(
        default=0.2, metadata={"help": "γ of CAL's Eq. 3, in (0, 1]: the weight of the newest performance."}
    )
    potential_window: int = field(
        default=5, metadata={"help": "n of CAL's Eq. 4: how many former performances a change is relative to."}
    )
    potential_lambda: float = field(
        default=0.5, metadata={"help": "λ of CAL's Eq. 5, in [0, 1]: how far a modality is from 1, against its trend."}
    )
    ogm_alpha: float = field(default=0.1, metadata={"help": "α of ogm: how much a modality that is ahead is weakened."})
    ogm_noise: bool = field(
        default=True, metadata={"help": "Add OGM-GE's noise to the modalities' gradients; without it, it is OGM."}
    )
    training_stages: list | str | None = field(
        default=None,
        metadata={
            "help": "Stages of training, one after another, each a mapping with num_train_epochs and what differs: losses "
            "(the loss components that count), learning_rate, lr_scheduler_type, lr_scheduler_kwargs, warmup_steps. "
            "num_train_epochs is then their sum; with max_steps, theirs are shares. Each begins with a new optimizer."
        },
    )
    log_token_geometry: int | None = field(
        default=None,
        metadata={
            "help": "Every so many steps, log the mean cosines between the modalities' tokens, within each and between "
            "two: whether they have collapsed or are aligned. A forward pass of the encoder in such a step."
        },
    )
    log_gradient_shares: int | None = field(
        default=None,
        metadata={
            "help": "Every so many steps, log what share of the gradient each loss component has, and its cosine with the "
            "task's, for each modality's own parameters and for the others. A backward pass per component in such a step."
        },
    )
    critic_learning_rate: float = field(
        default=1e-3,
        metadata={
            "help": "Learning rate of Adam for the critics that a model is trained against (fusion: gan, def_aaf). It does "
            "not change."
        },
    )
    critic_steps: int = field(
        default=1,
        metadata={"help": "Steps that these critics take for each of the model's; WGAN-GP usually takes 5."},
    )
    modality_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Probability with which each modality of a training sample is taken away, as if the sample had never "
            "had it; a sample's last modality stays. For models that have to work with missing modalities."
        },
    )
    train_noise: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Noise on the raw inputs of training samples, a new draw each epoch: {protocol: qmf or clean, kind: "
            "gaussian, salt-pepper, words-replaced or words-dropped, epsilon: 5}, and if need be units (mvsa, nyud2), or "
            "{snr: 10}, white noise on waveforms and feature sequences, or {unknown_words: 0.3}, words of texts that "
            "become <unk> (or another token) with this probability; each with modalities, if not on all. Evaluation during "
            "training stays clean."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations in a row without a better `metric_for_best_model`. Needs "
            "`load_best_model_at_end` and equal evaluation and saving strategies, as EarlyStoppingCallback does."
        },
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "For the model card: licence of the weights, as the Hub abbreviates it (mit, cc-by-nc-4.0, …)."
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "For the model card: what people call the data, for example 'Hateful Memes'."}
    )
    model_title: str | None = field(default=None, metadata={"help": "For the model card: its heading."})

    def __post_init__(self):
        self._check_numbers()
        if self.training_stages is not None:
            self.num_train_epochs = sum(stage.num_train_epochs for stage in read_stages(self.training_stages))
        super().__post_init__()
        self._check_numbers()  # now also those that came as JSON text
        if self.backbone_learning_rate is not None and self.backbone_learning_rate < 0:
            raise ValueError(f"backbone_learning_rate is {self.backbone_learning_rate}; a learning rate is at least 0.")
        if not 0 <= self.modality_dropout < 1:
            raise ValueError(f"modality_dropout is {self.modality_dropout}; it is a probability in [0, 1).")
        if self.train_noise is not None:
            check_noise(self.train_noise)
        for name in ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1.")
        if self.num_train_epochs < 0:
            raise ValueError(f"num_train_epochs is {self.num_train_epochs}; it is at least 0.")
        for name in ("log_gradient_shares", "log_token_geometry"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1.")
        if self.critic_learning_rate <= 0:
            raise ValueError(f"critic_learning_rate is {self.critic_learning_rate}; it is above 0.")
        if self.critic_steps < 1:
            raise ValueError(f"critic_steps is {self.critic_steps}; it is at least 1.")
        self._check_modulation()
        self._check_modalities()
        if self.early_stopping_patience is not None:
            self._check_early_stopping(self.early_stopping_patience)

    def _check_numbers(self) -> None:
        check_finite({field.name: getattr(self, field.name) for field in fields(self)})

    def _check_modulation(self) -> None:
        choices = {
            "gradient_modulation": get_args(GradientModulation),
            "modulation_mode": get_args(ModulationMode),
            "contribution_variant": get_args(ContributionVariant),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {list(known)}.")
        for name in ("modulation_eta", "contribution_temperature", "ogm_alpha"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 0.")
        for name in ("modulation_measure_steps", "modulation_update_steps", "potential_window"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1.")
        if not 0 <= self.potential_lambda <= 1:
            raise ValueError(f"potential_lambda is {self.potential_lambda}; it lies in [0, 1].")
        if not 0 < self.performance_smoothing <= 1:
            raise ValueError(f"performance_smoothing is {self.performance_smoothing}; it lies in (0, 1].")
        if self.gradient_modulation == "ogm" and self.modulation_update_steps is not None:
            raise ValueError(
                "modulation_update_steps has no effect on ogm, which updates after every step that measures: see "
                "modulation_measure_steps."
            )

    def _check_modalities(self) -> None:
        # YAML reads 1e-3, without a point, as text.
        if isinstance(self.modality_learning_rates, dict):
            self.modality_learning_rates = {name: _number(rate) for name, rate in self.modality_learning_rates.items()}
        if isinstance(self.modality_optimizers, dict):
            self.modality_optimizers = {
                name: {key: _number(value) for key, value in wanted.items()} if isinstance(wanted, Mapping) else wanted
                for name, wanted in self.modality_optimizers.items()
            }
        for modality, rate in _mapping(self, "modality_learning_rates").items():
            if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < float("inf"):
                raise ValueError(f"modality_learning_rates[{modality!r}] is {rate!r}; a learning rate is at least 0.")
        optimizers = [name.value for name in OptimizerNames]
        for modality, wanted in _mapping(self, "modality_optimizers").items():
            name = wanted.get("optim") if isinstance(wanted, Mapping) else wanted
            if name not in optimizers:
                raise ValueError(
                    f"modality_optimizers[{modality!r}] is {wanted!r}; expected a name that `optim` takes, or a "
                    f"mapping with one under `optim`, among {optimizers}."
                )
            shared = {"lr", "weight_decay", "params"} & set(wanted if isinstance(wanted, Mapping) else ())
            if shared:
                raise ValueError(
                    f"modality_optimizers[{modality!r}] has {sorted(shared)}; rates are set by modality_learning_rates, "
                    "and weight_decay is the same for all."
                )

    def _check_early_stopping(self, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"early_stopping_patience is {patience}; it is at least 1.")
        if self.eval_strategy == "no" or self.metric_for_best_model is None:
            raise ValueError(
                "early_stopping_patience needs evaluations and a metric: an eval_strategy other than `no`, and "
                "load_best_model_at_end or metric_for_best_model."
            )


def _mapping(arguments: MultimodalTrainingArguments, name: str) -> dict[str, Any]:
    value = getattr(arguments, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}; expected a mapping from modalities.")
    return value


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
