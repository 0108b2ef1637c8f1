"""What differs between a run that classifies or regresses and one that generates text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from ..trainer.arguments import MultimodalTrainingArguments
from ..trainer.seq2seq import MultimodalSeq2SeqTrainer, MultimodalSeq2SeqTrainingArguments
from ..trainer.trainer import MultimodalTrainer


@dataclass(frozen=True)
class Task:
    """The classes of a run.

    Attributes:
        auto_model (`type`): Makes the model of a config or folder.
        models (`Mapping[type, type]`): The model's class by that of its config.
        trainer (`type[MultimodalTrainer]`): Trains and evaluates it.
        training_arguments (`type[MultimodalTrainingArguments]`): The trainer's arguments.
        generates (`bool`): Whether it generates text.
    """

    auto_model: Any
    models: Mapping[type, type]
    trainer: type[MultimodalTrainer]
    training_arguments: type[MultimodalTrainingArguments]
    generates: bool


_CLASSIFICATION = Task(
    AutoModelForSequenceClassification,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MultimodalTrainer,
    MultimodalTrainingArguments,
    generates=False,
)
_GENERATION = Task(
    AutoModelForSeq2SeqLM,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MultimodalSeq2SeqTrainer,
    MultimodalSeq2SeqTrainingArguments,
    generates=True,
)


def task_of(config: Any) -> Task:
    """The task of a model's config, or of its class."""
    # Whoever names a stock model type in a recipe is told later that it takes no modalities.
    return _GENERATION if getattr(config, "generates", False) else _CLASSIFICATION
