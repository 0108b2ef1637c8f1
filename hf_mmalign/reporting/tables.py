"""Markdown tables and numbers the way papers print them."""

import math
from collections.abc import Sequence

from ..evaluation.metric_names import METRICS


def metric_label(name: str, greater_is_better: bool | None = None) -> str:
    """A metric's name for readers, with an arrow towards the better end where that is given."""
    label = METRICS[name].label if name in METRICS else name.replace("_", " ")
    return label + {True: " ↑", False: " ↓", None: ""}[greater_is_better]


def format_score(mean: float, std: float | None = None) -> str:
    """`0.741`, or `0.741 ± 0.012` with a standard deviation; `–` where the mean is not defined.

    Three decimals below 10, fewer above: four digits in all, which is what test sets of some thousand samples carry.

    >>> format_score(0.7411), format_score(0.7411, 0.0123), format_score(123.456, 0.1)
    ('0.741', '0.741 ± 0.012', '123.5 ± 0.1')
    """
    if math.isnan(mean):
        return "–"
    whole_digits = len(str(int(abs(mean))))
    decimals = max(0, 4 - whole_digits)
    if std is None or math.isnan(std):
        return f"{mean:.{decimals}f}"
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left-aligned and the others right-aligned, padded to be readable as plain text.

    Raises:
        ValueError: If a row does not have one cell per column.
    """
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    for row in cells:
        if len(row) != len(header):
            raise ValueError(f"A row of {len(row)} cells does not fit a table of {len(header)} columns: {row}")
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (w - 1) + ":" if column else "-" * w for column, w in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])]) + "\n"
