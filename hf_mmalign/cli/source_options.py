"""Options of commands that read a data set."""

import argparse
from typing import Any

from ..data.errors import shown


def add_source_options(command: argparse.ArgumentParser) -> None:
    """Add the path and the reader's options."""
    command.add_argument("path", metavar="PATH", nargs="?", help="the file or folder; none for embedded data")
    command.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the reader; the value is YAML; may be repeated",
    )
    command.add_argument("--label-column", metavar="NAME", default="label", help="the column that becomes the label")
    command.add_argument("--cache-dir", metavar="FOLDER", help="where the Arrow files go")
    command.add_argument("--traceback", action="store_true", help="show where an error comes from")


def options_of(pairs: list[str]) -> dict[str, Any]:
    """The `KEY=VALUE` of `--option`. Raises ValueError for one that is none."""
    options = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"--option takes KEY=VALUE, not {pair!r}")
        options[key] = yaml_value(value, f"--option {shown(pair)}")
    return options


def yaml_value(text: str, option: str) -> Any:
    """The value of an option that is YAML. Raises ValueError, which begins with the `option`, for what is none."""
    from ..runs.strict_yaml import parse_yaml

    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{option}: the value is not YAML: {error}") from error
