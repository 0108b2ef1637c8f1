"""What a Trainer can tell about the model it holds: how it was trained, and the scores of these very weights."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers import TrainerState, TrainingArguments

# The arguments that shape a training's outcome; all others are about its place, its speed or its log.
_SHAPING = (
    "learning_rate", "backbone_learning_rate", "modality_learning_rates", "per_device_train_batch_size",
    "gradient_accumulation_steps", "num_train_epochs", "max_steps", "optim", "modality_optimizers", "lr_scheduler_type",
    "warmup_steps", "weight_decay", "max_grad_norm", "label_smoothing_factor", "modality_dropout", "train_noise",
    "gradient_modulation", "modulation_mode", "modulation_eta", "modulation_measure_steps", "modulation_update_steps",
    "contribution_variant", "contribution_temperature", "performance_smoothing", "potential_window", "potential_lambda",
    "ogm_alpha", "ogm_noise", "critic_learning_rate", "critic_steps", "training_stages", "early_stopping_patience",
    "load_best_model_at_end", "metric_for_best_model", "bf16", "fp16", "seed",
)  # fmt: skip
_ALWAYS = ("learning_rate", "per_device_train_batch_size", "seed")
_TIMING = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def shaping_arguments(args: TrainingArguments) -> dict[str, Any]:
    """The arguments that shaped a training, where they differ from the default or every reader asks for them."""
    values, defaults = args.to_dict(), {field.name: field.default for field in fields(args)}
    told = {
        name: values[name]
        for name in _SHAPING
        if name in values and (name in _ALWAYS or values[name] != defaults[name])
    }
    if args.max_steps <= 0:
        told["num_train_epochs"] = args.num_train_epochs
    if args.world_size > 1:
        told["processes"] = args.world_size
    return told


def scores_of(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The metrics of an evaluation under their own names, without its prefix and without how long it took."""
    return {
        name.removeprefix(f"{prefix}_"): value
        for name, value in metrics.items()
        if name.startswith(f"{prefix}_") and not name.endswith(_TIMING)
    }


def scores_of_these_weights(state: TrainerState, loads_best: bool) -> dict[str, dict[str, float]]:
    """What evaluations found for the weights as they are now, by split; nothing where only others were evaluated.

    Args:
        state (`TrainerState`): The Trainer's, with its log.
        loads_best (`bool`): Whether the best weights were loaded at the end of training.

    Returns:
        `dict[str, dict[str, float]]`: Scores by metric for each split, which has the name under which it was evaluated
        (`metric_key_prefix`, or the key in a dict of evaluation sets), `"evaluation"` where that is `"eval"`.
    """
    log = state.log_history
    end = max((index for index, entry in enumerate(log) if "train_runtime" in entry), default=len(log))
    best = loads_best and end < len(log) and state.best_global_step is not None
    step = state.best_global_step if best else state.global_step
    scores: dict[str, dict[str, float]] = {}
    for entry in [entry for entry in log[:end] if entry.get("step") == step] + log[end:]:
        for name in entry:
            prefix = name.removesuffix("_runtime")
            if prefix not in (name, "train"):
                split = "evaluation" if prefix == "eval" else prefix.removeprefix("eval_")
                found = scores_of(entry, prefix)
                scores[split] = {
                    metric: value
                    for metric, value in found.items()
                    if isinstance(value, int | float) and not isinstance(value, bool)
                }
    return scores
