"""What each modality contributes in training, beside what is predicted (Figure 4 of the CAL paper)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluation.metric_names import GREATER_IS_BETTER
from .plots import COLOURS, MARKERS, put_title
from .tables import metric_label

Log = Sequence[Mapping[str, float]]
Curves = dict[str, tuple[np.ndarray, np.ndarray]]

_FUSED = "all modalities"
_BLACK = "#000000"
_MEASURES = {"contribution": "contribution W", "coefficient": "coefficient a"}


def plot_contributions(logs: Sequence[Log], modalities: Sequence[str], metric: str, title: str = "") -> Figure:
    """The score of all modalities and of each alone over the epochs, and below it the contribution of each and the
    coefficient that follows.

    Alone, a modality has the validation score of its own head, or else, without such heads, the P in [0, 1] that
    modulation measures on the training samples. Several logs are training seeds: lines are then means over them, bands the
    standard deviation, as far as all logs go.

    Args:
        logs (`Sequence[Sequence[Mapping[str, float]]]`): `log_history` of each run, with the values of
            [`~trainer.modulation.Modulation`].
        modalities (`Sequence[str]`): Their names.
        metric (`str`): The score, as it is called without `eval_`.
        title (`str`, *optional*): Heading.

    Raises:
        ValueError: If there is no log, or one holds neither contributions nor coefficients, or no score.
    """
    if not logs:
        raise ValueError("There is no log to plot.")
    scores = curves_of(logs, {_FUSED: f"eval_{metric}"})
    if not scores:
        raise ValueError(f"A log has no eval_{metric}: was there an eval_strategy?")
    alone = curves_of(logs, {name: f"eval_{metric}_{name}" for name in modalities})
    heading = f"{metric_label(metric, GREATER_IS_BETTER.get(metric))}, validation"
    panels = [(heading, scores | alone)]
    if not alone:
        performance = curves_of(logs, {name: f"performance_{name}" for name in modalities})
        panels += [("each alone, training", performance)] if performance else []
    measures = {
        label: curves_of(logs, {name: f"{key}_{name}" for name in modalities}) for key, label in _MEASURES.items()
    }
    if not any(measures.values()):
        raise ValueError("A log has no contribution and no coefficient of a modality: was there a gradient_modulation?")
    panels += [(label, curves) for label, curves in measures.items() if curves]
    figure = Figure(figsize=(6.6, 0.9 + 2.2 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(all_axes, panels, strict=True):
        for name, curve in curves.items():
            place = None if name == _FUSED else list(modalities).index(name)
            draw_curve(axes, name, curve, place, held=label != heading)
        axes.set_title(label, loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
    all_axes[-1].set_xlabel("epoch")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    all_axes[-1].set_xlim(left=0)
    entries = {line.get_label(): line for axes in all_axes[::-1] for line in axes.lines}
    entries = {name: entries[name] for name in (_FUSED, *modalities) if name in entries}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False)
    spread = f"mean ± standard deviation of {len(logs)} runs" if len(logs) > 1 else ""
    put_title(figure, ": ".join(text for text in (title, spread) if text))
    return figure


def draw_curve(
    axes: Axes, name: str, curve: tuple[np.ndarray, np.ndarray], place: int | None, held: bool = False
) -> None:
    """Draw one of :func:`curves_of`: the mean, and the standard deviation of several runs.

    Args:
        axes (`Axes`): Where.
        name (`str`): For the legend.
        curve (`tuple[np.ndarray, np.ndarray]`): Epochs and values.
        place (`int`, *optional*): Of the modality among all, for its colour; black is for what is made of all of them.
        held (`bool`, *optional*): Whether a value holds until the next one.
    """
    epochs, values = curve
    place = -1 if place is None else place % (len(COLOURS) - 1)
    colour, mean = _BLACK if place == -1 else COLOURS[place], values.mean(axis=0)
    # What modulation measured holds until it measures again.
    look = {"drawstyle": "steps-post"} if held else {"marker": MARKERS[place], "markersize": 4}
    axes.plot(epochs, mean, color=colour, linewidth=1.6, label=name, **look)
    if len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        step = "post" if held else None
        axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0, step=step)


def curves_of(logs: Sequence[Log], keys: Mapping[str, str]) -> Curves:
    """By name, epochs `(E,)` and values `(runs, E)`; without those that a log lacks."""
    found = {}
    for name, key in keys.items():
        series = [
            {entry["epoch"]: entry[key] for entry in log if math.isfinite(entry.get(key, math.nan))} for log in logs
        ]
        epochs = sorted(set(series[0]).intersection(*series[1:]))
        if epochs:
            found[name] = np.array(epochs), np.array([[run[epoch] for epoch in epochs] for run in series])
    return found
