"""`hf-mmalign plot`: pictures of a saved run or sweep, each a PNG whose path is printed."""

import argparse

_OVERRIDES = "A key of the run's recipe, such as `--dataset_path elsewhere`, wins over the recipe's."


def add_parser(subparsers) -> None:
    """Add the command `plot`."""
    parser = subparsers.add_parser(
        "plot", help="pictures of a saved run or sweep", description="Draw pictures of a saved run or sweep."
    )
    commands = parser.add_subparsers(title="pictures", metavar="PICTURE", required=True)
    for add in (
        _add_confusion,
        _add_modality_gap,
        _add_features,
        _add_contributions,
        _add_training,
        _add_alignment,
        _add_word_drop,
        _add_missing,
        _add_gate,
        _add_heat_map,
    ):
        add(commands)


def _add_confusion(commands) -> None:
    command = _add(commands, "confusion", _confusion, "which class or sentiment level is taken for which", _OVERRIDES)
    command.add_argument("run_folder", metavar="RUN", help="output_dir of a run")
    command.add_argument("--split", default="test", help="split to predict (default: test)")


def _add_modality_gap(commands) -> None:
    command = _add(
        commands,
        "modality-gap",
        _modality_gap,
        "where the modalities' features lie before and after training",
        _OVERRIDES,
    )
    command.add_argument("run_folder", metavar="RUN", help="output_dir of a run")
    command.add_argument("--split", default="test", help="split to encode (default: test)")
    command.add_argument(
        "--before",
        metavar="FOLDER",
        help="another run to compare with, such as an ablation (default: RUN's own weights before training)",
    )
    command.add_argument("--method", choices=("pca", "tsne"), default="pca", help="projection (default: pca)")


def _add_features(commands) -> None:
    command = _add(
        commands,
        "features",
        _features,
        "what the classifier reads of each modality and of all, before and after training",
        _OVERRIDES,
    )
    command.add_argument(
        "run_folders", metavar="RUN", nargs="+", help="output_dir of a run; several are shown side by side"
    )
    command.add_argument("--split", default="test", help="split to encode (default: test)")
    command.add_argument("--method", choices=("pca", "tsne"), default="pca", help="projection (default: pca)")
    command.add_argument(
        "--by", choices=("modality", "class"), default="modality", help="what is told apart (default: modality)"
    )


def _add_contributions(commands) -> None:
    command = _add(
        commands, "contributions", _contributions, "what each modality contributed over the epochs, beside the scores"
    )
    command.add_argument("run_folders", metavar="RUN", nargs="+", help="output_dir of a run; several are its seeds")


def _add_training(commands) -> None:
    command = _add(
        commands,
        "training",
        _training,
        "what instruments logged: each loss term's share of the gradient, WMA's distance, cosines between tokens",
    )
    command.add_argument(
        "run_folders",
        metavar="RUN",
        nargs="+",
        help="output_dir of a run with log_gradient_shares or log_token_geometry, or of WMA; several are its seeds",
    )


def _add_alignment(commands) -> None:
    command = _add(
        commands,
        "alignment",
        _alignment,
        "how compact classes become in codes and fused vector over a training, and what its critics find",
    )
    command.add_argument("run_folders", metavar="RUN", nargs="+", help="output_dir of a run; several are its seeds")


def _add_word_drop(commands) -> None:
    command = _add(
        commands,
        "word-drop",
        _word_drop,
        "BLEU of translations against the probability that a word of the source is unknown",
        f"Runs that differ in their seed alone are one line, with its standard deviation. {_OVERRIDES}",
    )
    command.add_argument("run_folders", metavar="RUN", nargs="+", help="output_dir of a run that translates")
    command.add_argument("--split", default="test", help="split to translate (default: test)")
    command.add_argument(
        "--probabilities", metavar="P", type=float, nargs="+", help="of a word (default: 0, 0.1, … 0.9)"
    )
    command.add_argument(
        "--device", help="where to run, such as cpu or cuda:1 (default: an accelerator, if there is one)"
    )


def _add_missing(commands) -> None:
    command = _add(
        commands, "missing", _missing, "scores of several runs against the share of samples that miss a modality"
    )
    command.add_argument(
        "run_folders",
        metavar="RUN",
        nargs="+",
        help="output_dir of a run with its robustness.json; those that differ in seed or fold are one line",
    )
    command.add_argument("--metric", help="the score (default: the primary one)")


