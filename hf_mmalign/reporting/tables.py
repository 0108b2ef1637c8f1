"""Markdown tables."""

from collections.abc import Sequence

from ..evaluation.metric_names import METRICS


def metric_label(name: str, greater_is_better: bool | None = None) -> str:
    """A metric's name for readers, with an arrow towards the better end where that is given."""
    label = METRICS[name].label if name in METRICS else name.replace("_", " ")
    return label + {True: " ↑", False: " ↓", None: ""}[greater_is_better]


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
