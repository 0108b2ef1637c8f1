"""A saved run, evaluated: its metrics, and how robust it is."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from transformers import AutoConfig
from transformers.utils import CONFIG_NAME

from ..data.processor import MultimodalProcessor
from ..data.schema import problem_type_of
from ..models.configuration_base import MultimodalConfigMixin
from ..reporting.files import write_text
from ..reporting.model_card import write_model_card
from ..reporting.robustness import RobustnessReport, evaluate_robustness
from ..trainer.told import scores_of
from ..trainer.trainer import MultimodalTrainer
from .build import (
    Arguments,
    build_collator,
    check_data,
    load_data,
    metrics_of,
    primary_metric_of,
    read_arguments,
    training_arguments,
)
from .noisy_copies import read_noisy_copies
from .recipe import Recipe, RecipeError, read_values
from .tasks import task_of

RESULTS = "results.json"
RECIPE = "recipe.yaml"
STARTED_IN = "started_in"
_PATHS = ("dataset_path", "model_name_or_path", "text_model_name_or_path")


def load_run(folder: str | Path, keys: Mapping[str, Any] | None = None):
    """Model, processor, arguments and data of a saved folder, for further evaluation.

    In a folder that a script saved, without a recipe, `config.json` tells the model, and `keys` must name the data.
    Raises RecipeError if the folder holds no model of ours or nothing names the data, DataError if the data are not for it.
    """
    folder = Path(folder)
    recipe = recipe_of(folder).override(keys or {})
    if "dataset" not in recipe.values:
        raise RecipeError(
            f"{folder} holds no {RECIPE} that names its data; say which with `--dataset NAME --dataset_path PATH`, as in "
            "`hf-mmalign data inspect NAME PATH`."
        )
    arguments = read_arguments(recipe)
    model = load_model(folder)
    processor, dataset = MultimodalProcessor.from_pretrained(folder), load_data(arguments.data)
    if not has_recipe(folder):  # nobody has seen yet whether these data are for this model
        if model.config.task is None:
            model.config.problem_type = problem_type_of(dataset)
        check_data(dataset, model.config, processor)
    return model, processor, arguments, dataset


def load_model(folder: str | Path):
    """The model of a saved folder, whatever its task."""
    return task_of(AutoConfig.from_pretrained(folder)).auto_model.from_pretrained(folder)


def has_recipe(folder: str | Path) -> bool:
    """Whether a folder holds the recipe that made it."""
    return (Path(folder) / RECIPE).exists()


def recipe_of(folder: Path) -> Recipe:
    """The recipe in a folder, or what stands for it in the config."""
    if has_recipe(folder):
        recipe = Recipe(folder / RECIPE, read_values(folder / RECIPE), {}, {})
        if not (folder / CONFIG_NAME).exists():
            raise RecipeError(f"{folder} holds a {RECIPE} but no {CONFIG_NAME} yet: its training has not ended.")
        return _with_paths(recipe, folder)
    if not (folder / CONFIG_NAME).exists():
        raise RecipeError(
            f"{folder} holds no {RECIPE} and no {CONFIG_NAME}; it must be the output_dir of `hf-mmalign train`, or a "
            "folder in which a Trainer saved a model and its processor."
        )
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, MultimodalConfigMixin):
        raise RecipeError(f"{folder} holds a model of type {config.model_type!r}, which is none of this package.")
    return Recipe(folder / CONFIG_NAME, {"model_type": config.model_type}, {}, {})


def _with_paths(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the relative paths in it as they were meant where the run was started."""
    try:
        start = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["train"][STARTED_IN]
    except (OSError, ValueError, KeyError, TypeError):  # none, or of an earlier version
        return recipe

    def there(path: Any) -> Any:
        if not isinstance(path, str) or os.path.isabs(path):
            return path
        moved = os.path.normpath(os.path.join(os.path.realpath(folder), start, path))
        return moved if os.path.exists(moved) else path

    meant = {key: there(recipe.values[key]) for key in _PATHS if key in recipe.values}
    if copies := recipe.values.get("noisy_copies"):
        meant["noisy_copies"] = [there(path) for path in copies]
    return dataclasses.replace(recipe, values=recipe.values | meant)


def started_in(folder: Path) -> dict[str, str]:
    """For `results.json`: the working folder as seen from the run's, so that both may be moved together."""
    try:
        return {STARTED_IN: os.path.relpath(os.path.realpath("."), os.path.realpath(folder))}
    except ValueError:  # another drive of Windows
        return {}


