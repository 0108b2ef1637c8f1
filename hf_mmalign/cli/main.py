"""The command `hf-mmalign`. Nothing heavy is imported before a subcommand runs, so that `--help` answers at once."""

import argparse
import json
import os
import sys

from .. import __version__
from . import data, plot

_ANY_ARGUMENT = "Any key of a recipe can be given as `--key value` and wins over the recipe's."
_RECIPE = "a YAML file, or the name of a recipe that comes with the package, such as wma/smoke: see hf-mmalign recipes"

_ANY_FOLDER = "A folder without recipe.yaml, saved by a script of your own, needs `--dataset NAME --dataset_path PATH`."


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status, 2 for input that cannot be used."""
    parser = _build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    from ..runs.given import keys_come_from

    try:
        with keys_come_from("the command line"):
            return args.run(args, rest) if getattr(args, "takes_overrides", False) else args.run(args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        # RecipeError and DataError are ValueErrors whose message is written for the reader; a traceback would bury it.
        if getattr(args, "traceback", False):
            raise
        print(f"hf-mmalign: {error}", file=sys.stderr)
        return 2


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-mmalign",
        description="Fine-tune multimodal transformers that are aligned, balanced and robust.",
        epilog="Documentation: README.md of the repository.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_train, _add_sweep, _add_evaluate, _add_robustness, _add_efficiency, _add_recipes, _add_predict):
        add(subparsers)
    data.add_parser(subparsers)
    plot.add_parser(subparsers)
    return parser


def _add_train(subparsers) -> None:
    command = _add(subparsers, "train", _train, "train, evaluate and save what a recipe says", _ANY_ARGUMENT)
    command.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    command.add_argument(
        "--list-arguments", action="store_true", help="print every key of this recipe's model, and stop"
    )


def _add_sweep(subparsers) -> None:
    command = _add(
        subparsers,
        "sweep",
        _sweep,
        "run a grid or a comparison of variants",
        "Several values of a key span a grid: `--wma_alpha 0.1 1 5 --wma_beta 0.6 1 2 --seed 0 1 2`. The best cell on "
        "validation is reported on test. `--folds 6` repeats all of it over the folds of a data set that has them. "
        "Variants are compared with the first one, or with `--reference NAME`. A killed sweep goes on where it stopped "
        "when called again; a finished one is reported anew. " + _ANY_ARGUMENT,
    )
    command.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    command.add_argument("--jobs", type=int, default=1, help="runs at a time, sharing the processors (default: 1)")


def _add_evaluate(subparsers) -> None:
    command = _add(subparsers, "evaluate", _evaluate, "metrics of a saved folder", f"{_ANY_FOLDER} {_ANY_ARGUMENT}")
    command.add_argument("folder", metavar="FOLDER", help="output_dir of a run, or where a Trainer saved a model")
    command.add_argument("--split", default="test", help="split to evaluate (default: test)")


def _add_robustness(subparsers) -> None:
    command = _add(
        subparsers,
        "robustness",
        _robustness,
        "a saved folder under noise and with missing modalities",
        "For example `--noise_amplitude 1 --missing_ratio 0.3 --robustness_seeds 0 1 2`. `--protocol qmf --epsilons 0 5 "
        "10` also puts noise on raw pictures, sequences and texts, as published for QMF; `--protocol clean` clips pixels. "
        f"{_ANY_FOLDER} {_ANY_ARGUMENT}",
    )
    command.add_argument("folder", metavar="FOLDER", help="output_dir of a run, or where a Trainer saved a model")
    command.add_argument("--split", default="test", help="split to evaluate (default: test)")


def _add_efficiency(subparsers) -> None:
    command = _add(
        subparsers,
        "efficiency",
        _efficiency,
        "what models cost: parameters, FLOPs, seconds per epoch, latency, memory",
        "For example `def-aaf/efficiency --samples 100`, or `runs/a runs/b --inputs '{text: {steps: 32}, audio: {steps: "
        "200}}'`. The recipe's keys are models, inputs, reference, num_labels, samples, batch_size, train_samples, "
        "train_steps, device and seed; given as `--key value`, they win over the recipe's.",
    )
    command.add_argument(
        "sources", metavar="RECIPE_OR_FOLDER", nargs="+", help="a recipe with `models`, and saved models"
    )
    command.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    command.add_argument("--output", metavar="FILE.md", help="also write the tables to this file")


def _add_recipes(subparsers) -> None:
    help_text = "list the recipes that come with the package"
    command = subparsers.add_parser("recipes", help=help_text, description=help_text.capitalize() + ".")
    command.set_defaults(run=_recipes)


def _add_predict(subparsers) -> None:
    command = _add(
        subparsers,
        "predict",
        _predict,
        "predict the rows of a table",
        "The table's columns are named as the modalities, or as the recipe's `columns` say; labels are not needed, and "
        "modalities may be missing. Each line of the output is an object: id, prediction, probabilities, modalities used. "
        + _ANY_ARGUMENT,
    )
    command.add_argument("folder", metavar="FOLDER", help="output_dir of a run, or a folder that a Trainer saved")
    command.add_argument(
        "input", metavar="INPUT", help="a table (see docs/data-formats.md), or - for JSON lines on stdin"
    )
    command.add_argument("--output", metavar="FILE", help="where the lines go (default: standard output)")
    command.add_argument("--batch_size", type=int, default=64, help="rows at a time (default: 64)")
    command.add_argument(
        "--device", help="where to run, such as cpu or cuda:1 (default: an accelerator, if there is one)"
    )
    command.add_argument("--skip_bad_rows", action="store_true", help="warn of rows that cannot be used, and go on")


def _add(subparsers, name: str, run, help_text: str, epilog: str) -> argparse.ArgumentParser:
    command = subparsers.add_parser(name, help=help_text, description=help_text.capitalize() + ".", epilog=epilog)
    command.add_argument("--traceback", action="store_true", help="show where an error comes from")
    command.set_defaults(run=run, takes_overrides=True)
    return command


def _read(args, rest: list[str]):
    from ..runs.recipe import load_recipe, parse_overrides

    return load_recipe(args.recipe), parse_overrides(rest)


def _train(args, rest: list[str]) -> int:
    from .. import runs

    recipe, overrides = _read(args, rest)
    recipe = recipe.override(overrides)
    if args.list_arguments:
        from ..runs.build import describe_arguments

        print(describe_arguments(recipe))
        return 0
    from ..runs.resume import refuse_to_overwrite

    refuse_to_overwrite(recipe)  # before seconds of imports
    run = runs.train(recipe)
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        _print_results(run.results, recipe.values["output_dir"])
    return 0


def _print_results(results: dict, folder: str) -> None:
    for split in ("validation", "test"):
        values = ", ".join(f"{name} {value:.4f}" for name, value in results[split].items() if isinstance(value, float))
        print(f"{split}: {values or 'no labels'}")
    _print_signatures(results.get("signatures", {}))
    print(f"saved in {folder}")


def _print_signatures(signatures: dict) -> None:
    """How sacreBLEU computed each score; scores of other signatures are not comparable."""
    for name, signature in signatures.items():
        print(f"{name}: {signature}")


def _sweep(args, rest: list[str]) -> int:
    from .. import runs

    recipe, overrides = _read(args, rest)
    outcome = runs.sweep(recipe, jobs=args.jobs, **overrides)
    print(outcome.table)
    plots = ", ".join(sorted(path.name for path in outcome.folder.glob("*.png")))
    print(f"saved in {outcome.folder}: sweep.md, sweep.json{', ' if plots else ''}{plots}, and a folder per run")
    return 0


def _recipes(args) -> int:
    from ..runs.packaged_recipes import describe_recipes

    print(describe_recipes())
    return 0


def _evaluate(args, rest: list[str]) -> int:
    from .. import runs
    from ..runs.recipe import parse_overrides

    scores = runs.evaluate(args.folder, args.split, **parse_overrides(rest))
    signatures = scores.pop("signatures", {})
    for name, value in scores.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
    _print_signatures(signatures)
    return 0


def _robustness(args, rest: list[str]) -> int:
    from .. import runs
    from ..runs.recipe import parse_overrides

    print(runs.robustness(args.folder, args.split, **parse_overrides(rest)).to_markdown())
    return 0


def _efficiency(args, rest: list[str]) -> int:
    from .. import runs
    from ..runs.recipe import parse_overrides

    report = runs.efficiency(*args.sources, json=args.json, output=args.output, **parse_overrides(rest))
    print(report.to_markdown(), end="")
    return 0


def _predict(args, rest: list[str]) -> int:
    from .. import runs
    from ..runs.recipe import parse_overrides

    lines = runs.predict(
        args.folder,
        args.input,
        args.output,
        skip_bad_rows=args.skip_bad_rows,
        batch_size=args.batch_size,
        device=args.device,
        **parse_overrides(rest),
    )
    if args.output is None:
        from tqdm.auto import tqdm

        for line in tqdm(lines, desc="Predicting", unit=" rows", file=sys.stderr):
            print(json.dumps(line, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
