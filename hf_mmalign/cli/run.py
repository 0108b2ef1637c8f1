"""One run: train what a recipe says, evaluate it, and leave a folder that `from_pretrained` loads."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForSequenceClassification, set_seed
from transformers.utils import logging

from ..data.processor import MultimodalProcessor
from ..evaluation.metrics import GREATER_IS_BETTER, compute_metrics_for, metric_names_for, primary_metric
from ..evaluation.report import RobustnessReport
from ..evaluation.robustness import evaluate_robustness
from ..reporting.files import write_text
from ..reporting.model_card import write_model_card
from ..reporting.plots import plot_training_curves, save_figure
from ..trainer.arguments import MultimodalTrainingArguments
from ..trainer.checkpoints import last_whole_checkpoint
from ..trainer.trainer import MultimodalTrainer
from .arguments import EvaluationArguments
from .build import (
    Arguments,
    build_collator,
    build_config,
    build_model,
    build_processor,
    check_data,
    limit_text,
    load_data,
    read_arguments,
)
from .recipe import Recipe, RecipeError

logger = logging.get_logger(__name__)

RESULTS = "results.json"
RECIPE = "recipe.yaml"


def train(recipe: Recipe, with_robustness: bool = True) -> dict[str, Any]:
    """Train, select on validation, report on test; evaluate robustness if the recipe and `with_robustness` say so.

    Returns the content of `results.json` in the recipe's `output_dir`, written last: a folder that has it is complete.
    Raises RecipeError or DataError, before training starts, for what cannot be trained.
    """
    arguments = read_arguments(recipe)
    training = _training_arguments(arguments.training)
    _refuse_to_overwrite(training)
    set_seed(training.seed)
    dataset = load_data(arguments.data)
    processor = build_processor(arguments, dataset)
    config = build_config(arguments, dataset, processor)
    limit_text(processor, config, arguments.data.truncation)
    check_data(dataset, config)
    primary = _primary_metric(config, arguments)
    _select_best(training, primary)
    set_seed(training.seed)  # the weights must not depend on what reading the data drew
    trainer = MultimodalTrainer(
        build_model(arguments.model, config),
        training,
        data_collator=build_collator(processor, config),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=processor,
        compute_metrics=_metrics(config, arguments.evaluation),
    )
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint or None)
    results = {
        "primary_metric": primary,
        "train": {"seconds": time.perf_counter() - start, "epochs": trainer.state.epoch, "seed": training.seed},
        "validation": _evaluate(trainer, dataset["validation"], "validation"),
        # The test labels of some data sets (Hateful Memes) are not public.
        "test": _evaluate(trainer, dataset["test"], "test") if _has_labels(dataset["test"]) else {},
    }
    if trainer.is_world_process_zero():
        arguments.evaluation.robustness &= with_robustness
        _save(trainer, recipe, arguments, dataset, results)
    if training.world_size > 1:
        trainer.accelerator.wait_for_everyone()
        trainer.end()  # a process that leaves with the group's threads running is aborted
    return results


def load_run(folder: str | Path, overrides: dict[str, Any] | None = None):
    """Model, processor, arguments and data of a folder that :func:`train` left, for further evaluation.

    Raises RecipeError if the folder holds no run.
    """
    folder = Path(folder)
    if not (folder / RECIPE).exists():
        raise RecipeError(f"{folder} holds no {RECIPE}; it must be the output_dir of `hf-mmalign train`.")
    values = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    recipe = Recipe(folder / RECIPE, values, {}, {}).override(overrides or {}, "the command line")
    arguments = read_arguments(recipe)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model, MultimodalProcessor.from_pretrained(folder), arguments, load_data(arguments.data)


def evaluate(folder: str | Path, split: str, overrides: dict[str, Any] | None = None) -> dict[str, float]:
    """Metrics of a saved run on one split, also written to `evaluation_<split>.json` in the folder."""
    model, processor, arguments, dataset = load_run(folder, overrides)
    check_split(dataset, split)
    no_training = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    training = _training_arguments(arguments.training | {"output_dir": str(folder)} | no_training)
    trainer = MultimodalTrainer(
        model,
        training,
        data_collator=build_collator(processor, model.config),
        processing_class=processor,
        compute_metrics=_metrics(model.config, arguments.evaluation),
    )
    metrics = _evaluate(trainer, dataset[split], split)
    write_text(Path(folder) / f"evaluation_{split}.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def robustness(folder: str | Path, split: str, overrides: dict[str, Any] | None = None) -> RobustnessReport:
    """The robustness report of a saved run, also written to `robustness.{json,md,png}` and the card in the folder."""
    model, processor, arguments, dataset = load_run(folder, overrides)
    check_split(dataset, split)
    batch_size = arguments.training.get("per_device_eval_batch_size", 64)
    report = _robustness(model, dataset[split], build_collator(processor, model.config), arguments, batch_size)
    report.model_name = Path(folder).resolve().name
    report.save(folder)
    if (Path(folder) / RESULTS).exists():
        results = json.loads((Path(folder) / RESULTS).read_text(encoding="utf-8"))
        recipe = yaml.safe_load((Path(folder) / RECIPE).read_text(encoding="utf-8"))
        _write_card(Path(folder), model, recipe, results, report)
    return report


def _training_arguments(values: dict[str, Any]) -> MultimodalTrainingArguments:
    # Pinning memory without an accelerator only warns.
    defaults = {"report_to": "none", "save_total_limit": 2, "dataloader_pin_memory": torch.accelerator.is_available()}
    try:
        return MultimodalTrainingArguments(**defaults | values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"The training arguments do not fit together: {error}") from error


def _refuse_to_overwrite(training: MultimodalTrainingArguments) -> None:
    wants_resume = training.resume_from_checkpoint
    if isinstance(wants_resume, str) and wants_resume.lower() in ("true", "false"):
        wants_resume = training.resume_from_checkpoint = wants_resume.lower() == "true"
    checkpoint = last_whole_checkpoint(training.output_dir, training.world_size)
    if checkpoint and not wants_resume:
        raise RecipeError(
            f"{training.output_dir} already holds {Path(checkpoint).name}. Go on from it with "
            "`--resume_from_checkpoint true`, or choose another --output_dir."
        )
    if wants_resume is True and checkpoint is None:
        logger.warning(f"{training.output_dir} holds no whole checkpoint; training starts at the beginning.")
        training.resume_from_checkpoint = None


def _metrics(config, arguments: EvaluationArguments):
    return compute_metrics_for(config.problem_type, config.num_labels, metrics=arguments.metrics)


def _primary_metric(config, arguments: Arguments) -> str:
    """The one metric that selects and heads tables: the recipe's `metric_for_best_model`, else the task's.

    Raises RecipeError for one that is neither a metric of the task nor a loss.
    """
    task = (config.problem_type, config.num_labels, arguments.evaluation.metrics)
    chosen = (arguments.training.get("metric_for_best_model") or "loss").removeprefix("eval_")
    if chosen.startswith("loss"):
        return primary_metric(*task)[0]
    names = metric_names_for(*task)
    if chosen not in names:
        raise RecipeError(f"metric_for_best_model is {chosen}, and this task has the metrics {names} and the losses.")
    return chosen


def _select_best(training: MultimodalTrainingArguments, primary: str) -> None:
    """Keep the epoch that is best on validation by the primary metric, unless the recipe names what is none of ours."""
    named = training.metric_for_best_model
    if named in (primary, f"eval_{primary}") or (training.load_best_model_at_end and named in (None, "loss")):
        training.metric_for_best_model, training.greater_is_better = primary, GREATER_IS_BETTER[primary]


def check_split(dataset, split: str) -> None:
    """Raise RecipeError unless the data set has this split."""
    if split not in dataset:
        raise RecipeError(f"The data set has the splits {list(dataset)}, not {split!r}.")


def _has_labels(data) -> bool:
    return data.data.column("label").null_count < len(data)


def _evaluate(trainer: MultimodalTrainer, dataset, prefix: str) -> dict[str, float]:
    metrics = trainer.evaluate(dataset, metric_key_prefix=prefix)
    timing = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    return {
        key.removeprefix(f"{prefix}_"): value
        for key, value in metrics.items()
        if key.startswith(f"{prefix}_") and not key.endswith(timing)
    }


def _robustness(model, data, collator, arguments: Arguments, batch_size: int) -> RobustnessReport:
    settings = arguments.evaluation
    return evaluate_robustness(
        model,
        data,
        data_collator=collator,
        compute_metrics=_metrics(model.config, settings),
        primary=_primary_metric(model.config, arguments),
        noise=settings.noise,
        noise_amplitude=settings.noise_amplitude,
        missing_ratio=settings.missing_ratio,
        missing_ratios=settings.missing_ratios,
        missing_mode=settings.missing_mode,
        seeds=settings.robustness_seeds,
        batch_size=batch_size,
    )


def _save(trainer: MultimodalTrainer, recipe: Recipe, arguments: Arguments, dataset, results: dict[str, Any]) -> None:
    """Everything a saved folder holds; `results.json` comes last and marks it complete."""
    folder = Path(trainer.args.output_dir)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if arguments.model.use_peft:
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
    values = {key: value for key, value in recipe.values.items() if key != "resume_from_checkpoint"}
    write_text(folder / RECIPE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
    if any("loss" in entry for entry in trainer.state.log_history):
        save_figure(plot_training_curves(trainer.state.log_history), folder / "training.png")
    report = None
    if arguments.evaluation.robustness:
        size = trainer.args.eval_batch_size
        data = dataset["test"] if results["test"] else dataset["validation"]
        report = _robustness(model, data, trainer.data_collator, arguments, size)
        report.model_name = recipe.path.stem
        report.save(folder)
    _write_card(folder, model, values, results, report)
    write_text(folder / RESULTS, json.dumps(results, indent=2) + "\n")


def _write_card(folder: Path, model, recipe: dict[str, Any], results: dict[str, Any], report) -> None:
    write_model_card(folder, model, recipe=recipe, results=results, robustness=report, dataset_name=recipe["dataset"])


def remove_checkpoints(folder: str | Path) -> None:
    """Delete the `checkpoint-*` folders of a finished run; its final model stays."""
    for path in Path(folder).glob("checkpoint-*"):
        shutil.rmtree(path)
