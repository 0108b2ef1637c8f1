"""`hf-mmalign data inspect`: what is in a data set."""

import argparse
import json
from typing import Any

from ..data.errors import shown

_EXAMPLES = """examples:
  hf-mmalign data inspect digits-captions
  hf-mmalign data inspect easy-vqa path/to/easy-vqa --option validation_fraction=0.2
  hf-mmalign data inspect image-text path/to/hateful_memes --json
  hf-mmalign data inspect mmsa MOSI/aligned_50.pkl --option text=raw
  hf-mmalign data inspect multibench mosei_senti_data.pkl --option nonfinite=replace --option "drop_missing=[text]"
"""

_FORMATS = (
    "digits-captions, digits-views (embedded), digits-av, easy-vqa, image-text, iemocap, mmimdb, mmsa, multibench "
    "or ravdess"
)
_MOST_CLASSES_SHOWN = 30


def add_parser(subparsers) -> None:
    """Add the command `data`."""
    parser = subparsers.add_parser("data", help="look at data sets", description="Look at data sets.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    inspect = commands.add_parser(
        "inspect",
        help="print splits, shapes, lengths, label distribution and missing values",
        description="Print a data set's splits, shapes, lengths, label distribution and missing values.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("dataset", metavar="NAME_OR_FORMAT", help=_FORMATS)
    inspect.add_argument("path", metavar="PATH", nargs="?", help="the file or folder; none for embedded data")
    inspect.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the reader; the value is YAML; may be repeated",
    )
    inspect.add_argument("--label-column", metavar="NAME", default="label", help="the column that becomes the label")
    inspect.add_argument("--cache-dir", metavar="FOLDER", help="where the Arrow files go")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument("--traceback", action="store_true", help="show where an error comes from")
    inspect.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `data inspect`; returns the exit status. Raises DataError for data or options that cannot be used."""
    options = _options(args.option)

    import datasets

    from ..data.inspection import inspect_dataset
    from ..data.loading import load_multimodal_dataset

    if args.json:
        datasets.disable_progress_bars()
    dataset = load_multimodal_dataset(
        args.dataset, args.path, cache_dir=args.cache_dir, label_column=args.label_column, **options
    )
    report = inspect_dataset(dataset)
    print(json.dumps(report, indent=2) if args.json else _as_text(args.dataset, report))
    return 0


def _options(pairs: list[str]) -> dict[str, Any]:
    from ..runs.strict_yaml import parse_yaml

    options = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"--option takes KEY=VALUE, not {pair!r}")
        try:
            options[key] = parse_yaml(value)
        except ValueError as error:
            raise ValueError(f"--option {shown(pair)}: the value is not YAML: {error}") from error
    return options


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
    elif entry["kind"] == "text":
        parts = [f"words {_range(entry['length'])}", f"{entry['distinct']} distinct"]
    else:
        parts = [f"steps {_range(entry['length'])}", f"width {entry['width']}", f"values {_range(entry['value'])}"]
        parts += [f"{entry['nonfinite']} NaN or Inf"] if entry["nonfinite"] else []
    return "; ".join([*parts, f"{entry['missing']} missing"])


def _range(summary: dict[str, float] | None) -> str:
    if summary is None:
        return "–"
    if summary["min"] == summary["max"]:
        return f"{summary['min']:g}"
    return f"{summary['min']:.4g} to {summary['max']:.4g} (mean {summary['mean']:.4g})"


def _label_lines(label: dict[str, Any], rows: int) -> list[str]:
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
