"""Training arguments."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class MultimodalTrainingArguments(TrainingArguments):
    """Every argument of [`TrainingArguments`], with the defaults a multimodal model needs, and those below."""

    remove_unused_columns: bool = field(
        default=False,
        metadata={
            "help": "Drop the data set's columns that are no argument of the model before collation. Off by default: "
            "the collator makes the model's arguments from text, pictures and feature sequences itself."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations in a row without a better `metric_for_best_model`. Needs "
            "`load_best_model_at_end` and equal evaluation and saving strategies, as EarlyStoppingCallback does."
        },
    )
