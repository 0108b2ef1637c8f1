"""`hf-mmalign data`: what is in a data set, features of it, and a vocabulary."""

import argparse
import json
from typing import Any

from . import tokenizer
from .source_options import add_source_options, options_of, yaml_value

_EXAMPLES = """examples:
  hf-mmalign data inspect digits-captions
  hf-mmalign data inspect easy-vqa path/to/easy-vqa --option validation_fraction=0.2
  hf-mmalign data inspect image-text path/to/hateful_memes --json
  hf-mmalign data inspect mmsa MOSI/aligned_50.pkl --option text=raw
  hf-mmalign data inspect table tweets.csv --tokenizer bert-base-uncased --max_length 40
  hf-mmalign data inspect multibench mosei_senti_data.pkl --option nonfinite=replace --option "drop_missing=[text]"
"""

_EXTRACT = """examples:
  hf-mmalign data extract data/tweets.csv --output features --text sentence-transformers/all-MiniLM-L6-v2
  hf-mmalign data extract image-text path/to/hateful_memes --output features --image timm/resnet50.a1_in1k \\
      --image-pooling none --keep text
  hf-mmalign data extract table clips.csv --output features --text MODEL --audio log-mel --option "audio={n_mels: 40}"

The folder is a data set that the format `table` reads; its README.md says how. A killed run goes on when called again.
"""

_FORMATS = (
    "table, digits-captions, digits-translation, digits-views (embedded), ave, crema-d, digits-av, easy-vqa, image-text, "
    "how2, iemocap, kinetics-sounds, mmimdb, mmsa, multi30k, multibench, mvsa-single, nyu-depth or ravdess"
)
_MOST_CLASSES_SHOWN = 30


