"""What a training's instruments logged: the losses' shares of the gradient, WMA's distance, and the tokens' cosines."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .contributions import curves_of
from .plots import COLOURS, MARKERS, put_title

Log = Sequence[Mapping[str, float]]

_SHARED = "shared"


def plot_instruments(logs: Sequence[Log], modalities: Sequence[str], title: str = "") -> Figure:
    """A panel for whatever was measured: the shares of the loss terms in the gradient, and their cosines with the task's,
    for each modality's own parameters and for those of all; the distances that WMA holds, with its targets; the cosines
    between tokens.

    Several logs are training seeds: lines are then means over them, bands the standard deviation, as far as all logs go.

    Args:
        logs (`Sequence[Sequence[Mapping[str, float]]]`): `log_history` of each run, with the values of
            [`~trainer.gradient_shares.GradientShares`], [`~trainer.token_geometry.TokenGeometry`] or WMA.
        modalities (`Sequence[str]`): Their names.
        title (`str`, *optional*): Heading.

    Raises:
        ValueError: If there is no log, or one holds nothing of the kind.
    """
    if not logs:
        raise ValueError("There is no log to plot.")
    keys = dict.fromkeys(key for log in logs for entry in log for key in entry)
    panels = _gradient_panels(keys, modalities) | _distance_panels(keys, modalities) | _cosine_panels(keys, modalities)
    curves = {heading: curves_of(logs, lines) for heading, lines in panels.items()}
    curves = {heading: found for heading, found in curves.items() if found}
    if not curves:
        raise ValueError(
            "A log has nothing of an instrument: train with log_gradient_shares or log_token_geometry, or with WMA."
        )
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(0.6 + 4.4 * columns, 0.7 + 3.2 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (heading, found) in zip(all_axes, curves.items(), strict=False):
        _draw(axes, heading, found)
    for axes in all_axes[len(curves) :]:
        axes.remove()
    spread = f"mean ± standard deviation of {len(logs)} runs" if len(logs) > 1 else ""
    put_title(figure, ": ".join(text for text in (title, spread) if text))
    return figure


def _gradient_panels(keys: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, dict[str, str]]:
    panels = {}
    for kind, heading in (("share", "share of the gradient"), ("cosine", "cosine with the task's gradient")):
        # The longest name first, where one is another's end.
        for owner in sorted((*modalities, _SHARED), key=len, reverse=True):
            start, end = f"gradient_{kind}_", f"_{owner}"
            taken = {line for lines in panels.values() for line in lines.values()}
            lines = {
                key[len(start) : -len(end)]: key
                for key in keys
                if key.startswith(start) and key.endswith(end) and key not in taken
            }
            panels[f"{heading}, {owner}"] = lines
    order = [f"{heading}, {owner}" for heading in _headings(panels) for owner in (*modalities, _SHARED)]
    return {heading: panels[heading] for heading in order}


def _headings(panels: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(heading.rsplit(", ", 1)[0] for heading in panels))


def _distance_panels(keys: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, dict[str, str]]:
    panels = {}
    for one, other in itertools.combinations(modalities, 2):
        named = {"distance D": "distance", "target β·D̄": "target", "drift D − D̄": "drift"}
        lines = {name: f"wma_{what}_{one}_{other}" for name, what in named.items()}
        panels[f"WMA, {one} – {other}"] = {name: line for name, line in lines.items() if line in keys}
    return panels


def _cosine_panels(keys: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, dict[str, str]]:
    lines = {f"within {name}": f"cosine_within_{name}" for name in modalities}
    for one, other in itertools.combinations(modalities, 2):
        lines |= {f"{what} {one} – {other}": f"cosine_{what}_{one}_{other}" for what in ("between", "mismatched")}
    return {"mean cosine between tokens": {name: line for name, line in lines.items() if line in keys}}


def _draw(axes: Axes, heading: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for place, (name, (epochs, values)) in enumerate(curves.items()):
        colour, mean = COLOURS[place % len(COLOURS)], values.mean(axis=0)
        dots = {"marker": MARKERS[place % len(MARKERS)], "markersize": 4} if len(epochs) <= 20 else {}
        dashes = "-" if place < len(COLOURS) else "--"
        axes.plot(epochs, mean, dashes, color=colour, linewidth=1.5, label=name, **dots)
        if len(values) > 1:
            spread = values.std(axis=0, ddof=1)
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axes.set_title(heading, loc="left", fontsize=11)
    if heading.startswith("share"):
        axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("epoch")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8)
