"""One run: train what a recipe says, evaluate it, and leave a folder that `from_pretrained` loads."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from datasets import DatasetDict
from transformers import PreTrainedModel, set_seed

from ..data.collator import MultimodalCollator
from ..data.processor import MultimodalProcessor
from ..data.schema import TARGET
from ..data.streams import StreamedDatasetDict
from ..evaluation.metrics import GREATER_IS_BETTER
from ..reporting.files import write_text
from ..reporting.plots import plot_training_curves, save_figure
from ..reporting.robustness import RobustnessReport
from ..trainer.arguments import MultimodalTrainingArguments
from ..trainer.checkpoints import clear_write_errors
from ..trainer.trainer import MultimodalTrainer
from .build import (
    Arguments,
    build_collator,
    build_config,
    build_model,
    build_processor,
    check_data,
    check_streaming,
    load_data,
    metrics_of,
    primary_metric_of,
    read_arguments,
    shuffled,
    training_arguments,
)
from .evaluation import RECIPE, RESULTS, robustness_of, score_split, started_in, write_card
from .modality_encoders import encoder_sources
from .noisy_copies import read_noisy_copies
from .recipe import Recipe, given_recipe
from .resume import checkpoint_to_resume, refuse_to_overwrite
from .tasks import task_of
from .vocabulary import limit_text, warn_of_texts


@dataclass
class TrainedRun:
    """What a training made.

    Attributes:
        folder (`Path`): The recipe's `output_dir`, with model, processor, card, tables and plots.
        results (`dict[str, Any]`): The content of `results.json`: `primary_metric`, `train`, and metrics by name under
            `validation` and `test`; no metrics of a test split whose labels are not public.
        report (`RobustnessReport` or `None`): How robust the model is; None with `robustness: false`, and in all but the
            first of several processes.
        model (`PreTrainedModel`): The model with the weights that were selected, in evaluation mode where it was trained;
            LoRA's adapters are merged into it.
        processor (`MultimodalProcessor`): Makes the model's inputs.
        collator (`MultimodalCollator`): Makes batches of rows.
        dataset (`DatasetDict` or `StreamedDatasetDict`): The rows it was trained, selected and tested on; a stream, with
            `streaming: true`.
    """

    folder: Path
    results: dict[str, Any]
    report: RobustnessReport | None = field(repr=False)
    model: PreTrainedModel = field(repr=False)
    processor: MultimodalProcessor = field(repr=False)
    collator: MultimodalCollator = field(repr=False)
    dataset: DatasetDict | StreamedDatasetDict = field(repr=False)


def train(recipe: str | Path | Mapping[str, Any] | Recipe | None = None, /, **keys: Any) -> TrainedRun:
    """Train, select on validation, report on test, evaluate robustness unless told not to, as `hf-mmalign train` does.

    >>> from hf_mmalign import runs
    >>> run = runs.train("wma/smoke", output_dir="runs/smoke", learning_rate=1e-3)
    >>> run.results["test"]["accuracy"]

    Args:
        recipe (`str`, `Path`, `Mapping[str, Any]` or `Recipe`, *optional*): A YAML file, the name of a recipe that comes
            with the package, or what such a file holds. Left out, the keys are the recipe.
        keys: Any key of a recipe; wins over the recipe's. With `drop` some of the recipe's keys are done without.

    Returns:
        `TrainedRun`. Its folder is complete: `results.json` is written last.

    Raises:
        RecipeError, DataError: Before training starts, for what cannot be trained.
        CheckpointError: For a checkpoint that cannot be gone on from.
        OSError: Where a file cannot be written.
    """
    return train_recipe(given_recipe(recipe, keys))


def train_recipe(recipe: Recipe, with_robustness: bool = True) -> TrainedRun:
    """:func:`train` of a recipe as read; robustness is evaluated if the recipe and `with_robustness` say so."""
    refuse_to_overwrite(recipe)
    arguments = read_arguments(recipe)
    training = training_arguments(arguments)
    check_streaming(arguments.data, training)
    training.resume_from_checkpoint = checkpoint_to_resume(recipe, training.world_size)
    set_seed(training.seed)
    dataset = load_data(arguments.data)
    processor = build_processor(arguments, dataset)
    config = build_config(arguments, dataset, processor)
    limit_text(processor, config, arguments.data.truncation)
    check_data(dataset, config, processor)
    tested = "test" if _has_labels(dataset["test"], config) else "validation"
    if arguments.evaluation.robustness:  # whatever is wrong with them, before the training
        read_noisy_copies(arguments.evaluation.noisy_copies, tested, dataset[tested], config.modalities)
    if training.process_index == 0:
        warn_of_texts(dataset["train"], processor, arguments)
    primary = primary_metric_of(config, arguments)
    _select_best(training, primary)
    set_seed(training.seed)  # the weights must not depend on what reading the data drew
    compute_metrics = metrics_of(config, arguments.evaluation, processor, dataset)
    trainer = task_of(config).trainer(
        build_model(arguments.model, config, encoder_sources(arguments.config.get("encoders"))),
        training,
        data_collator=build_collator(processor, config),
        train_dataset=shuffled(dataset["train"], arguments.data, training),
        eval_dataset=dataset["validation"],
        processing_class=processor,
        compute_metrics=compute_metrics,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    results = {
        "primary_metric": primary,
        "train": {
            "seconds": trainer.training_seconds,
            **({"steps": trainer.state.global_step} if arguments.data.streaming else {"epochs": trainer.state.epoch}),
            "seed": training.seed,
            **started_in(Path(training.output_dir)),
        },
        "validation": score_split(trainer, dataset["validation"], "validation"),
        # The test labels of some data sets (Hateful Memes) are not public.
        "test": score_split(trainer, dataset["test"], "test") if tested == "test" else {},
    }
    if config.generates:
        results["signatures"] = compute_metrics.signatures
    model, report = trainer.accelerator.unwrap_model(trainer.model), None
    if arguments.model.use_peft:
        model = model.merge_and_unload()
    if trainer.is_world_process_zero():
        arguments.evaluation.robustness &= with_robustness
        with clear_write_errors(training.output_dir):
            report = _save(trainer, model, recipe, arguments, dataset, results)
    if training.world_size > 1:
        trainer.accelerator.wait_for_everyone()
        trainer.end()  # a process that leaves with the group's threads running is aborted
    folder = Path(training.output_dir)
    return TrainedRun(folder, results, report, model.eval(), processor, trainer.data_collator, dataset)


def _select_best(training: MultimodalTrainingArguments, primary: str) -> None:
    """Keep the epoch that is best on validation by the primary metric, unless the recipe names what is none of ours."""
    named = training.metric_for_best_model
    if named in (primary, f"eval_{primary}") or (training.load_best_model_at_end and named in (None, "loss")):
        training.metric_for_best_model, training.greater_is_better = primary, GREATER_IS_BETTER[primary]


def _has_labels(data, config) -> bool:
    return data.data.column(TARGET if config.generates else "label").null_count < len(data)


def _save(
    trainer: MultimodalTrainer,
    model: PreTrainedModel,
    recipe: Recipe,
    arguments: Arguments,
    dataset: DatasetDict | StreamedDatasetDict,
    results: dict[str, Any],
) -> RobustnessReport | None:
    """Everything a saved folder holds; `results.json` comes last and marks it complete. Returns the robustness report."""
    folder = Path(trainer.args.output_dir)
    (folder / RESULTS).unlink(missing_ok=True)  # of a former run
    model.save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
    values = write_recipe(folder, recipe)
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    if any("loss" in entry for entry in trainer.state.log_history):
        save_figure(plot_training_curves(trainer.state.log_history), folder / "training.png")
    report = None
    if arguments.evaluation.robustness:
        size, split = trainer.args.eval_batch_size, "test" if results["test"] else "validation"
        report = robustness_of(model, dataset, split, trainer.data_collator, arguments, size, trainer.compute_metrics)
        report.model_name = recipe.name
        report.save(folder)
    write_card(folder, model, values, results, report)
    write_text(folder / RESULTS, json.dumps(results, indent=2) + "\n")
    return report


def write_recipe(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Write `recipe.yaml`, all but the wish to resume, into a run's folder; returns what it holds."""
    values = {key: value for key, value in recipe.values.items() if key != "resume_from_checkpoint"}
    write_text(folder / RECIPE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return values


def remove_checkpoints(folder: str | Path) -> None:
    """Delete the `checkpoint-*` folders of a finished run; its final model stays."""
    for path in Path(folder).glob("checkpoint-*"):
        shutil.rmtree(path)
