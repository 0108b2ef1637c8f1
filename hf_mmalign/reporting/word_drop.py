"""Translation against the share of unknown words of the source (Figure 6 of the Auto-Fusion paper)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..evaluation.scores import Score
from .plots import COLOURS, MARKERS, put_title
from .tables import metric_label


def plot_word_drop(
    probabilities: Sequence[float], curves: Mapping[str, Sequence[Score]], metric: str = "bleu", title: str = ""
) -> Figure:
    """A line per model: its score for every probability that a word of the source is unknown to it.

    Args:
        probabilities (`Sequence[float]`): From 0 to 1.
        curves (`Mapping[str, Sequence[Score]]`): By the model's name, a score for each probability; of several values, the
            training seeds, the line is the mean and the band the standard deviation.
        metric (`str`, *optional*, defaults to `"bleu"`): What the score is called.
        title (`str`, *optional*): Heading.

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError("There is no curve to plot.")
    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, scores) in enumerate(curves.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        means = np.array([score.mean for score in scores])
        axes.plot(probabilities, means, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=name)
        if len(scores[0].values) > 1:
            spread = np.array([score.std for score in scores])
            axes.fill_between(probabilities, means - spread, means + spread, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel("probability that a word of the source is unknown")
    axes.set_ylabel(metric_label(metric, True))
    highest = max(np.nansum([score.mean, score.std]) for scores in curves.values() for score in scores)
    axes.set_ylim(0, 1.05 * highest or 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    runs = max(len(scores[0].values) for scores in curves.values())
    spread = f"mean ± standard deviation of up to {runs} training seeds" if runs > 1 else ""
    put_title(figure, ": ".join(text for text in (title, spread) if text))
    return figure
