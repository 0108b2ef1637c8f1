"""Plots of robustness, sweeps and training, made without pyplot and hence without global state or a display.

Every `plot_…` returns a `matplotlib.figure.Figure`; :func:`save_figure` writes it.
"""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ..evaluation.scores import Condition, RobustnessScores, Score, format_score
from .files import atomic_path
from .tables import metric_label

Reports = Mapping[str, RobustnessScores | Sequence[RobustnessScores]]

# Okabe and Ito's palette, told apart with every form of colour blindness; yellow is left out as too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#5f6368"


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 150) -> Path:
    """Write a figure atomically; the suffix of `path` chooses the format (png, pdf, svg)."""
    with atomic_path(path) as temporary:
        # No creation date and no version: equal results give equal files.
        metadata = {"Software": None} if temporary.suffix == ".png" else {}
        figure.savefig(temporary, dpi=dpi, metadata=metadata)
    return Path(path)


def plot_robustness(reports: Reports, metric: str | None = None) -> Figure:
    """Bars of one metric under every condition of the table, side by side for each model.

    More models than there are colours are rows instead: a panel per condition, a dot per model, a dashed line at the first.

    Args:
        reports (`Mapping[str, RobustnessScores | Sequence[RobustnessScores]]`): By model name. Several reports of a
            model are its training seeds: error bars are then the standard deviation over them; for a single report they
            are the standard deviation over noise seeds.
        metric (`str`, *optional*): The metric to plot, the primary one by default.

    Raises:
        ValueError: If there is no report, or one lacks a condition or the metric.
    """
    models = _group(reports)
    if len(models) > len(COLOURS):
        return _dots(models, metric)
    conditions = next(iter(models.values()))[0].table_conditions()
    # Wide enough for a number above every bar; beyond four models the numbers stand upright.
    group = max(0.85, 0.2 + (0.46 if len(models) <= 4 else 0.3) * len(models))
    figure = Figure(figsize=(max(5.0, 1.0 + len(conditions) * group), 4.2), layout="constrained")
    _draw_bars(figure.add_subplot(), models, metric)
    return figure


def plot_missing_curves(reports: Reports, metric: str | None = None) -> Figure:
    """One metric against the share of samples that miss a modality: a panel per modality, a line per model.

    Arguments as for :func:`plot_robustness`; bands show the same standard deviation as its error bars.
    """
    models = _group(reports)
    modalities = next(iter(models.values()))[0].settings.modalities
    figure = Figure(figsize=(1.0 + 3.6 * len(modalities), 3.9), layout="constrained")
    panels = figure.subplots(1, len(modalities), sharey=True, squeeze=False)[0]
    for column, (panel, modality) in enumerate(zip(panels, modalities, strict=True)):
        lines = {name: _curve(group, modality, metric) for name, group in models.items()}
        _draw_curves(panel, lines)
        panel.set_title(f"{modality} missing", loc="left", fontsize=11)
        if column == 0:
            panel.set_ylabel(_axis_label(models, metric))
    if len(models) > 1:
        _legend_above(figure, panels[0], len(models))
    return figure


def plot_report(report: RobustnessScores) -> Figure:
    """Everything of one report: the bars and, where curves were evaluated, one curve per modality beside them."""
    models = _group({report.model_name or "model": report})
    with_curves = len(report.settings.missing_ratios) > 1
    bars = 1.4 + 0.85 * len(report.table_conditions())
    figure = Figure(figsize=(bars + (4.6 if with_curves else 0.6), 4.3), layout="constrained")
    if not with_curves:
        _draw_bars(figure.add_subplot(), models, None)
        return figure
    left, right = figure.subplots(1, 2, width_ratios=(bars, 4.6))
    _draw_bars(left, models, None)
    left.set_title("clean and disturbed", loc="left", fontsize=11)
    _draw_curves(right, {m: report.curve(m) for m in report.settings.modalities})
    right.set_title("modality missing", loc="left", fontsize=11)
    right.set_ylabel(_axis_label(models, None))
    right.legend(frameon=False)
    return figure