def evaluate(folder: str | Path, /, split: str = "test", **keys: Any) -> dict[str, Any]:
    """Metrics of a saved model on one split, as `hf-mmalign evaluate` prints them.

    >>> from hf_mmalign import runs
    >>> runs.evaluate("runs/smoke", split="validation")["accuracy"]

    Args:
        folder (`str` or `Path`): The `output_dir` of a run, or where a Trainer saved a model and its processor.
        split (`str`): `train`, `validation` or `test`.
        keys: Any key of a recipe; wins over that of the folder's recipe. A folder without one needs `dataset`.

    Returns:
        By name, those of the task and the loss with its terms, and of translations sacreBLEU's `signatures`; also written
        to `evaluation_<split>.json` in the folder.

    Raises:
        RecipeError: If the folder holds no model of ours, or a key or the split is unknown.
        DataError: If the data cannot be read or are not for the model.
    """
    model, processor, arguments, dataset = load_run(folder, keys)
    check_split(dataset, split, may_be_stream=True)
    no_training = {
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "early_stopping_patience": None,
    }
    training = training_arguments(arguments, output_dir=str(folder), **no_training)
    compute_metrics = metrics_of(model.config, arguments.evaluation, processor, dataset)
    trainer = task_of(model.config).trainer(
        model,
        training,
        data_collator=build_collator(processor, model.config),
        processing_class=processor,
        compute_metrics=compute_metrics,
    )
    metrics = score_split(trainer, dataset[split], split)
    if model.config.generates:
        metrics["signatures"] = compute_metrics.signatures
    write_text(Path(folder) / f"evaluation_{split}.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def robustness(folder: str | Path, /, split: str = "test", **keys: Any) -> RobustnessReport:
    """How a saved model does with noise and missing modalities, as `hf-mmalign robustness` prints it.

    >>> from hf_mmalign import runs
    >>> print(runs.robustness("runs/smoke", noise_amplitude=1.0).to_markdown())

    Args:
        folder, split, keys: As for :func:`evaluate`; `noise`, `noise_amplitude`, `missing_ratio`, `missing_mode` and
            `robustness_seeds` say what is measured.

    Returns:
        `RobustnessReport`, also written to `robustness.{json,md,png}` and the card in the folder.

    Raises:
        RecipeError, DataError: As for :func:`evaluate`.
    """
    model, processor, arguments, dataset = load_run(folder, keys)
    check_split(dataset, split)
    batch_size = arguments.training.get("per_device_eval_batch_size", 64)
    compute_metrics = metrics_of(model.config, arguments.evaluation, processor, dataset)
    collator = build_collator(processor, model.config)
    report = robustness_of(model, dataset, split, collator, arguments, batch_size, compute_metrics)
    report.model_name = Path(folder).resolve().name
    report.save(folder)
    if has_recipe(folder) and (Path(folder) / RESULTS).exists():
        results = json.loads((Path(folder) / RESULTS).read_text(encoding="utf-8"))
        recipe = read_values(Path(folder) / RECIPE)
        write_card(Path(folder), model, recipe, results, report)
    return report


def check_split(dataset, split: str, may_be_stream: bool = False) -> None:
    """Raise RecipeError unless the data set has this split, and its rows at hand."""
    if split not in dataset:
        raise RecipeError(f"The data set has the splits {list(dataset)}, not {split!r}.")
    if isinstance(dataset[split], IterableDataset) and not may_be_stream:
        others = [name for name in dataset if name != split]
        raise RecipeError(f"The split {split!r} is a stream, and this takes rows at hand, as those of {others}.")


def score_split(trainer: MultimodalTrainer, dataset, prefix: str) -> dict[str, float]:
    return scores_of(trainer.evaluate(dataset, metric_key_prefix=prefix), prefix)


def robustness_of(
    model, dataset, split: str, collator, arguments: Arguments, batch_size: int, compute_metrics
) -> RobustnessReport:
    settings = arguments.evaluation
    return evaluate_robustness(
        model,
        dataset[split],
        data_collator=collator,
        compute_metrics=compute_metrics,
        primary=primary_metric_of(model.config, arguments),
        noise=settings.noise,
        noise_amplitude=() if settings.noise_amplitude is None else settings.noise_amplitude,
        noise_unit=settings.noise_unit,
        missing_ratio=settings.missing_ratio,
        missing_ratios=settings.missing_ratios,
        missing_mode=settings.missing_mode,
        protocol=settings.protocol,
        epsilons=settings.epsilons,
        noise_units=settings.noise_units,
        snrs=settings.snrs,
        noisy_copies=read_noisy_copies(settings.noisy_copies, split, dataset[split], model.config.modalities),
        seeds=settings.robustness_seeds,
        batch_size=batch_size,
    )


def write_card(folder: Path, model, recipe: dict[str, Any], results: dict[str, Any], report) -> None:
    """The card of a recipe's run, which claims of licence, data and title what the recipe says of them."""
    told = {key: recipe.get(key) for key in ("license", "dataset_name", "model_title")}
    write_model_card(folder, model, recipe=recipe, results=results, robustness=report, **told)
