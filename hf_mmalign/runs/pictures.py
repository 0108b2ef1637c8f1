"""Pictures of a saved run or sweep, each a PNG."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from transformers import AutoConfig, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from ..evaluation.inference import FUSED, decision_features, predict
from ..evaluation.metrics import sentiment_levels, sims_levels
from ..reporting.alignment import plot_alignment
from ..reporting.confusion import plot_confusion_matrix
from ..reporting.contributions import plot_contributions
from ..reporting.feature_scatter import plot_feature_scatter
from ..reporting.instruments import plot_instruments
from ..reporting.modality_gap import plot_modality_gap
from ..reporting.plots import plot_missing_curves, save_figure
from ..reporting.robustness import RobustnessReport
from ..reporting.sweep_grid import plot_sweep_grid
from .build import build_collator, build_config, build_model
from .evaluation import RECIPE, RESULTS, check_split, has_recipe, load_run
from .modality_encoders import encoder_sources
from .recipe import RecipeError
from .repetitions import listed, repetitions

_SENTIMENT = ("−3", "−2", "−1", "0", "1", "2", "3")
_SIMS = ("negative", "weakly negative", "neutral", "weakly positive", "positive")


def draw_confusion(
    folder: str | Path, /, split: str = "test", *, output: str | Path | None = None, **keys: Any
) -> Path:
    """Which class or sentiment level a run takes for which: a confusion matrix of one split. Returns the picture's path.

    `keys` are values over those of the run's recipe; the picture goes to `output`, into the folder by default.
    """
    run = _Run(folder, keys)
    run.check_split(split)
    predictions = predict(run.model, run.dataset[split], run.collator, run.batch_size)
    if predictions.labels is None:
        raise RecipeError(f"The split {split!r} has no labels to compare predictions with.")
    true, predicted, names = _classes(run, predictions)
    agreement = float((true == predicted).mean())
    title = f"{run.name}, {split}: {100 * agreement:.1f} % of {len(true)} on the diagonal"
    figure = plot_confusion_matrix(true, predicted, names, title=title)
    return save_figure(figure, output or run.folder / f"confusion-{split}.png")


def _classes(run: "_Run", predictions) -> tuple[Any, Any, list[str]]:
    """True and predicted class ids, and the classes' names; sentiment strengths become levels."""
    config, metrics = run.model.config, run.arguments.evaluation.metrics
    if config.problem_type == "single_label_classification":
        labelled = predictions.labels >= 0
        names = [str(config.id2label[index]) for index in range(config.num_labels)]
        return predictions.labels[labelled], predictions.logits.argmax(axis=1)[labelled], names
    if config.problem_type != "regression" or config.num_labels != 1:
        raise RecipeError(f"{run.folder} is a run of {config.task}, where a sample has no one class to confuse.")
    labelled = ~np.isnan(predictions.labels)
    true, predicted = predictions.labels[labelled], predictions.logits[:, 0][labelled]
    if not np.isfinite(predicted).all():
        raise RecipeError(f"The model in {run.folder} predicts NaN or Inf. Has training diverged?")
    if metrics == "sims":
        return sims_levels(true), sims_levels(predicted), list(_SIMS)
    if np.abs(true).max() > 3:
        raise RecipeError(
            f"The labels lie between {true.min():g} and {true.max():g}; a confusion matrix of a regression is drawn over "
            "the sentiment levels −3 … 3."
        )
    return sentiment_levels(true), sentiment_levels(predicted), list(_SENTIMENT)


