"""Heat maps of a sweep's grid (Figure 7 of the DecAlign paper)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ..evaluation.metric_names import GREATER_IS_BETTER
from .plots import plot_heat_map

_SCORE = "validation"


def plot_sweep_grid(
    grid: Sequence[Mapping[str, Any]],
    metric: str,
    *,
    rows: str | None = None,
    columns: str | None = None,
    title: str = "",
) -> Figure:
    """A sweep's validation scores over two of its arguments; of every further one, the slice through the best cell.

    Args:
        grid (`Sequence[Mapping[str, Any]]`): The cells as `sweep.json` lists them, each its arguments and `validation`.
        metric (`str`): Name of the score, a key of :data:`hf_mmalign.evaluation.metric_names.METRICS`.
        rows, columns (`str`, *optional*): The two arguments; may be left out where exactly two vary.
        title (`str`, *optional*): Heading; the slice is added to it.

    Raises:
        ValueError: If there is no grid, an argument does not vary in it, or it is not said which two of several to draw.
    """
    if not grid:
        raise ValueError(f"{title or 'The sweep'} has no grid: every argument has one value.")
    values = {key: list(dict.fromkeys(str(cell[key]) for cell in grid)) for key in grid[0] if key != _SCORE}
    varying = [key for key, options in values.items() if len(options) > 1]
    if rows is None and columns is None and len(varying) == 2:
        rows, columns = varying
    if rows not in varying or columns not in varying or rows == columns:
        raise ValueError(
            f"A heat map is drawn over two arguments that vary, given as rows and columns; {title or 'the sweep'} varies "
            f"{varying}, and rows is {rows!r}, columns {columns!r}."
        )
    best = (max if GREATER_IS_BETTER[metric] else min)(
        [cell for cell in grid if not math.isnan(cell[_SCORE])] or grid, key=lambda cell: cell[_SCORE]
    )
    others = {key: str(best[key]) for key in varying if key not in (rows, columns)}
    cells = [cell for cell in grid if all(str(cell[key]) == value for key, value in others.items())]
    scores = {(str(cell[rows]), str(cell[columns])): cell[_SCORE] for cell in cells}
    return plot_heat_map(
        [[scores.get((row, column), math.nan) for column in values[columns]] for row in values[rows]],
        values[rows],
        values[columns],
        row_name=rows,
        column_name=columns,
        metric=metric,
        greater_is_better=GREATER_IS_BETTER[metric],
        title=", ".join([part for part in (title,) if part] + [f"{key} = {value}" for key, value in others.items()]),
    )