def plot_heat_map(
    values: Sequence[Sequence[float]] | np.ndarray,
    row_labels: Sequence[object],
    column_labels: Sequence[object],
    *,
    row_name: str = "α",
    column_name: str = "β",
    metric: str = "",
    greater_is_better: bool | None = None,
    title: str = "",
) -> Figure:
    """A grid of scores over two arguments, each cell with its value, the best one framed.

    Args:
        values (array of shape `(rows, columns)`): NaN where a combination has not been run; such cells stay empty.
        row_labels, column_labels (`Sequence`): Values of the two arguments.
        row_name, column_name (`str`, *optional*): Their names.
        metric (`str`, *optional*): Name of the score.
        greater_is_better (`bool`, *optional*): Which end is better; None marks no cell.
        title (`str`, *optional*): Heading.

    Raises:
        ValueError: If the labels do not fit the grid, or it holds no number.
    """
    grid = np.asarray(values, dtype=float)
    if grid.shape != (len(row_labels), len(column_labels)):
        raise ValueError(f"A grid of shape {grid.shape} does not fit {len(row_labels)} × {len(column_labels)} labels.")
    if not np.isfinite(grid).any():
        raise ValueError("The grid holds no number to plot.")
    rows, columns = grid.shape
    figure = Figure(figsize=(2.4 + max(1.6, 0.72 * columns), 1.7 + 0.5 * rows), layout="constrained")
    axes = figure.add_subplot()
    # The darker cell is always the better one.
    colour_map = mpl.colormaps["Blues_r" if greater_is_better is False else "Blues"]
    low, high = np.nanmin(grid), np.nanmax(grid)
    margin = 0.08 * ((high - low) or 1.0)  # keeps the palest cell apart from an empty one
    image = axes.imshow(grid, cmap=colour_map, vmin=low - margin, vmax=high + margin, aspect="auto")
    numbers = {}
    for row, column in np.argwhere(np.isfinite(grid)):
        dark = is_dark(image.to_rgba(grid[row, column]))
        text = format_score(grid[row, column])
        numbers[row, column] = axes.text(
            column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black"
        )
    if greater_is_better is not None:
        row, column = np.unravel_index(np.nanargmax(grid) if greater_is_better else np.nanargmin(grid), grid.shape)
        frame = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, linewidth=2.5, edgecolor=COLOURS[1])
        axes.add_patch(frame)
        numbers[row, column].set_fontweight("bold")
    axes.set_xticks(range(columns), [str(label) for label in column_labels])
    axes.set_yticks(range(rows), [str(label) for label in row_labels])
    axes.set_xlabel(column_name)
    axes.set_ylabel(row_name, rotation=0 if len(row_name) < 3 else 90, labelpad=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    put_title(figure, title)
    figure.colorbar(image, ax=axes, label=metric_label(metric, greater_is_better), fraction=0.06, pad=0.02)
    return figure


def plot_training_curves(log_history: Sequence[Mapping[str, float]], components: Sequence[str] | None = None) -> Figure:
    """The loss and each of its components over training steps, a panel each, training beside evaluation.

    Args:
        log_history (`Sequence[Mapping[str, float]]`): `trainer.state.log_history`, or the list of that name in a saved
            `trainer_state.json`. `loss` and `loss_<component>` are training values, the same with `eval_` evaluation.
        components (`Sequence[str]`, *optional*): Names after `loss_`; all that were logged by default. The total loss
            is always there.

    Raises:
        ValueError: If no training loss, or not one of `components`, was logged.
    """
    keys = dict.fromkeys(key for entry in log_history for key in entry if key == "loss" or key.startswith("loss_"))
    if components is not None:
        keys = ["loss", *(f"loss_{name}" for name in components)]
    series = {key: (_series(log_history, key), _series(log_history, f"eval_{key}")) for key in keys}
    absent = [key for key, (training, _) in series.items() if not training[0]] or ([] if series else ["loss"])
    if absent:
        raise ValueError(f"The log holds no {', '.join(absent)}. Was logging_steps beyond the last step?")
    columns = min(3, len(series))
    rows = math.ceil(len(series) / columns)
    figure = Figure(figsize=(0.8 + 3.9 * columns, 0.5 + 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for panel, (key, (training, evaluation)) in zip(panels, series.items(), strict=False):
        dots = {} if len(training[0]) > 40 else {"marker": "o", "markersize": 3}
        panel.plot(*training, color=COLOURS[0], linewidth=1.4, label="training", **dots)
        if evaluation[0]:
            panel.plot(*evaluation, color=COLOURS[1], linewidth=1.4, marker="s", markersize=4, label="evaluation")
        panel.set_title("total loss" if key == "loss" else key.removeprefix("loss_"), loc="left", fontsize=11)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        panel.tick_params(labelbottom=True)
        values = training[1] + evaluation[1]
        if min(values) > 0 and max(values) > 50 * min(values):
            panel.set_yscale("log")
        panel.set_xlabel("step")
        _tidy(panel)
    for panel in panels[len(series) :]:
        panel.remove()
    _legend_above(figure, panels[0], 2)
    return figure


def put_title(figure: Figure, title: str) -> None:
    """A heading above everything, in as many lines as the figure's width asks for.

    The title of axes would be cut at the figure's edge, and its width would push the colour bar out of place.
    """
    if title:
        letters = int(figure.get_figwidth() / 0.09)  # of 11 points
        figure.suptitle(textwrap.fill(title, letters), x=0.02, ha="left", fontsize=11)


def is_dark(rgba: Sequence[float]) -> bool:
    """Whether text on this colour (components in [0, 1]) must be white."""
    red, green, blue, _ = rgba
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.45


def _series(log_history: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    points = [(entry["step"], entry[key]) for entry in log_history if key in entry and math.isfinite(entry[key])]
    return [step for step, _ in points], [value for _, value in points]


def _group(reports: Reports) -> dict[str, list[RobustnessScores]]:
    models = {name: list(group) if isinstance(group, Sequence) else [group] for name, group in reports.items()}
    if not models or not all(models.values()):
        raise ValueError("There is no report to plot, or a model without one.")
    return models


def _score(group: list[RobustnessScores], condition: "Condition", metric: str) -> Score:
    """One report: its score over noise seeds. Several: the score over training seeds of their means."""
    missing = [condition for report in group if metric not in report.scores.get(condition, {})]
    if missing:
        raise ValueError(f"A report has no {metric!r} under {condition.label()!r}; evaluate all with equal settings.")
    if len(group) == 1:
        return group[0].scores[condition][metric]
    first = group[0].scores[condition][metric]
    return type(first)(tuple(report.scores[condition][metric].mean for report in group))


def _curve(group: list[RobustnessScores], modality: str, metric: str | None) -> tuple[list[float], list[Score]]:
    if len(group) == 1:
        return group[0].curve(modality, metric)
    metric = metric or group[0].settings.primary_metric
    conditions = [c for c in group[0].scores if (c.kind, c.modality) == ("missing", modality)]
    conditions.sort(key=lambda condition: condition.level)
    return [c.level for c in conditions], [_score(group, c, metric) for c in conditions]


def _draw_bars(axes: Axes, models: Mapping[str, list[RobustnessScores]], metric: str | None) -> None:
    first = next(iter(models.values()))[0]
    conditions = first.table_conditions()
    metric = metric or first.settings.primary_metric
    width, upright = 0.84 / len(models), len(models) > 4
    lows, highs = [], []
    for place, (name, group) in enumerate(models.items()):
        scores = [_score(group, condition, metric) for condition in conditions]
        means = np.array([score.mean for score in scores])
        errors = np.nan_to_num([score.std for score in scores])
        positions = np.arange(len(conditions)) + (place - (len(models) - 1) / 2) * width
        colours = COLOURS[place % len(COLOURS)]
        axes.bar(
            positions, means, width * 0.94, yerr=np.where(errors > 0, errors, np.nan), label=name, color=colours,
            capsize=2.5, ecolor="black", error_kw={"elinewidth": 1.0},
        )  # fmt: skip
        lows.extend(means - errors)
        highs.extend(means + errors)
        for x, mean, error in zip(positions, means, errors, strict=True):
            side = -1 if mean < 0 else 1
            axes.annotate(
                format_score(mean), (x, mean + side * error), xytext=(0, 4 * side), textcoords="offset points",
                ha="center", va="bottom" if side > 0 else "top", fontsize=8, color=_GREY, rotation=90 * upright,
            )  # fmt: skip
    axes.set_xticks(range(len(conditions)), [_tick(condition) for condition in conditions])
    axes.set_ylim(*_bar_limits(lows, highs, room=0.22 if upright else 0.12))
    axes.set_ylabel(_axis_label(models, metric))
    axes.axhline(0, color="black", linewidth=0.8)
    _tidy(axes)
    axes.tick_params(axis="x", length=0)
    if len(models) > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(models), 4), frameon=False, borderaxespad=0.3
        )


def _dots(models: Mapping[str, list[RobustnessScores]], metric: str | None) -> Figure:
    first = next(iter(models.values()))[0]
    conditions = first.table_conditions()
    metric, label = metric or first.settings.primary_metric, _axis_label(models, metric)
    columns = min(6, len(conditions))
    lines = math.ceil(len(conditions) / columns)
    size = (1.5 + 0.07 * max(map(len, models)) + 1.8 * columns, lines * (0.9 + 0.21 * len(models)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    places = np.arange(len(models))
    for panel, condition in zip(panels, conditions, strict=False):
        scores = [_score(group, condition, metric) for group in models.values()]
        means, errors = np.array([score.mean for score in scores]), np.nan_to_num([score.std for score in scores])
        panel.axvline(means[0], color=_GREY, linewidth=0.9, linestyle="--")
        panel.errorbar(means, places, xerr=errors, fmt="o", color=COLOURS[0], markersize=4, elinewidth=1.0)
        panel.set_title(condition.label(), loc="left", fontsize=10)
        panel.set_xlabel(label)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=4))
        panel.grid(axis="both", color="#dddddd", linewidth=0.7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(conditions) :]:
        panel.remove()
    panels[0].set_yticks(places, list(models))
    panels[0].set_ylim(len(models) - 0.5, -0.5)
    return figure


def _tick(condition: Condition) -> str:
    """A condition in narrow lines; `salt-pepper` in one would run into its neighbours."""
    modality, *rest = condition.parts
    return "\n".join([modality, *(part.replace("-", "-\n") for part in rest)])


def _draw_curves(axes: Axes, lines: Mapping[str, tuple[list[float], list[Score]]]) -> None:
    for place, (name, (ratios, scores)) in enumerate(lines.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        means = np.array([score.mean for score in scores])
        spread = np.nan_to_num([score.std for score in scores])
        axes.fill_between(ratios, means - spread, means + spread, color=colour, alpha=0.18, linewidth=0)
        axes.plot(ratios, means, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=name)
    axes.set_xlabel("share of samples that miss it")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    _tidy(axes)


def _bar_limits(lows: Sequence[float], highs: Sequence[float], room: float) -> tuple[float, float]:
    """Bars start at 0, so that their lengths compare; there is room for the numbers above them."""
    bottom, top = min(0.0, np.nanmin(lows)), max(0.0, np.nanmax(highs))
    height = (top - bottom) or 1.0
    return bottom - (room * height if bottom < 0 else 0), top + room * height


def _axis_label(models: Mapping[str, list[RobustnessScores]], metric: str | None) -> str:
    settings = next(iter(models.values()))[0].settings
    metric = metric or settings.primary_metric
    return metric_label(metric, settings.greater_is_better if metric == settings.primary_metric else None)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)


def _legend_above(figure: Figure, axes: Axes, entries: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(entries, 4), frameon=False)
