"""Training arguments."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from transformers import TrainingArguments

from ..models.configuration_base import check_finite
from ..perturbation.noisy_data import check_train_noise


@dataclass
class MultimodalTrainingArguments(TrainingArguments):
    """Every argument of [`TrainingArguments`], with the defaults a multimodal model needs, and those below."""

    # Those that JSON text may stand for.
    _VALID_DICT_FIELDS: ClassVar = [*TrainingArguments._VALID_DICT_FIELDS, "train_noise"]

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
            "gaussian, salt-pepper, words-replaced or words-dropped, epsilon: 5}, and if need be units (mvsa, nyud2) and "
            "modalities (all). Evaluation during training stays clean."
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
        super().__post_init__()
        self._check_numbers()  # now also those that came as JSON text
        if self.backbone_learning_rate is not None and self.backbone_learning_rate < 0:
            raise ValueError(f"backbone_learning_rate is {self.backbone_learning_rate}; a learning rate is at least 0.")
        if not 0 <= self.modality_dropout < 1:
            raise ValueError(f"modality_dropout is {self.modality_dropout}; it is a probability in [0, 1).")
        if self.train_noise is not None:
            check_train_noise(self.train_noise)
        for name in ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1.")
        if self.num_train_epochs < 0:
            raise ValueError(f"num_train_epochs is {self.num_train_epochs}; it is at least 0.")
        if self.early_stopping_patience is not None:
            self._check_early_stopping(self.early_stopping_patience)

    def _check_numbers(self) -> None:
        check_finite({field.name: getattr(self, field.name) for field in fields(self)})

    def _check_early_stopping(self, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"early_stopping_patience is {patience}; it is at least 1.")
        if self.eval_strategy == "no" or self.metric_for_best_model is None:
            raise ValueError(
                "early_stopping_patience needs evaluations and a metric: an eval_strategy other than `no`, and "
                "load_best_model_at_end or metric_for_best_model."
            )