def draw_modality_gap(
    folder: str | Path,
    /,
    split: str = "test",
    *,
    before: str | Path | None = None,
    method: str = "pca",
    output: str | Path | None = None,
    **keys: Any,
) -> Path:
    """Where the modalities' features lie before and after training, or in another run `before` and in this one.

    Args:
        folder (`str` or `Path`): The run.
        split (`str`): Split to encode.
        before (`str` or `Path`, *optional*): Another run to compare with; left out, this one's weights before training.
        method (`str`): Projection, `"pca"` or `"tsne"`.
        output (`str` or `Path`, *optional*): Where the picture goes, into the folder by default.
        keys: Values over those of the run's recipe.

    Returns:
        The picture's path.
    """
    run = _Run(folder, keys)
    run.check_split(split)
    if before is None:
        sides = [(run.untrained(), run.collator, "before training"), (run.model, run.collator, "after training")]
    else:
        other = _Run(before, keys)
        other.check_split(split)
        sides = [(other.model, other.collator, other.name), (run.model, run.collator, run.name)]
    panels = {
        title: predict(model, run.dataset[split], collator, run.batch_size).modality_features
        for model, collator, title in sides
    }
    figure = plot_modality_gap(panels, method=method, seed=run.seed)
    return save_figure(figure, output or run.folder / f"modality-gap-{split}.png")


def draw_features(
    folders: str | Path | Sequence[str | Path],
    /,
    split: str = "test",
    *,
    method: str = "pca",
    by: Literal["modality", "class"] = "modality",
    output: str | Path | None = None,
    **keys: Any,
) -> Path:
    """What the classifier reads of all modalities and of each alone, in one projection of all runs.

    Args:
        folders (`str`, `Path` or a sequence of them): Runs whose classifiers read vectors of one width. The first panel is
            the first run before training, where its recipe tells what that was.
        split (`str`): Split to encode.
        method (`str`): Projection, `"pca"` or `"tsne"`.
        by (`str`): What is told apart: `"modality"`, or `"class"`, of what it reads of all modalities together.
        output (`str` or `Path`, *optional*): Where the picture goes, into the first folder by default.
        keys: Values over those of the runs' recipes.

    Returns:
        The picture's path.
    """
    folders = listed(folders)
    panels: dict[str, dict[str, np.ndarray]] = {}
    for folder, name in zip(folders, _telling_names(folders), strict=True):
        run = _Run(folder, keys)
        run.check_split(split)
        sides = [(run.untrained(), "before training")] if not panels and has_recipe(folder) else []
        for model, heading in [*sides, (run.model, name)]:
            found = decision_features(model, run.dataset[split], run.collator, run.batch_size)
            panels[heading] = _by_class(run, split, found[FUSED]) if by == "class" else found
    by_class = by == "class"
    title = f"What the classifier reads{' of all modalities, by class' if by_class else ', with 95 % ellipses'}"
    try:
        figure = plot_feature_scatter(panels, method=method, seed=run.seed, title=title, ellipses=not by_class)
    except ValueError as error:
        raise RecipeError(f"{', '.join(map(str, folders))}: {error}") from error
    name = f"features-by-class-{split}.png" if by_class else f"features-{split}.png"
    return save_figure(figure, output or folders[0] / name)