def add_parser(subparsers) -> None:
    """Add the command `data`."""
    parser = subparsers.add_parser(
        "data",
        help="look at data sets, extract features, train a tokenizer",
        description="Look at data sets, extract features of them, train a tokenizer.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    inspect = commands.add_parser(
        "inspect",
        help="print splits, shapes, lengths, label distribution and missing values",
        description="Print a data set's splits, shapes, lengths, label distribution and missing values.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("dataset", metavar="NAME_OR_FORMAT", help=_FORMATS)
    add_source_options(inspect)
    inspect.add_argument(
        "--tokenizer", metavar="NAME_OR_FOLDER", help="count the tokens of texts: a name on the Hub, or a saved folder"
    )
    inspect.add_argument(
        "--max_length", metavar="N", type=int, help="count the texts of more tokens (default: the tokenizer's limit)"
    )
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=run)
    extract = commands.add_parser(
        "extract",
        help="encode texts and pictures by pretrained models, as a data set of features",
        description="Encode a data set's texts and pictures by pretrained models, and save the features as a data set.",
        epilog=_EXTRACT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    extract.add_argument("dataset", metavar="SOURCE", help=f"a table's file or folder, or a format: {_FORMATS}")
    add_source_options(extract)
    extract.add_argument("--output", metavar="FOLDER", required=True, help="where the new data set goes")
    extract.add_argument("--text", metavar="MODEL", help="encoder of texts, a folder or a name on the Hub")
    extract.add_argument("--image", metavar="MODEL", help="encoder of pictures, of transformers or timm")
    extract.add_argument("--audio", metavar="log-mel", help="log-mel frames, as the format table makes them of sounds")
    pooling = "{} pooling: mean, cls, pooler (the model's own) or none, for every {}"
    extract.add_argument("--text-pooling", metavar="POOLING", help=pooling.format("text", "token"))
    extract.add_argument("--image-pooling", metavar="POOLING", help=pooling.format("picture", "patch"))
    extract.add_argument(
        "--max-text-length", metavar="TOKENS", type=int, help="longest text (default: the model's limit)"
    )
    extract.add_argument(
        "--keep", metavar="MODALITY", nargs="+", default=[], help="text or image, to be taken along raw"
    )
    extract.add_argument("--splits", metavar="SPLIT", nargs="+", help="the splits to take (default: all)")
    extract.add_argument(
        "--noise",
        metavar="SETTINGS",
        help="noise on raw texts and pictures, such as '{protocol: qmf, kind: gaussian, epsilon: 5}': a copy for the key "
        "noisy_copies of `hf-mmalign robustness`",
    )
    extract.add_argument("--noise-seed", metavar="SEED", type=int, default=0, help="of that noise (default: 0)")
    extract.add_argument("--batch-size", metavar="ROWS", type=int, default=32, help="samples at a time (default: 32)")
    extract.add_argument(
        "--device", help="where to run, such as cpu or cuda:1 (default: an accelerator, if there is one)"
    )
    extract.set_defaults(run=run_extract)
    tokenizer.add_parser(commands, _FORMATS)


def run(args: argparse.Namespace) -> int:
    """Run `data inspect`; returns the exit status. Raises DataError for data or options that cannot be used."""
    options = options_of(args.option)
    if args.max_length is not None and args.tokenizer is None:
        raise ValueError("--max_length counts tokens, and so needs a --tokenizer")
    if args.max_length is not None and args.max_length < 1:
        raise ValueError(f"--max_length is {args.max_length}; it is at least 1")

    import datasets

    from ..data.inspection import inspect_dataset
    from ..data.loading import load_multimodal_dataset

    if args.json:
        datasets.disable_progress_bars()
    tokenizer = None
    if args.tokenizer is not None:
        from ..data.tokenizers import load_tokenizer

        tokenizer = load_tokenizer(args.tokenizer, "--tokenizer")
    dataset = load_multimodal_dataset(
        args.dataset, args.path, cache_dir=args.cache_dir, label_column=args.label_column, **options
    )
    report = inspect_dataset(dataset, tokenizer, args.max_length)
    print(json.dumps(report, indent=2) if args.json else _as_text(args.dataset, report))
    return 0


def run_extract(args: argparse.Namespace) -> int:
    """Run `data extract`; returns the exit status. Raises DataError for data, encoders or options that cannot be used."""
    options = options_of(args.option)

    from .. import runs
    from ..data.loading import FORMATS

    source = ("table", args.dataset) if args.path is None and args.dataset not in FORMATS else (args.dataset, args.path)
    dataset = runs.extract(
        *source,
        output=args.output,
        text=args.text,
        image=args.image,
        audio=args.audio,
        keep=args.keep,
        text_pooling=args.text_pooling,
        image_pooling=args.image_pooling,
        max_text_length=args.max_text_length,
        splits=args.splits,
        noise=None if args.noise is None else yaml_value(args.noise, "--noise"),
        noise_seed=args.noise_seed,
        batch_size=args.batch_size,
        device=args.device,
        cache_dir=args.cache_dir,
        options={"label_column": args.label_column, **options},
    )
    rows = ", ".join(f"{split} {len(data)}" for split, data in dataset.items())
    print(f"saved in {args.output}: {rows} rows")
    return 0


def _as_text(name: str, report: dict[str, Any]) -> str:
    kinds = ", ".join(
        f"{modality} ({f'features of width {kind}' if isinstance(kind, int) else kind})"
        for modality, kind in report["modalities"].items()
    )
    lines = [name, f"  task        {report['problem_type']}", f"  modalities  {kinds}"]
    for split, content in report["splits"].items():
        lines += ["", f"{split}: {content['rows']} rows"]
        lines += [f"  {modality:<11} {_modality(entry)}" for modality, entry in content["modalities"].items()]
        lines += _label_lines(content["label"], content["rows"])
    return "\n".join(lines)


def _modality(entry: dict[str, Any]) -> str:
    if entry["kind"] == "image":
        modes = ", ".join(f"{count} {mode}" for mode, count in entry["mode"].items()) or "none"
        parts = [f"height {_range(entry['height'])}", f"width {_range(entry['width'])}", f"pictures: {modes}"]
    elif entry["kind"] == "audio":
        rates = ", ".join(f"{count} at {rate} Hz" for rate, count in entry["sampling_rate"].items()) or "none"
        parts = [f"seconds {_range(entry['seconds'])}", f"sounds: {rates}"]
    elif entry["kind"] == "text":
        parts = [f"words {_range(entry['length'])}", f"{entry['distinct']} distinct", *_tokens(entry)]
    else:
        parts = [f"steps {_range(entry['length'])}", f"width {entry['width']}", f"values {_range(entry['value'])}"]
        parts += [f"{entry['nonfinite']} NaN or Inf"] if entry["nonfinite"] else []
    return "; ".join([*parts, f"{entry['missing']} missing"])


def _tokens(entry: dict[str, Any]) -> list[str]:
    if "tokens" not in entry:
        return []
    parts = [f"tokens {_range(entry['tokens'])}, {entry['unknown']:.1%} unknown"]
    return parts + ([f"{entry['too_long']:.1%} longer than {entry['limit']} tokens"] if "limit" in entry else [])


def _range(summary: dict[str, float] | None) -> str:
    if summary is None:
        return "–"
    if summary["min"] == summary["max"]:
        return f"{summary['min']:g}"
    return f"{summary['min']:.4g} to {summary['max']:.4g} (mean {summary['mean']:.4g})"


def _label_lines(label: dict[str, Any], rows: int) -> list[str]:
    if "kind" in label:
        return [f"  {'target':<11} {_modality(label)}"]
    missing = f"; {label['missing']} missing"
    if "value" in label:
        return [f"  {'label':<11} values {_range(label['value'])}{missing}"]
    shown = sorted(label["counts"].items(), key=lambda item: -item[1])
    lines = [f"  {'label':<11} {len(shown)} classes{missing}"]
    width = max(len(name) for name, _ in shown)
    for name, count in shown[:_MOST_CLASSES_SHOWN]:
        lines.append(f"    {name:<{width}}  {count:>7}  {count / max(rows, 1):6.1%}")
    if len(shown) > _MOST_CLASSES_SHOWN:
        lines.append(f"    … and {len(shown) - _MOST_CLASSES_SHOWN} more classes")
    return lines
