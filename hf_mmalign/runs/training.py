"""One run: train what a recipe says, evaluate it, and leave a folder that `from_pretrained` loads."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from transformers import set_seed

from ..evaluation.metrics import GREATER_IS_BETTER
from ..reporting.files import write_text
from ..reporting.plots import plot_training_curves, save_figure
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
    limit_text,
    load_data,
    metrics_of,
    primary_metric_of,
    read_arguments,
    training_arguments,
    warn_of_texts,
)
from .evaluation import RECIPE, RESULTS, robustness_of, score_split, started_in, write_card
from .recipe import Recipe
from .resume import checkpoint_to_resume, refuse_to_overwrite


def train(recipe: Recipe, with_robustness: bool = True) -> dict[str, Any]:
    """Train, select on validation, report on test; evaluate robustness if the recipe and `with_robustness` say so.

    Returns the content of `results.json` in the recipe's `output_dir`, written last: a folder that has it is complete.
    Raises RecipeError or DataError, before training starts, for what cannot be trained, CheckpointError for a checkpoint
    that cannot be gone on from, and OSError where a file cannot be written.
    """
    refuse_to_overwrite(recipe)
    arguments = read_arguments(recipe)
    training = training_arguments(arguments.training)
    training.resume_from_checkpoint = checkpoint_to_resume(recipe, training.world_size)
    set_seed(training.seed)
    dataset = load_data(arguments.data)
    processor = build_processor(arguments, dataset)
    config = build_config(arguments, dataset, processor)
    limit_text(processor, config, arguments.data.truncation)
    check_data(dataset, config, processor)
    if training.process_index == 0:
        warn_of_texts(dataset["train"], processor, arguments)
    primary = primary_metric_of(config, arguments)
    _select_best(training, primary)
    set_seed(training.seed)  # the weights must not depend on what reading the data drew
    trainer = MultimodalTrainer(
        build_model(arguments.model, config),
        training,
        data_collator=build_collator(processor, config),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=processor,
        compute_metrics=metrics_of(config, arguments.evaluation),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    results = {
        "primary_metric": primary,
        "train": {
            "seconds": trainer.training_seconds,
            "epochs": trainer.state.epoch,
            "seed": training.seed,
            **started_in(Path(training.output_dir)),
        },
        "validation": score_split(trainer, dataset["validation"], "validation"),
        # The test labels of some data sets (Hateful Memes) are not public.
        "test": score_split(trainer, dataset["test"], "test") if _has_labels(dataset["test"]) else {},
    }
    if trainer.is_world_process_zero():
        arguments.evaluation.robustness &= with_robustness
        with clear_write_errors(training.output_dir):
            _save(trainer, recipe, arguments, dataset, results)
    if training.world_size > 1:
        trainer.accelerator.wait_for_everyone()
        trainer.end()  # a process that leaves with the group's threads running is aborted
    return results


def _select_best(training: MultimodalTrainingArguments, primary: str) -> None:
    """Keep the epoch that is best on validation by the primary metric, unless the recipe names what is none of ours."""
    named = training.metric_for_best_model
    if named in (primary, f"eval_{primary}") or (training.load_best_model_at_end and named in (None, "loss")):
        training.metric_for_best_model, training.greater_is_better = primary, GREATER_IS_BETTER[primary]


def _has_labels(data) -> bool:
    return data.data.column("label").null_count < len(data)


def _save(trainer: MultimodalTrainer, recipe: Recipe, arguments: Arguments, dataset, results: dict[str, Any]) -> None:
    """Everything a saved folder holds; `results.json` comes last and marks it complete."""
    folder = Path(trainer.args.output_dir)
    (folder / RESULTS).unlink(missing_ok=True)  # of a former run
    model = trainer.accelerator.unwrap_model(trainer.model)
    if arguments.model.use_peft:
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
    values = write_recipe(folder, recipe)
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    if any("loss" in entry for entry in trainer.state.log_history):
        save_figure(plot_training_curves(trainer.state.log_history), folder / "training.png")
    report = None
    if arguments.evaluation.robustness:
        size = trainer.args.eval_batch_size
        data = dataset["test"] if results["test"] else dataset["validation"]
        report = robustness_of(model, data, trainer.data_collator, arguments, size)
        report.model_name = recipe.path.stem
        report.save(folder)
    write_card(folder, model, values, results, report)
    write_text(folder / RESULTS, json.dumps(results, indent=2) + "\n")


def write_recipe(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Write `recipe.yaml`, all but the wish to resume, into a run's folder; returns what it holds."""
    values = {key: value for key, value in recipe.values.items() if key != "resume_from_checkpoint"}
    write_text(folder / RECIPE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return values


def remove_checkpoints(folder: str | Path) -> None:
    """Delete the `checkpoint-*` folders of a finished run; its final model stays."""
    for path in Path(folder).glob("checkpoint-*"):
        shutil.rmtree(path)