def _by_class(run: "_Run", split: str, features: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of `(N, d)` features by the name of their class; those without a label are left out."""
    config = run.model.config
    if config.problem_type != "single_label_classification":
        raise RecipeError(f"{run.folder} is a run of {config.task}, where a sample has no one class.")
    labels = run.dataset[split].with_format(None)["label"][:]
    labels = np.array([-1 if label is None else label for label in labels])
    classes = [label for label in range(config.num_labels) if (labels == label).any()]
    return {str(config.id2label[label]): features[labels == label] for label in classes}


def _telling_names(folders: Sequence[Path]) -> list[str]:
    """The parts of each path that not all paths have."""
    if len(folders) == 1:
        return ["after training"]
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise RecipeError(f"A run is named twice: {', '.join(map(str, folders))}.")
    names = ["/".join(part for part in path if any(part not in other for other in parts)) for path in parts]
    return names if len(set(names)) == len(names) and all(names) else ["/".join(path) for path in parts]


def draw_contributions(folders: str | Path | Sequence[str | Path], /, *, output: str | Path | None = None) -> Path:
    """What each modality contributed over the epochs of a run, beside the scores of all and of each alone.

    Args:
        folders (`str`, `Path` or a sequence of them): A run with `gradient_modulation`; several are training seeds, whose
            mean and standard deviation are drawn.
        output (`str` or `Path`, *optional*): Where the picture goes, into the first folder by default.

    Returns:
        The picture's path.
    """
    folders = listed(folders)
    logs, modalities = _logs(folders)
    metrics = {str(folder): _primary_metric(folder) for folder in folders}
    _check_equal("metric", metrics)
    try:
        figure = plot_contributions(logs, modalities, metrics[str(folders[0])])
    except ValueError as error:
        raise RecipeError(f"{', '.join(map(str, folders))}: {error}") from error
    return save_figure(figure, output or folders[0] / "contributions.png")


def draw_alignment(folders: str | Path | Sequence[str | Path], /, *, output: str | Path | None = None) -> Path:
    """How compact classes became in a gate's codes over the epochs of a training, and what its critics found.

    Args:
        folders (`str`, `Path` or a sequence of them): A run that was trained against critics; several are training seeds,
            whose mean and standard deviation are drawn.
        output (`str` or `Path`, *optional*): Where the picture goes, into the first folder by default.

    Returns:
        The picture's path.
    """
    return _draw_logs(listed(folders), plot_alignment, output, "alignment.png")


def draw_training(folders: str | Path | Sequence[str | Path], /, *, output: str | Path | None = None) -> Path:
    """What the instruments of a training logged: which loss terms act, what WMA holds, how the tokens lie to each other.

    Args:
        folders (`str`, `Path` or a sequence of them): A run with `log_gradient_shares` or `log_token_geometry`, or of WMA;
            several are training seeds, whose mean and standard deviation are drawn.
        output (`str` or `Path`, *optional*): Where the picture goes, into the first folder by default.

    Returns:
        The picture's path.
    """
    return _draw_logs(listed(folders), plot_instruments, output, "instruments.png")


def _draw_logs(folders: Sequence[Path], plot: Callable[..., Any], output: str | Path | None, name: str) -> Path:
    logs, modalities = _logs(folders)
    try:
        figure = plot(logs, modalities)
    except ValueError as error:
        raise RecipeError(f"{', '.join(map(str, folders))}: {error}") from error
    return save_figure(figure, output or folders[0] / name)


def _logs(folders: Sequence[Path]) -> tuple[list[list[dict[str, float]]], list[str]]:
    """The log of each run, and the modalities of all."""
    for folder in folders:
        if not (folder / RESULTS).exists() or not (folder / TRAINER_STATE_NAME).exists():
            raise RecipeError(
                f"{folder} holds no {RESULTS} and {TRAINER_STATE_NAME}; it must be the output_dir of a finished run."
            )
    modalities = {str(folder): AutoConfig.from_pretrained(folder).modalities for folder in folders}
    _check_equal("modalities", modalities)
    states = [json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8")) for folder in folders]
    return [state["log_history"] for state in states], modalities[str(folders[0])]


def _check_equal(what: str, found: Mapping[str, Any]) -> None:
    if any(value != next(iter(found.values())) for value in found.values()):
        raise RecipeError(f"Runs in one picture have the same {what}; these have {found}.")


def _primary_metric(folder: Path) -> str:
    return json.loads((folder / RESULTS).read_text(encoding="utf-8"))["primary_metric"]


def draw_missing(
    folders: str | Path | Sequence[str | Path],
    /,
    *,
    metric: str | None = None,
    output: str | Path | None = None,
) -> Path:
    """The scores of saved models against the share of samples that miss a modality, a line per model.

    Args:
        folders (`str`, `Path` or a sequence of them): Runs whose robustness has been evaluated in the same way. Those whose
            recipes differ in nothing but seed or fold are one line: their mean, with the standard deviation.
        metric (`str`, *optional*): The score; by default the one that the evaluations call primary.
        output (`str` or `Path`, *optional*): Where the picture goes, into the first folder by default.

    Returns:
        The picture's path.

    Raises:
        RecipeError: For a folder without `robustness.json`, and evaluations that cannot be compared.
    """
    folders = listed(folders)
    groups = repetitions(folders, over_folds=True)
    for folder in folders:
        if not (folder / "robustness.json").exists():
            raise RecipeError(f"{folder} holds no robustness.json; `hf-mmalign robustness {folder}` makes it.")
    reports = {folder: RobustnessReport.from_json(folder / "robustness.json") for folder in folders}
    for key in ("modalities", "missing_ratios", "missing_mode", "primary_metric"):
        _check_equal(key, {str(folder): getattr(report.settings, key) for folder, report in reports.items()})
    try:
        figure = plot_missing_curves({name: [reports[run] for run in group] for name, group in groups.items()}, metric)
    except KeyError as error:
        raise RecipeError(f"--metric is one of {reports[folders[0]].metric_names}, not {metric!r}.") from error
    except ValueError as error:
        raise RecipeError(f"{', '.join(map(str, folders))}: {error}") from error
    return save_figure(figure, output or folders[0] / "missing.png")


def draw_heat_map(
    folder: str | Path,
    rows: str | None = None,
    columns: str | None = None,
    variant: str | None = None,
    output: str | Path | None = None,
) -> Path:
    """A sweep's validation scores over two of its arguments; `variant` is needed where several have a grid."""
    file = Path(folder) / "sweep.json"
    if not file.exists():
        raise RecipeError(f"{folder} holds no sweep.json; it must be the output_dir of `hf-mmalign sweep`.")
    outcome = json.loads(file.read_text(encoding="utf-8"))
    # A sweep over folds holds a grid for each; a cell's score is then its mean over them.
    folds = {
        name: [entry["grid"] for entry in found.get("folds", {"": found}).values()]
        for name, found in outcome["variants"].items()
    }
    with_grid = [name for name, grids in folds.items() if grids[0]]
    variant = variant or (with_grid[0] if len(with_grid) == 1 else None)
    if variant not in with_grid:
        raise RecipeError(f"{file}: --variant is one of those with a grid, {with_grid}; not {variant!r}.")
    grid = [
        cells[0] | {"validation": fmean(cell["validation"] for cell in cells)}
        for cells in zip(*folds[variant], strict=True)
    ]
    figure = plot_sweep_grid(
        grid, outcome["primary_metric"], rows=rows, columns=columns, title=f"{variant}: validation"
    )
    suffix = f"-{rows}-{columns}" if rows else ""
    return save_figure(figure, output or file.parent / f"heat-map-{variant}{suffix}.png")


class _Run:
    """A saved run, ready for prediction."""

    def __init__(self, folder: str | Path, keys: Mapping[str, Any]):
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        self.model, self.processor, self.arguments, self.dataset = load_run(folder, keys)
        self.collator = build_collator(self.processor, self.model.config)
        self.batch_size = self.arguments.training.get("per_device_eval_batch_size", 64)
        self.seed = self.arguments.training.get("seed", 42)

    def check_split(self, split: str) -> None:
        check_split(self.dataset, split)

    def untrained(self):
        """The model as it was before the first step: the weights are drawn as training does."""
        if not has_recipe(self.folder):
            raise RecipeError(
                f"{self.folder} holds no {RECIPE}, so its weights before training cannot be drawn again; name a folder to "
                "compare with, `--before FOLDER`."
            )
        config = build_config(self.arguments, self.dataset, self.processor)
        set_seed(self.seed)
        # LoRA's adapters leave the function of a new model as it is.
        sources = encoder_sources(self.arguments.config.get("encoders"))
        return build_model(replace(self.arguments.model, use_peft=False), config, sources)