def _add_gate(commands) -> None:
    command = _add(
        commands,
        "gate",
        _gate,
        "how a gate weighs the modalities while noise on one of them grows",
        "Runs that differ in seed or fold alone are one row of panels, with its standard deviation. The figures go beside "
        "the picture as JSON: also in how many samples the corrupted modality's weight falls, and by how much, with 95 % "
        f"confidence intervals. {_OVERRIDES}",
    )
    command.add_argument("run_folders", metavar="RUN", nargs="+", help="output_dir of a run with `fusion: def_aaf`")
    command.add_argument("--split", default="test", help="split to weigh (default: test)")
    command.add_argument("--corrupt", metavar="MODALITY", nargs="+", help="one panel for each (default: all)")
    command.add_argument(
        "--snrs", metavar="DB", type=float, nargs="+", help="of sounds and features (default: 20, 10, 5, 0, −5, −10)"
    )
    command.add_argument(
        "--epsilons", metavar="E", type=float, nargs="+", help="of pictures and texts, ε (default: 2, 4, … 10)"
    )
    command.add_argument(
        "--sample",
        metavar="ID",
        nargs="*",
        help="also the weights of these samples of the first run, by id or number, before and after the strongest noise; "
        "alone, of four of them",
    )
    command.add_argument(
        "--device", help="where to run, such as cpu or cuda:1 (default: an accelerator, if there is one)"
    )


def _add_heat_map(commands) -> None:
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
    from .. import runs
    from ..runs.recipe import parse_overrides

    print(runs.draw_confusion(args.run_folder, args.split, output=args.output, **parse_overrides(rest)))
    return 0


def _modality_gap(args: argparse.Namespace, rest: list[str]) -> int:
    from .. import runs
    from ..runs.recipe import parse_overrides

    picture = runs.draw_modality_gap(
        args.run_folder,
        args.split,
        before=args.before,
        method=args.method,
        output=args.output,
        **parse_overrides(rest),
    )
    print(picture)
    return 0


def _features(args: argparse.Namespace, rest: list[str]) -> int:
    from .. import runs
    from ..runs.recipe import parse_overrides

    picture = runs.draw_features(
        args.run_folders, args.split, method=args.method, by=args.by, output=args.output, **parse_overrides(rest)
    )
    print(picture)
    return 0


def _contributions(args: argparse.Namespace) -> int:
    from .. import runs

    print(runs.draw_contributions(args.run_folders, output=args.output))
    return 0


def _training(args: argparse.Namespace) -> int:
    from .. import runs

    print(runs.draw_training(args.run_folders, output=args.output))
    return 0


def _alignment(args: argparse.Namespace) -> int:
    from .. import runs

    print(runs.draw_alignment(args.run_folders, output=args.output))
    return 0


def _word_drop(args: argparse.Namespace, rest: list[str]) -> int:
    from .. import runs
    from ..runs.recipe import parse_overrides

    chosen = {} if args.probabilities is None else {"probabilities": args.probabilities}
    picture = runs.draw_word_drop(
        args.run_folders, args.split, output=args.output, device=args.device, **chosen, **parse_overrides(rest)
    )
    print(picture)
    print(picture.with_suffix(".json"))
    return 0


def _missing(args: argparse.Namespace) -> int:
    from .. import runs

    print(runs.draw_missing(args.run_folders, metric=args.metric, output=args.output))
    return 0


def _gate(args: argparse.Namespace, rest: list[str]) -> int:
    from .. import runs
    from ..runs.recipe import parse_overrides

    chosen = {name: getattr(args, name) for name in ("snrs", "epsilons") if getattr(args, name) is not None}
    written = runs.draw_gate(
        args.run_folders,
        args.split,
        output=args.output,
        corrupt=args.corrupt,
        samples=args.sample,
        device=args.device,
        **chosen,
        **parse_overrides(rest),
    )
    for path in written:
        print(path)
    return 0


def _heat_map(args: argparse.Namespace) -> int:
    from .. import runs

    print(runs.draw_heat_map(args.sweep_folder, args.rows, args.columns, args.variant, args.output))
    return 0
