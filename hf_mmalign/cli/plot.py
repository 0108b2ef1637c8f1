"""`hf-mmalign plot`: pictures of a saved run or sweep, each a PNG whose path is printed."""

import argparse
import json
from pathlib import Path
from typing import Any

_SENTIMENT = ("−3", "−2", "−1", "0", "1", "2", "3")
_SIMS = ("negative", "weakly negative", "neutral", "weakly positive", "positive")


def add_parser(subparsers) -> None:
    """Add the command `plot`."""
    parser = subparsers.add_parser(
        "plot", help="pictures of a saved run or sweep", description="Draw pictures of a saved run or sweep."
    )
    commands = parser.add_subparsers(title="pictures", metavar="PICTURE", required=True)
    overrides = "A key of the run's recipe, such as `--dataset_path elsewhere`, wins over the recipe's."

    command = _add(commands, "confusion", _confusion, "which class or sentiment level is taken for which", overrides)
    command.add_argument("run_folder", metavar="RUN", help="output_dir of a run")
    command.add_argument("--split", default="test", help="split to predict (default: test)")

    command = _add(
        commands,
        "modality-gap",
        _modality_gap,
        "where the modalities' features lie before and after training",
        overrides,
    )
    command.add_argument("run_folder", metavar="RUN", help="output_dir of a run")
    command.add_argument("--split", default="test", help="split to encode (default: test)")
    command.add_argument(
        "--before",
        metavar="FOLDER",
        help="another run to compare with, such as an ablation (default: RUN's own weights before training)",
    )
    command.add_argument("--method", choices=("pca", "tsne"), default="pca", help="projection (default: pca)")

    command = _add(commands, "heat-map", _heat_map, "a sweep's scores on validation over two arguments")
    command.add_argument("sweep_folder", metavar="SWEEP", help="output_dir of a sweep")
    command.add_argument("--rows", metavar="KEY", help="argument down the side; needed where more than two vary")
    command.add_argument("--columns", metavar="KEY", help="argument along the bottom")
    command.add_argument("--variant", metavar="NAME", help="variant of the sweep; needed where several have a grid")


def _add(commands, name: str, run, help_text: str, overrides: str | None = None) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help_text, description=f"Draw {help_text}.", epilog=overrides)
    command.add_argument("--output", metavar="FILE", help="where the picture goes (default: into the folder)")
    command.add_argument("--traceback", action="store_true", help="show where an error comes from")
    command.set_defaults(run=run, takes_overrides=overrides is not None)
    return command


def _confusion(args: argparse.Namespace, rest: list[str]) -> int:
    from ..evaluation.inference import predict
    from ..reporting.confusion import plot_confusion_matrix
    from .recipe import RecipeError

    run = _Run(args.run_folder, rest)
    run.check_split(args.split)
    predictions = predict(run.model, run.dataset[args.split], run.collator, run.batch_size)
    if predictions.labels is None:
        raise RecipeError(f"The split {args.split!r} has no labels to compare predictions with.")
    true, predicted, names = _classes(run, predictions)
    agreement = float((true == predicted).mean())
    title = f"{run.name}, {args.split}: {100 * agreement:.1f} % of {len(true)} on the diagonal"
    figure = plot_confusion_matrix(true, predicted, names, title=title)
    return _save(figure, args.output or run.folder / f"confusion-{args.split}.png")


def _classes(run: "_Run", predictions) -> tuple[Any, Any, list[str]]:
    """True and predicted class ids, and the classes' names; sentiment strengths become levels."""
    import numpy as np

    from ..evaluation.metrics import sentiment_levels, sims_levels
    from .recipe import RecipeError

    config, metrics = run.model.config, run.arguments.evaluation.metrics
    if config.problem_type == "single_label_classification":
        labelled = predictions.labels >= 0
        names = [str(config.id2label[index]) for index in range(config.num_labels)]
        return predictions.labels[labelled], predictions.logits.argmax(axis=1)[labelled], names
    if config.problem_type != "regression" or config.num_labels != 1:
        raise RecipeError(
            f"{run.folder} is a run of {config.problem_type}, where a sample has no one class to confuse."
        )
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


def _modality_gap(args: argparse.Namespace, rest: list[str]) -> int:
    from ..evaluation.inference import predict
    from ..reporting.modality_gap import plot_modality_gap

    run = _Run(args.run_folder, rest)
    run.check_split(args.split)
    if args.before is None:
        before = (run.untrained(), run.collator, "before training")
        after = (run.model, run.collator, "after training")
    else:
        other = _Run(args.before, rest)
        other.check_split(args.split)
        before, after = (other.model, other.collator, other.name), (run.model, run.collator, run.name)
    panels = {
        title: predict(model, run.dataset[args.split], collator, run.batch_size).modality_features
        for model, collator, title in (before, after)
    }
    figure = plot_modality_gap(panels, method=args.method, seed=run.seed)
    return _save(figure, args.output or run.folder / f"modality-gap-{args.split}.png")


def _heat_map(args: argparse.Namespace) -> int:
    from statistics import fmean

    from ..reporting.sweep_grid import plot_sweep_grid
    from .recipe import RecipeError

    file = Path(args.sweep_folder) / "sweep.json"
    if not file.exists():
        raise RecipeError(f"{args.sweep_folder} holds no sweep.json; it must be the output_dir of `hf-mmalign sweep`.")
    outcome = json.loads(file.read_text(encoding="utf-8"))
    # A sweep over folds holds a grid for each; a cell's score is then its mean over them.
    folds = {
        name: [entry["grid"] for entry in variant.get("folds", {"": variant}).values()]
        for name, variant in outcome["variants"].items()
    }
    with_grid = [name for name, grids in folds.items() if grids[0]]
    variant = args.variant or (with_grid[0] if len(with_grid) == 1 else None)
    if variant not in with_grid:
        raise RecipeError(f"{file}: --variant is one of those with a grid, {with_grid}; not {variant!r}.")
    grid = [
        cells[0] | {"validation": fmean(cell["validation"] for cell in cells)}
        for cells in zip(*folds[variant], strict=True)
    ]
    figure = plot_sweep_grid(
        grid, outcome["primary_metric"], rows=args.rows, columns=args.columns, title=f"{variant}: validation"
    )
    suffix = f"-{args.rows}-{args.columns}" if args.rows else ""
    return _save(figure, args.output or file.parent / f"heat-map-{variant}{suffix}.png")


class _Run:
    """A saved run, ready for prediction."""

    def __init__(self, folder: str, overrides: list[str]):
        from .build import build_collator
        from .recipe import parse_overrides
        from .run import load_run

        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        self.model, self.processor, self.arguments, self.dataset = load_run(folder, parse_overrides(overrides))
        self.collator = build_collator(self.processor, self.model.config)
        self.batch_size = self.arguments.training.get("per_device_eval_batch_size", 64)
        self.seed = self.arguments.training.get("seed", 42)

    def check_split(self, split: str) -> None:
        from .run import check_split

        check_split(self.dataset, split)

    def untrained(self):
        """The model as it was before the first step: the weights are drawn as :func:`.run.train` does."""
        from dataclasses import replace

        from transformers import set_seed

        from .build import build_config, build_model

        config = build_config(self.arguments, self.dataset, self.processor)
        set_seed(self.seed)
        # LoRA's adapters leave the function of a new model as it is.
        return build_model(replace(self.arguments.model, use_peft=False), config)


def _save(figure, path: str | Path) -> int:
    from ..reporting.plots import save_figure

    print(save_figure(figure, path))
    return 0
